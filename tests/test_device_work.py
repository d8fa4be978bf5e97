"""What the pack adds to each model call: a few operations, none of which waits for the device."""

from __future__ import annotations

from collections.abc import Callable

import comfy.k_diffusion.sampling as k_diffusion
import comfy.patcher_extension
import nodes as host_nodes
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from blended_latent_diffusion.nodes.apply_mask_schedule import ApplyMaskSchedule
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from conftest import Edit

# The device is asked for numbers, and the program waits for them. In inference mode float(x) is seen as item.
WAITS = {"aten::item", "aten::_local_scalar_dense", "aten::is_nonzero", "aten::equal", "aten::nonzero", "aten::masked_select"}
# The same without an operation that a CPU would show.
FETCHES = ("cpu", "tolist", "numpy")
STEPS, SETTINGS = 6, (6, 4.0, "euler", "normal")


class Operations(TorchDispatchMode):
    """The names of all operations inside, but for those of the model."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self.counting = False

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.name().split(".")[0]
        if name == "aten::index" and any(index is not None and index.dtype == torch.bool for index in args[1]):
            name = "aten::nonzero"  # where the mask is on must be known first
        self.note(name)
        return operation(*args, **(kwargs or {}))

    def note(self, name: str) -> None:
        if self.counting:
            self.calls[-1].append(name)

    def fetching(self, fetch: Callable) -> Callable:
        def noted(*args, **kwargs):
            self.note("aten::item")
            return fetch(*args, **kwargs)

        return noted

    def of_call(self, function: Callable) -> Callable:
        def counted(*args, **kwargs):
            self.calls.append([])
            self.counting = True
            try:
                return function(*args, **kwargs)
            finally:
                self.counting = False

        return counted

    def not_of(self, executor, *args, **kwargs):
        self.counting = False
        out = executor(*args, **kwargs)
        self.counting = True
        return out


def operations(edit: Edit, monkeypatch, run: Callable[..., object], model=None) -> list[list[str]]:
    """The operations of each model call of run(model), from the sampler's call to the model's own and back."""
    seen = Operations()
    counted = (model or edit.model).clone()
    counted.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "count", seen.not_of)
    euler = k_diffusion.sample_euler
    with monkeypatch.context() as patched, torch.inference_mode(), seen:
        for name in FETCHES:
            patched.setattr(torch.Tensor, name, seen.fetching(getattr(torch.Tensor, name)))
        patched.setattr(k_diffusion, "sample_euler", lambda model, *args, **kwargs: euler(seen.of_call(model), *args, **kwargs))
        run(counted)
    assert len(seen.calls) == STEPS and min(map(len, seen.calls)) > 5
    return seen.calls


@pytest.fixture
def latent(edit: Edit) -> dict:
    return LatentMaskResize.execute(edit.mask, edit.latent).args[1]


@pytest.fixture
def schedule(edit: Edit):
    return ProgressiveMaskDilate.execute(LatentMaskResize.execute(edit.mask, edit.latent).args[0], soft_edge=2).args[0]


def by_the_host(edit: Edit, latent: dict) -> Callable:
    return lambda model: host_nodes.KSampler().sample(model, 1, *SETTINGS, edit.positive, edit.negative, latent)


@pytest.mark.parametrize("noise", ["every step", "fixed"])
def test_the_sampler_adds_ten_operations_to_the_hosts_and_never_waits(edit, monkeypatch, latent, schedule, noise):
    def ours(model):
        options = {"mask_schedule": schedule, "candidates": 2, "background_noise": noise}
        BlendedLatentKSampler.execute(model, 1, *SETTINGS, edit.positive, edit.negative, edit.latent, **options)

    host = operations(edit, monkeypatch, by_the_host(edit, latent))
    for theirs, call in zip(host, operations(edit, monkeypatch, ours), strict=True):
        assert len(call) - len(theirs) <= 10, call
        assert WAITS.isdisjoint(call)


def test_a_patched_model_adds_no_more_to_the_hosts_ksampler(edit, monkeypatch, latent, schedule):
    host = operations(edit, monkeypatch, by_the_host(edit, latent))
    patched = ApplyMaskSchedule.execute(edit.model, schedule).args[0]
    for theirs, call in zip(host, operations(edit, monkeypatch, by_the_host(edit, latent), patched), strict=True):
        assert len(call) - len(theirs) <= 10, call
        assert WAITS.isdisjoint(call)


@pytest.mark.parametrize(
    "ask",
    [lambda x: float(x.sum()), lambda x: bool((x > 0).any()), lambda x: x[x > 0], lambda x: x.cpu(), lambda x: x.sum().tolist(), lambda x: torch.equal(x, x)],
    ids=["float", "bool", "index", "cpu", "tolist", "equal"],
)
def test_what_waits_is_seen(edit, monkeypatch, latent, ask):
    waiting = edit.model.clone()
    waiting.set_model_denoise_mask_function(lambda sigma, mask, extra_options: (ask(mask), mask)[1])
    for call in operations(edit, monkeypatch, by_the_host(edit, latent), waiting):
        assert not WAITS.isdisjoint(call), call
