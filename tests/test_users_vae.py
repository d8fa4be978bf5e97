"""The user's VAE is never written to: whatever happens in a fit, and wherever in it."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management as management
import nodes as host_nodes
import pytest
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from faults import Crash, Fault
from test_decoder_tails import latent, vae_of
from test_reconstruction import fingerprint
from torch import Tensor
from torch.nn.modules.module import register_module_forward_pre_hook

from blended_latent_diffusion.bld import reconstruction
from blended_latent_diffusion.bridge.comfy_internals import out_of_memory
from blended_latent_diffusion.bridge.vae.tails import tail_of
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct

FIT = {"iterations": 2, "learning_rate": 1e-3, "background_weight": 100.0}
METHODS = {
    "decoder weights": {**FIT, "surroundings": 8, "background_target": 200.0, "memory_budget": 0.0},
    "latent": FIT,
    "auto": {"target_background": 200.0, "target_seam": 0.0, "memory_budget": 0.0},
}

# Latent cells a side: so many that a plan which decodes only the mask's surroundings needs less.
LARGE = 40


def run(vae, method: str = "decoder weights", cells: int = 6, **options) -> tuple:
    side = 8 * cells
    image, mask = torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(3)), torch.zeros(1, side, side)
    mask[:, 16:32, 16:32] = 1
    with torch.inference_mode():
        return DecoderFinetuneReconstruct.execute({"samples": latent("sd", cells)}, vae, image, mask, {"method": method, **METHODS[method], **options}).args


def drawn(vae) -> Tensor:
    with torch.inference_mode():
        return host_nodes.VAEDecode().decode(vae, {"samples": latent("sd", 6)})[0]


class Watched:
    """A VAE, and what it was."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.vae = vae_of("sd")
        with torch.inference_mode():
            self.vae.first_stage_model.to(dtype)
        self.vae.vae_dtype = dtype
        self.picture, self.print = drawn(self.vae), fingerprint(self.vae)
        self.fields = {name: value for name, value in vars(self.vae).items() if name != "size"}

    def check(self) -> None:
        """Nothing is left of what happened, neither in it nor in the process."""
        assert fingerprint(self.vae) == self.print and torch.equal(drawn(self.vae), self.picture)
        assert {name: value for name, value in vars(self.vae).items() if name != "size"} == self.fields
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
        assert not management.in_training


def calls_of(action: Callable[[], object]) -> int:
    """How many modules run in it."""
    count = []
    handle = register_module_forward_pre_hook(lambda *_: count.append(1))
    try:
        action()
    finally:
        handle.remove()
    return len(count)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_success_leaves_it_alone_and_the_tuned_copy_is_of_its_kind(method, dtype):
    watched = Watched(dtype)
    picture, tuned, _ = run(watched.vae, method)
    watched.check()
    assert torch.isfinite(picture).all()
    if method == "decoder weights":
        assert tuned is not watched.vae and tuned.vae_dtype == dtype and tuned.device == watched.vae.device
        assert {p.dtype for p in tuned.first_stage_model.parameters()} == {dtype}
        assert tuned.patcher.loaded_size() == tuned.patcher.model_size() == tuned.model_size() == management.module_size(watched.vae.first_stage_model)
        assert fingerprint(tuned) != watched.print and not torch.equal(drawn(tuned), watched.picture)
    watched.check()


def test_the_tuned_copy_has_weights_of_its_own_only_where_it_was_tuned():
    """Moving it, loading it in other types or tuning it again changes nothing for the user."""
    watched = Watched()
    tuned = run(watched.vae)[1]
    theirs = {weight.data_ptr() for weight in watched.vae.first_stage_model.parameters()}
    own = [weight for weight in tuned.first_stage_model.parameters() if weight.data_ptr() not in theirs]
    tail = list(tail_of(tuned).modules.parameters())
    assert {id(weight) for weight in own} == {id(weight) for weight in tail} and len(own) < len(theirs) / 2
    picture = drawn(tuned)
    again = run(tuned)[1]
    assert torch.equal(drawn(tuned), picture) and not torch.equal(drawn(again), picture)
    with torch.inference_mode():
        tuned.first_stage_model.to(torch.float64)
        again.first_stage_model.to("meta")
    watched.check()


@pytest.mark.parametrize("method", ["decoder weights", "latent"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.4, 0.55, 0.7, 0.85, 0.99])
def test_cancel_anywhere_leaves_it_alone(share, method):
    """The user's click only sets a flag. It is looked at in the measuring, the decode, a step, its backward pass, the last decode."""
    watched, other = Watched(), Watched()
    last, count = int(share * calls_of(lambda: run(other.vae, method))), []

    def cancel(*_) -> None:
        count.append(1)
        if len(count) == last + 1:
            management.interrupt_current_processing()

    handle = register_module_forward_pre_hook(cancel)
    try:
        with pytest.raises(management.InterruptProcessingException):
            run(watched.vae, method)
    finally:
        handle.remove()
    assert len(count) < last + 20, "it goes on for some layers at most"
    watched.check()


@pytest.mark.parametrize("method", ["decoder weights", "latent"])
@pytest.mark.parametrize("error", [Crash, torch.OutOfMemoryError])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 0.99])
def test_a_fault_in_any_backward_pass_leaves_it_alone(method, error, share):
    """In the measuring of memory as well as in each step."""
    watched, other = Watched(), Watched()
    with Fault() as sound:
        run(other.vae, method)
    number = int(share * sound.count)
    with Fault(number, error), pytest.raises(error, match="inside backward"):
        run(watched.vae, method)
    watched.check()


def test_memory_that_runs_out_when_the_source_is_encoded_is_stepped_down_from(monkeypatch):
    """The first two pictures that are encoded are small, to measure memory. Then comes the whole source, then what lies near the mask."""
    watched, real, sides = Watched(), AutoencoderKL.encode, []

    def run_out(self, x):
        sides.append(x.shape[-1])
        if len(sides) == 3:
            raise torch.OutOfMemoryError("no more")
        return real(self, x)

    monkeypatch.setattr(AutoencoderKL, "encode", run_out)
    picture, _, report = run(watched.vae, cells=LARGE)
    assert sides[2] == 8 * LARGE > sides[3] and torch.isfinite(picture).all()
    assert "Memory ran out, so the fit started again with a plan that needs less." in report
    watched.check()


def test_memory_that_never_suffices_is_an_error_that_leaves_it_alone(monkeypatch):
    watched, seen, attempts, look, tune = Watched(), [], [], reconstruction.look_at, reconstruction.tune_decoder

    def look_at(decode, tail, z, *rest):
        seen.append(z.shape)
        return look(decode, tail, z, *rest)

    def tune_decoder(tail, found, settings, work, on_step):
        attempts.append((seen[-1], work))
        return tune(tail, found, settings, work, on_step)

    monkeypatch.setattr(reconstruction, "look_at", look_at)
    monkeypatch.setattr(reconstruction, "tune_decoder", tune_decoder)
    with Fault() as sound:
        run(Watched().vae, cells=LARGE)
    attempts.clear()
    with Fault(sound.count - 1, torch.OutOfMemoryError), pytest.raises(torch.OutOfMemoryError):
        run(watched.vae, cells=LARGE)
    assert len(attempts) > 1 and len(set(attempts)) == len(attempts), "each attempt was another"
    watched.check()


def test_that_memory_ran_out_is_known_of_the_cpu_too():
    with pytest.raises(RuntimeError) as real:
        torch.empty(1 << 60)
    assert out_of_memory(real.value) and not out_of_memory(Crash("something else"))
