"""One run of Blended Latent KSampler: from a source latent to edited candidates."""

from __future__ import annotations

import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...bld import masks
from ...bld.blending import NoiseDraws, keep_background
from ...bld.schedule import MaskSchedule, constant
from ...bld.seeds import candidate_seed
from ..checks import as_mask, as_samples
from ..latent_masks import as_schedule, fitted, noise_mask, of_latent, sets_of_frames
from .candidates import in_chunks, of_rows, that_fit
from .live import progress
from .noise import WHOLE_BATCH_SAMPLERS, blending_sampler
from .pixel_blend import PixelBlend, blend_of, with_pixel_blend
from .pruning import Pruning, Race, check_conditions
from .seeds import with_seeds
from .stages import with_schedule
from .steps import Steps


def sample_candidates(
    model: ModelPatcher,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: list,
    negative: list,
    latent_image: dict,
    denoise: float,
    candidates: int,
    mask: Tensor | None,
    mask_schedule: MaskSchedule | None,
    fresh_background: bool,
    chunk_size: int,
    resample_steps: int,
    pixel_blend: float,
    vae: comfy.sd.VAE | None,
    pixels: Tensor | None,
    pruning: Pruning | None,
    node_id: str | None,
) -> tuple[dict, dict]:
    """The LATENT of all candidates that are left, as the node's inputs ask for, and the node's `ui` output.

    Args: as the inputs of Blended Latent KSampler. fresh_background: whether the background gets new noise at each step.
        node_id: the node that shows the steps.

    Returns: a LATENT with the candidates of the first source, then those of the second, ...; background exact, the result's mask as
    noise_mask, their numbers as batch_index, and their seeds (see `seeds`). Raises ValueError for inputs that do not fit together.
    """
    source = comfy.sample.fix_empty_latent_channels(model, as_samples(latent_image, "latent_image"), latent_image.get("downscale_ratio_spacial"))
    picture_mask, schedule = masks_of(latent_image, source, mask, mask_schedule, pixel_blend > 0)
    blend = blend_of(pixel_blend, vae, pixels, picture_mask, source)
    sigmas = levels(model, steps, sampler_name, scheduler, denoise)
    if resample_steps and resample_steps >= len(sigmas) - 1 > 0:
        raise ValueError(f"resample_steps is {resample_steps}, but must be less than the {len(sigmas) - 1} steps: try a fifth of them.")
    if pruning is not None:
        check_conditions({"positive": positive, "negative": negative}, source)

    rows = [row for row in range(len(source)) for _ in range(candidates)]
    seeds = [candidate_seed(seed, i % candidates, row) for i, row in enumerate(rows)]
    shown = Steps(
        model, sigmas, schedule, resample_steps, node_id, steps=steps, sampler_name=sampler_name, scheduler=scheduler, denoise=denoise
    )
    callback = progress(model, len(shown.order), len(rows))
    kept: list[int] = []

    def sample(chunk: list[int]) -> Tensor:
        of_chunk, of_seeds = [rows[i] for i in chunk], [seeds[i] for i in chunk]
        draws = NoiseDraws(of_seeds, tuple(source.shape[1:]))
        # All candidates of one source share its masks, also when some of them are dropped.
        of_masks = of_chunk[:1] if len(set(of_chunk)) == 1 else of_chunk
        race = Race(pruning, len(chunk), schedule and schedule.rows(of_masks).thin) if pruning else None
        samples = comfy.sample.sample_custom(
            patched(model, schedule, blend, of_masks),
            draws.draw(),
            cfg,
            blending_sampler(sampler_name, of_seeds, draws, fresh_background, resample_steps, race),
            sigmas,
            *of_rows([positive, negative], of_chunk, len(source), chunk, len(rows)),
            source[of_chunk],
            callback=shown.marked(callback(chunk, race)),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=of_seeds[0],
        )
        left = race.alive if race else torch.arange(len(chunk))
        kept.extend(chunk[i] for i in left.tolist())
        return samples[left]

    at_once = 1 if sampler_name in WHOLE_BATCH_SAMPLERS else chunk_size or that_fit(model, source, len(rows))
    samples = in_chunks(len(rows), at_once, candidates if pruning else len(rows), sample)
    of_kept = [rows[i] for i in kept]
    latent = finish(latent_image, samples, source[of_kept], schedule and schedule.rows(of_kept), kept, [seeds[i] for i in kept])
    return latent, {"steps": [shown.shown]}


def masks_of(latent: dict, source: Tensor, mask: Tensor | None, schedule: MaskSchedule | None, both: bool) -> tuple[Tensor | None, MaskSchedule | None]:
    """The mask at picture size, if any, and the masks to sample under, fitted to the source latent: the schedule, or the mask, or
    the latent's own noise mask, or None.

    both: whether a mask is of use beside a schedule. Raises ValueError if there are both and it is not, for a schedule of another
    size, and for a batch that does not match.
    """
    if mask is not None and schedule is not None and not both:
        raise ValueError("mask and mask_schedule are both connected: disconnect mask, because the schedule already contains it.")
    name = "mask" if mask is not None else "latent_image's noise_mask"
    if mask is None and "noise_mask" in latent:
        mask = latent["noise_mask"].reshape(-1, *latent["noise_mask"].shape[-2:])
    mask = mask if mask is None else as_mask(mask, name)
    if schedule is not None:
        return mask, fitted(as_schedule(schedule), source)
    if mask is None:
        return None, None
    sets = sets_of_frames(len(mask), latent | {"samples": source}, name=name, of="latent_image")
    small = of_latent(masks.as_encoded(mask, tuple(source.shape[-2:])), source, *sets)
    return mask, fitted(constant(small.flatten(0, 1)), source, name)


def levels(model: ModelPatcher, steps: int, sampler_name: str, scheduler: str, denoise: float) -> Tensor:
    """The sigmas of the run, (steps + 1,), as ComfyUI's KSampler has them; empty for denoise 0.

    Raises ValueError for a scheduler that cannot make so few steps (kl_optimal for 1).
    """
    sigmas = comfy.samplers.KSampler(
        model, steps=steps, device=model.load_device, sampler=sampler_name, scheduler=scheduler, denoise=denoise, model_options=model.model_options
    ).sigmas
    if not sigmas.isfinite().all():
        raise ValueError(f"scheduler is {scheduler}, which can't work with steps set to {steps}: use more steps or another scheduler.")
    return sigmas


def patched(model: ModelPatcher, schedule: MaskSchedule | None, blend: PixelBlend | None, rows: list[int]) -> ModelPatcher:
    """The model that samples candidates of these rows of the source."""
    if schedule is not None:
        model = with_schedule(model, schedule.rows(rows))
    return with_pixel_blend(model, blend.rows(rows)) if blend is not None else model


def finish(latent: dict, samples: Tensor, source: Tensor, schedule: MaskSchedule | None, kept: list[int], seeds: list[int]) -> dict:
    """The LATENT to return: background exact, the result's mask as noise_mask, and the candidates' numbers and seeds."""
    out = {key: value for key, value in latent.items() if key not in ("downscale_ratio_spacial", "downscale_ratio_temporal")}
    out |= {"samples": samples, "batch_index": kept}
    if schedule is not None:
        thin = noise_mask(schedule.thin, samples)
        out["samples"] = keep_background(samples, source.to(samples), thin.to(samples))
        out["noise_mask"] = thin.expand(len(samples), *thin.shape[1:])
    return with_seeds(out, seeds)
