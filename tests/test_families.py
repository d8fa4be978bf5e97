"""Blended sampling on every family of models: tiny ones of the host's own classes, through the host's own sampling."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import comfy.nested_tensor
import comfy.patcher_extension
import nodes as host_nodes
import pytest
import torch
from families import FAMILIES, Loaded, load
from torch import Tensor

from blended_latent_diffusion.nodes.apply_mask_schedule import ApplyMaskSchedule
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate

SEED, STEPS, CFG = 5, 4, 2.0
VIDEO = [name for name, family in FAMILIES.items() if len(family.latent) == 4 and family.latent[1] > 1]
# Told a noise level for each cell, or for each frame.
LEVELS = ["LTX-Video", "Wan 2.2 5B", "Cosmos Predict2"]
CLEAN = [name for name, family in FAMILIES.items() if family.clean]
families = pytest.mark.parametrize("name", FAMILIES)


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As in a running workflow."""
    with torch.inference_mode():
        yield


def sample(loaded: Loaded, **options) -> dict:
    given = {
        "model": loaded.model, "seed": SEED, "steps": STEPS, "cfg": CFG, "sampler_name": "euler", "scheduler": "normal",
        "positive": loaded.positive, "negative": loaded.negative, "latent_image": first(loaded),
    } | options  # fmt: skip
    return BlendedLatentKSampler.execute(**given).args[0]


def first(loaded: Loaded) -> dict:
    """The first of the two sources alone."""
    return {"samples": loaded.latent["samples"][:1]}


def mask_of(loaded: Loaded, mirrored: bool = False) -> Tensor:
    """A stroke one latent pixel thin and a blob, (1, H, W) at the size of the picture."""
    *_, height, width = loaded.latent["samples"].shape
    ratio = loaded.model.get_model_object("latent_format").spacial_downscale_ratio
    unit = max(1, 8 // ratio)
    mask = torch.zeros(1, height // unit, width // unit)
    mask[:, 1, 1:-2] = 1
    mask[:, 2:4, 2:4] = 1
    side = unit * ratio
    return (mask.flip(-1, -2) if mirrored else mask).repeat_interleave(side, -1).repeat_interleave(side, -2)


def at_latent_size(loaded: Loaded, mask: Tensor) -> Tensor:
    """Where a latent pixel is reached, (B, h, w)."""
    height, width = loaded.latent["samples"].shape[-2:]
    return torch.nn.functional.adaptive_max_pool2d(mask, (height, width)) > 0


def shrinking(loaded: Loaded, mask: Tensor):
    small = LatentMaskResize.execute(mask, loaded.latent).args[0]
    return ProgressiveMaskDilate.execute(small, stages=2).args[0]


def check_edit(result: Tensor, source: Tensor, reached: Tensor) -> None:
    """Outside the mask the source, bit for bit; inside something else, and numbers everywhere.

    reached: (B, h, w), or (B, T, h, w) for the frames of a video.
    """
    assert result.shape == source.shape
    assert torch.isfinite(result).all()
    while reached.ndim < source.ndim:
        reached = reached[:, None]
    reached = reached.expand_as(source)
    assert torch.equal(result[~reached], source[~reached])
    changed = (result != source)[reached].float().mean()
    assert changed > 0.99, f"{changed:.0%} of the masked latent changed"


@families
def test_the_tiny_model_follows_prompt_and_noise(name):
    """Or every test below would pass on a model that ignores its input."""
    loaded = load(name)
    full = torch.ones_like(mask_of(loaded))
    result, other, noisier = (
        loaded.model.model.process_latent_in(sample(loaded, mask=full, **change)["samples"])
        for change in ({}, {"positive": loaded.negative}, {"seed": SEED + 1})
    )
    assert 0.1 < result.std() < 1000
    assert (result - other).abs().max() > 1e-2 * result.std()
    assert (result - noisier).abs().mean() > 0.1 * result.std()


@pytest.mark.promise("works-with-yours")
@families
@pytest.mark.parametrize("shrink", [False, True])
def test_the_background_is_exact_and_the_mask_is_edited(name, shrink):
    loaded = load(name)
    mask = mask_of(loaded)
    masks = {"mask_schedule": shrinking(loaded, mask)} if shrink else {"mask": mask}
    check_edit(sample(loaded, **masks)["samples"], loaded.latent["samples"][:1], at_latent_size(loaded, mask))


@families
def test_a_mask_for_each_source(name):
    loaded = load(name)
    masks = torch.cat([mask_of(loaded), mask_of(loaded, mirrored=True)])
    frames = loaded.latent["samples"].shape[2] if name in VIDEO else 1
    result = sample(loaded, latent_image=loaded.latent, mask=masks.repeat_interleave(frames, 0))["samples"]
    check_edit(result, loaded.latent["samples"], at_latent_size(loaded, masks))


@families
def test_candidates_share_the_background(name):
    loaded = load(name)
    mask = mask_of(loaded)
    result = sample(loaded, mask=mask, candidates=2)["samples"]
    check_edit(result, loaded.latent["samples"][:1].expand_as(result), at_latent_size(loaded, mask))
    assert not torch.equal(result[0], result[1])


def background_at_each_call(loaded: Loaded) -> list[tuple[Tensor, Tensor]]:
    """What the model saw at each call in the last two rows of the latent, which no mask reaches, and the noise level of the call."""
    seen = []

    def watch(executor, x, timestep, *args, **kwargs):
        seen.append((x[..., -2:, :].clone(), timestep.reshape(-1, *[1] * (x.ndim - 1))))
        return executor(x, timestep, *args, **kwargs)

    watched = loaded.model.clone()
    watched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "watch", watch)
    sample(loaded, model=watched, mask=mask_of(loaded))
    return seen


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in CLEAN])
def test_the_background_has_fresh_noise_at_every_step(name):
    loaded = load(name)
    source = loaded.model.model.process_latent_in(first(loaded)["samples"])[..., -2:, :]
    noising = loaded.model.model.model_sampling.noise_scaling
    noises = []
    for x, sigma in background_at_each_call(loaded):
        # The level's own mix of noise and source is linear in both.
        one = torch.ones_like(x)
        noises.append(((x - noising(sigma, 0 * one, source.to(x))) / noising(sigma, one, 0 * one)).flatten())
    assert len(noises) == STEPS
    assert all(abs(float(noise.std()) - 1) < 0.25 for noise in noises)
    likeness = torch.corrcoef(torch.stack(noises)) - torch.eye(STEPS, device=noises[0].device)
    assert likeness.abs().max() < 0.5


