"""How the memory is used: how many candidates at once, and which models stay loaded. The host's own figures and management, on made-up cards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import pytest
import torch
from families import FAMILIES

from blended_latent_diffusion.bridge.clip import models as clips
from blended_latent_diffusion.bridge.sampling.candidates import Helpers, plan
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.prune_candidates import PruneCandidates
from conftest import Edit

GIB = 1024**3


@pytest.fixture(autouse=True)
def as_in_a_workflow() -> Iterator[None]:
    """The host runs all nodes in inference mode."""
    with torch.inference_mode():
        yield


def of_size(name: str, gib: float, dynamic: bool = False, device: str = "cuda") -> Any:
    """A model with the host's figures for its family in half precision, and with weights of this size."""
    family = FAMILIES[name]
    config = family.config(family.sizes)
    config.unet_config |= family.fixed or {}
    config.set_inference_dtype(torch.bfloat16, None)
    patcher = comfy.model_patcher.ModelPatcher(config.get_model({}, device="cpu"), torch.device("cpu"), torch.device("cpu"), size=int(gib * GIB))
    patcher.load_device = torch.device(device)
    if dynamic:
        # The host makes one only with a card's driver.
        patcher.__class__ = comfy.model_patcher.ModelPatcherDynamic
    return patcher


def at_once(
    monkeypatch: pytest.MonkeyPatch,
    model: Any,
    shape: tuple[int, ...],
    free: float,
    state: str = "NORMAL_VRAM",
    cfg: float = 1.0,
    least_weights: float = 0.0,
) -> int:
    """How many of 64 candidates are sampled at once with so many GiB free, with the host's estimates for a card with flash attention."""
    monkeypatch.setattr(management, "get_free_memory", lambda dev=None, torch_free_too=False: free * GIB)
    monkeypatch.setattr(management, "pytorch_attention_flash_attention", lambda: True)
    monkeypatch.setattr(management, "current_loaded_models", [])
    monkeypatch.setattr(management, "vram_state", management.VRAMState[state])
    monkeypatch.setattr(management, "MIN_WEIGHT_MEMORY_RATIO", least_weights)
    return plan(model, torch.zeros(1, *shape), 64, cfg, 0, Helpers()).at_once


# Weights in GiB, latent of the model's own size, guidance.
SDXL = ("SDXL", 4.8, (4, 128, 128), 7.0)
FLUX = ("Flux", 22.2, (16, 128, 128), 1.0)
QWEN = ("Qwen-Image", 38.1, (16, 1, 166, 166), 2.5)


@pytest.mark.parametrize(
    "of, free, streamed, dynamic, resident",
    [
        (SDXL, 7.0, 2, 1, 2),
        (SDXL, 11.0, 8, 4, 8),
        (SDXL, 23.0, 32, 16, 32),
        (FLUX, 11.0, 8, 4, 1),
        (FLUX, 15.0, 8, 8, 1),
        (FLUX, 23.0, 16, 16, 1),
        (FLUX, 31.0, 8, 4, 8),
        (QWEN, 23.0, 8, 8, 1),
        (QWEN, 78.0, 16, 8, 16),
    ],
)
def test_so_many_are_sampled_at_once_on_a_card(monkeypatch, of, free, streamed, dynamic, resident):
    """As many as fit beside the weights. Where none does, as many as fit instead of them if the host streams the weights, else one."""
    name, gib, shape, cfg = of
    assert at_once(monkeypatch, of_size(name, gib), shape, free, cfg=cfg) == streamed
    assert at_once(monkeypatch, of_size(name, gib, dynamic=True), shape, free, cfg=cfg) == dynamic
    assert at_once(monkeypatch, of_size(name, gib), shape, free, "HIGH_VRAM", cfg) == resident


def test_a_card_that_must_keep_weights_has_less_room(monkeypatch):
    """The host gives at least two fifths of the free memory to the weights on cards that are not NVIDIA's."""
    assert at_once(monkeypatch, of_size("Flux", 22.2), FLUX[2], 23.0, least_weights=0.4) == 8


