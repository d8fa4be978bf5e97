"""What the model is given has the noise that it is told, also where the mask is soft: in real runs, with a model that knows the answer."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
import comfy.samplers
import comfy_extras.nodes_mask as host_mask
import pytest
import torch
from families import load
from torch import Tensor

from blended_latent_diffusion.bld.blending import fresh_noise_gain
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate

MODELS = ("SD1.5", "SD2.1 v", "Flux")
CANDIDATES = 256


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def blob() -> Tensor:
    """A mask for a latent of 12x16, at eight times its size: a box with round corners and a wedge that ends in a point."""
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    box = ((x - 44).abs().clamp(min=20) - 20) ** 2 + ((y - 52).abs().clamp(min=20) - 20) ** 2 < 14**2
    return (box | (((y - 52).abs() < (118 - x) / 4) & (x > 70))).float()[None]


def at_latent_size(mask: Tensor, mode: str) -> Tensor:
    return LatentMaskResize.execute(mask, {"samples": torch.zeros(1, 4, 12, 16)}, mode=mode).args[0]


def feathered() -> Tensor:
    return host_mask.FeatherMask.execute(torch.ones(1, 96, 128), 48, 40, 48, 40).args[0]


MASKS = {
    "area": lambda: ProgressiveMaskDilate.execute(at_latent_size(blob(), "area")).args[0],
    "bilinear": lambda: ProgressiveMaskDilate.execute(at_latent_size(feathered(), "bilinear")).args[0],
    "feathered": lambda: ProgressiveMaskDilate.execute(at_latent_size(feathered(), "area")).args[0],
    "soft edge": lambda: ProgressiveMaskDilate.execute(at_latent_size(blob(), "max"), soft_edge=3).args[0],
    "half": lambda: ProgressiveMaskDilate.execute(torch.full((1, 12, 16), 0.5)).args[0],
}


def levels(name: str, sampler: str, mask: str, **options) -> list[tuple[Tensor, Tensor]]:
    """(m, the noise of the model's input in units of its level) at each call, both (B, C, h, w), of all candidates.

    The model predicts the source, so that all that its input has beside the source is noise.
    """
    loaded, schedule = load(name), MASKS[mask]()
    source = {"samples": torch.nn.functional.interpolate(loaded.latent["samples"][:1], size=(12, 16))}
    inner, seen, masks = loaded.model.model, [], []

    def predict(executor, model: Any, conditionings: list, x: Tensor, sigma: Tensor, options: dict) -> list[Tensor]:
        z = inner.process_latent_in(source["samples"]).to(x).expand_as(x)
        noising, level = inner.model_sampling.noise_scaling, sigma.reshape(-1, 1, 1, 1)
        seen.append((x - noising(level, torch.zeros_like(x), z)) / noising(level, torch.ones_like(x), torch.zeros_like(x)))
        return [z] * len(conditionings)

    def watch(sigma: Tensor, mask: Tensor, extra_options: dict) -> Tensor:
        masks.append(mask.clone())
        return mask

    model = loaded.model.clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.CALC_COND_BATCH, "predict", predict)
    model.set_model_denoise_mask_function(watch)
    settings = {"candidates": CANDIDATES, "chunk_size": CANDIDATES, "mask_schedule": schedule} | options
    BlendedLatentKSampler.execute(model, 3, 6, 1.0, sampler, "normal", loaded.positive, loaded.negative, source, **settings)
    # dpm_adaptive draws them one after the other, each in as many calls.
    calls = len(seen) * len(seen[0]) // settings["candidates"]
    pairs = [(mask.expand_as(noise), noise) for mask, noise in zip(masks, seen, strict=True)]
    return [tuple(map(torch.cat, zip(*pairs[call::calls], strict=True))) for call in range(calls)]


def worst(calls: list[tuple[Tensor, Tensor]]) -> float:
    """The largest distance of a call's noise level from 1, over the soft cells of each quarter of 0..1 that has enough of them to tell."""
    apart = [0.0]
    for mask, noise in calls:
        for low in (0.0, 0.25, 0.5, 0.75):
            part = noise[(mask > low) & (mask < 1) & (mask <= low + 0.25)]
            apart += [abs(float(part.square().mean().sqrt()) - 1)] if len(part) > 10_000 else []
    assert len(apart) > len(calls) / 2, "there are soft cells"
    return max(apart)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", MODELS)
def test_a_soft_mask_has_the_noise_of_its_level_at_every_call(name, mask):
    assert worst(levels(name, "euler", mask)) < 0.02


@pytest.mark.parametrize("sampler", ["dpm_2", "heun", "dpmpp_2m", "euler_ancestral", "dpmpp_sde", "uni_pc", "lcm"])
def test_so_it_has_with_samplers_of_every_kind(sampler):
    assert worst(levels("SD1.5", sampler, "feathered")) < 0.02


@pytest.mark.parametrize("sampler", [name for name in comfy.samplers.SAMPLER_NAMES if name.endswith("cfg_pp")])
def test_so_it_has_with_samplers_that_step_by_the_unguided_prediction(sampler):
    assert worst(levels("SD1.5", sampler, "feathered")) < 0.02


def test_so_it_has_with_a_sampler_that_chooses_its_levels():
    """At half the noise each, where they lack most; of fewer candidates, since each is drawn alone."""
    assert worst(levels("SD1.5", "dpm_adaptive", "half", candidates=24)) < 0.02


@pytest.mark.parametrize("options", [{"denoise": 0.6}, {"resample_steps": 2}])
def test_so_it_has_after_a_late_start_and_after_jumps_back(options):
    assert worst(levels("SD1.5", "euler", "feathered", **options)) < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_fixed_noise_has_its_level_without_help(name):
    assert worst(levels(name, "euler", "feathered", background_noise="fixed")) < 0.02


def test_the_gain_changes_nothing_where_the_mask_is_hard():
    m = torch.tensor([0.0, 0.5, 1.0])
    gain = fresh_noise_gain(m)
    assert gain[0] == 1 and (1 - m[2]) * gain[2] == 0
    assert float((0.5**2 + (0.5 * gain[1]) ** 2).sqrt()) == pytest.approx(1)