@pytest.mark.parametrize("name", CLEAN)
def test_a_model_that_wants_a_clean_background_sees_it(name):
    """These are trained on frames without noise beside frames with noise, and say so in `scale_latent_inpaint`."""
    loaded = load(name)
    source = loaded.model.model.process_latent_in(first(loaded)["samples"])[..., -2:, :]
    sampling = loaded.model.model.model_sampling
    seen = [sampling.calculate_input(sigma, x) for x, sigma in background_at_each_call(loaded)]
    assert len(seen) == STEPS
    gain = float(seen[0].std() / source.std())
    assert all(torch.allclose(x, gain * source.to(x), atol=1e-5 * gain, rtol=1e-4) for x in seen)


@pytest.mark.promise("videos")
@pytest.mark.parametrize("name", VIDEO)
def test_a_mask_for_each_frame_of_a_video(name):
    loaded = load(name)
    one, other = mask_of(loaded), mask_of(loaded, mirrored=True)
    frames = torch.cat([one, torch.zeros_like(one), other])
    reached = at_latent_size(loaded, frames)[None]
    check_edit(sample(loaded, mask=frames)["samples"], loaded.latent["samples"][:1], reached)
    check_edit(sample(loaded, mask_schedule=shrinking(loaded, frames))["samples"], loaded.latent["samples"][:1], reached)


def test_a_stroke_on_one_frame_of_the_video_reaches_its_latent_frame():
    """9 frames are 3 latent frames of 1, 4 and 4."""
    loaded = load("Wan 2.1")
    frames = torch.zeros(9, *mask_of(loaded).shape[1:])
    frames[7] = mask_of(loaded)
    reached = at_latent_size(loaded, torch.stack([frames[0], frames[1], frames[7]]))[None]
    check_edit(sample(loaded, mask=frames)["samples"], loaded.latent["samples"][:1], reached)


@families
def test_apply_mask_schedule_in_the_hosts_ksampler(name):
    """The host goes with the whole latent to the model's units and back, which rounds."""
    loaded = load(name)
    mask, source = mask_of(loaded), loaded.latent["samples"]
    patched = ApplyMaskSchedule.execute(loaded.model, shrinking(loaded, mask)).args[0]
    result = host_sample(patched, loaded, loaded.latent)
    units = loaded.model.model.process_latent_in
    exact = (units(result) - units(source)).abs() <= 1e-6
    check_edit(torch.where(exact, source, result), source, at_latent_size(loaded, mask))


def host_sample(model, loaded: Loaded, latent: dict) -> Tensor:
    return host_nodes.KSampler().sample(model, SEED, STEPS, CFG, "euler", "normal", loaded.positive, loaded.negative, latent, 1.0)[0]["samples"]