def test_a_cpu_samples_a_few_at_once(monkeypatch):
    assert at_once(monkeypatch, of_size("SDXL", 4.8, device="cpu"), SDXL[2], 1000.0, "DISABLED") == 8


@dataclass
class Card:
    """A made-up card in the host's hands.

    Attributes:
        memory: bytes for weights and work together.
        moves: the classes of the models that were loaded and unloaded, in order.
    """

    memory: float = 1e30
    moves: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def clip(demo_pack: Any) -> clips.OpenClip:
    return clips.load(clips.files()[0])


@pytest.fixture
def card(edit: Edit, clip: clips.OpenClip, monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    """The host's model management believes that its models run on a card beside the CPU."""
    made_up, device = Card(), torch.device("cpu", 0)
    management.cleanup_models()  # the host fails on entries of models that are gone
    management.unload_all_models()
    load, unload = management.LoadedModel.model_load, management.LoadedModel.model_unload

    def free(dev: Any = None, torch_free_too: bool = False) -> Any:
        left = made_up.memory - sum(one.model.loaded_size() for one in management.current_loaded_models)
        return (left, left) if torch_free_too else left

    def watched_load(self: Any, *args: Any, **options: Any) -> Any:
        before, result = self.model.loaded_size(), load(self, *args, **options)
        if self.model.loaded_size() > before:
            made_up.moves.append(f"+{type(self.model.model).__name__}")
        return result

    def watched_unload(self: Any, *args: Any, **options: Any) -> Any:
        made_up.moves.append(f"-{type(self.model.model).__name__}")
        return unload(self, *args, **options)

    monkeypatch.setattr(management, "get_free_memory", free)
    monkeypatch.setattr(management, "EXTRA_RESERVED_VRAM", 0)
    monkeypatch.setattr(management, "minimum_inference_memory", lambda: 0)
    monkeypatch.setattr(management.LoadedModel, "model_load", watched_load)
    monkeypatch.setattr(management.LoadedModel, "model_unload", watched_unload)
    for patcher in (edit.model, edit.vae.patcher, clip.patcher):
        monkeypatch.setattr(patcher, "load_device", device)
    yield made_up
    management.free_memory(1e30, device)


def draw(edit: Edit, **options: Any) -> dict:
    given = {"seed": 5, "model": edit.model, "latent_image": edit.latent, "positive": edit.positive, "negative": edit.negative, "mask": edit.mask}
    return BlendedLatentKSampler.execute(steps=4, cfg=4.0, sampler_name="ddim", scheduler="normal", candidates=8, **(given | options)).args[0]


def race_of(edit: Edit, clip: clips.OpenClip) -> Any:
    return PruneCandidates.execute(clip, edit.vae, "a fox", edit.mask, start=0.2, keep=0.5, rounds=2, interval=0.3).args[0]


def test_models_that_fit_together_are_loaded_once(edit, clip, card):
    """Blending in pixels in every step and two rounds of pruning. More than two at once would need the room of the VAE and CLIP."""
    race = race_of(edit, clip)
    weights = sum(one.model_size() for one in (edit.model, edit.vae.patcher, clip.patcher))
    encoding = edit.vae.memory_used_encode((1, 3, 128, 128), edit.vae.vae_dtype)
    work = max(edit.model.memory_required([2 * 2, 4, 16, 16]), race.helpers(edit.latent["samples"]).memory, encoding)
    card.memory = weights * 1.1 + work * 1.05
    out = draw(edit, pruning=race, pixel_blend=1.0, vae=edit.vae, pixels=edit.image)
    assert len(out["samples"]) == 2
    assert sorted(card.moves) == ["+AutoencoderKL", "+BaseModel", "+CLIP"]


def test_models_that_do_not_fit_together_take_turns(edit, clip, card):
    race = race_of(edit, clip)
    card.memory = edit.model.model_size() * 1.1 + race.helpers(edit.latent["samples"]).memory
    assert len(draw(edit, pruning=race)["samples"]) == 2
    took_turns = card.moves.count("-BaseModel")
    assert 1 <= took_turns <= 2 and card.moves.count("+BaseModel") == took_turns + 1, "once a round of pruning, not at every call"