def inputs_beside(loaded: Loaded, **options) -> list[Tensor]:
    """The channels that the model gets beside the latent at each call, the prompt's half of the batch."""
    told = []

    def watch(executor, x, t, c_concat=None, *args, **kwargs):
        told.append(c_concat.chunk(2)[0].clone())
        return executor(x, t, c_concat, *args, **kwargs)

    watched = loaded.model.clone()
    watched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "watch", watch)
    sample(loaded, model=watched, **options)
    assert len(told) == STEPS
    return told


@pytest.mark.promise("inpaint-checkpoint")
def test_an_inpaint_checkpoint_is_told_the_mask_of_the_result():
    """The host bakes the mask into the model's input once. The thin one fits: what the picture beside it shows stays outside it."""
    loaded = load("SD1.5 inpaint")
    masks = torch.cat([mask_of(loaded), mask_of(loaded, mirrored=True)])
    options = {"latent_image": loaded.latent, "mask_schedule": shrinking(loaded, masks), "candidates": 2}
    thin = at_latent_size(loaded, masks).float()[[0, 0, 1, 1]]
    source = loaded.model.model.process_latent_in(loaded.latent["samples"])[[0, 0, 1, 1]]
    for told in inputs_beside(loaded, **options):
        assert torch.equal(told[:, 0].cpu(), thin)
        assert torch.allclose(told[:, 1:].cpu(), source)


def noised_and_told(loaded: Loaded, run: Callable[[Any], object]) -> list[tuple[Tensor, Tensor]]:
    """For each call of run(model): which cells of the first latent are not the clean source, and the noise level that each is told, (T, h, w)."""
    source, seen = loaded.model.model.process_latent_in(first(loaded)["samples"])[0], []

    def watch(executor, x, timestep, *args, **kwargs):
        told = timestep[0].reshape(-1)
        cells = x[0, 0].numel()
        told = told.repeat_interleave(cells // len(told)).reshape(x.shape[2:])
        seen.append(((x[0] - source.to(x)).abs().amax(0) > 1e-4, told))
        return executor(x, timestep, *args, **kwargs)

    watched = loaded.model.clone()
    watched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "watch", watch)
    run(watched)
    return seen


@pytest.mark.parametrize("sampler", ["ours", "the host's"])
@pytest.mark.parametrize("name", LEVELS)
def test_a_model_with_a_level_for_each_part_is_told_what_is_noised_at_every_stage(name, sampler):
    loaded = load(name)
    mask = mask_of(loaded)
    if name in VIDEO:
        mask = torch.cat([mask, torch.zeros_like(mask), mask_of(loaded, mirrored=True)])
    schedule = shrinking(loaded, mask)

    def ours(model) -> None:
        sample(loaded, model=model, mask_schedule=schedule)

    def hosts(model) -> None:
        host_sample(ApplyMaskSchedule.execute(model, schedule).args[0], loaded, first(loaded))

    calls = noised_and_told(loaded, ours if sampler == "ours" else hosts)
    assert len(calls) == STEPS
    for noised, told in calls:
        assert torch.equal(noised, told > 0)
        assert told[noised].min() == told.max() > 0, "the level of the call, not a share of it"
    sizes = [int(noised.sum()) for noised, _ in calls]
    if name == "LTX-Video":
        assert sizes[0] > sizes[-1] == int(at_latent_size(loaded, mask).sum()), "the mask shrinks"
    elif name in VIDEO:
        assert sizes == [calls[0][0][0].numel() * 2] * STEPS, "the frame without a mask is told to be clean, and is"


NESTED = {"samples": comfy.nested_tensor.NestedTensor([torch.ones(1, 16, 3, 8, 10), torch.ones(1, 8, 40)])}
AUDIO = {"samples": torch.ones(1, 64, 40), "type": "audio"}
SPECTRUM = {"samples": torch.ones(1, 8, 16, 40), "type": "audio"}


@pytest.mark.parametrize("latent, kind", [(NESTED, "nested"), (AUDIO, "audio"), (SPECTRUM, "audio")])
def test_what_is_no_picture_is_refused_in_one_sentence(latent, kind):
    loaded = load("Wan 2.1")
    mask = mask_of(loaded)
    with pytest.raises(ValueError, match=f"^latent_image .*{kind}.*[^.]*$"):
        sample(loaded, latent_image=latent, mask=mask)
    with pytest.raises(ValueError, match=f"^latent .*{kind}.*[^.]*$"):
        LatentMaskResize.execute(mask, latent)


@pytest.mark.parametrize("latent, kind", [(NESTED, "nested"), (AUDIO, "audio")])
def test_a_schedule_on_what_is_no_picture_is_refused_in_one_sentence(latent, kind):
    loaded = load("Wan 2.1")
    patched = ApplyMaskSchedule.execute(loaded.model, shrinking(loaded, mask_of(loaded))).args[0]
    with pytest.raises(ValueError, match=f"latent.*{kind}"):
        host_sample(patched, loaded, latent)
