"""One run of Blended Latent KSampler: from a source latent to edited candidates."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

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
from ..checks import as_mask, as_samples, check_total
from ..comfy_internals import with_models_beside
from ..latent_masks import as_schedule, fitted, noise_mask, of_latent, sets_of_frames
from .candidates import Chunks, Helpers, goes_by_batch, of_rows, plan
from .dropped import KEY as DROPPED
from .dropped import Dropped
from .live import Progress
from .noise import blending_sampler
from .pixel_blend import PixelBlend, blend_of, with_pixel_blend
from .pruning import Pruning, Race, check_pictures
from .seeds import with_seeds
from .stages import KEY, with_schedule
from .steps import Steps

# 10,000 steps with denoise 0.01, the finest that widgets allow.
MOST_LEVELS = 1_000_000


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
    noise_mask, their numbers as batch_index, their seeds (see `seeds`), and those that were
    `dropped`. Raises ValueError for inputs that do not fit together.
    """
    source = comfy.sample.fix_empty_latent_channels(model, as_samples(latent_image, "latent_image"), latent_image.get("downscale_ratio_spacial"))
    picture_mask, schedule = masks_of(latent_image, source, mask, mask_schedule, pixel_blend > 0)
    blend = blend_of(pixel_blend, vae, pixels, picture_mask, source)
    sigmas = levels(model, steps, sampler_name, scheduler, denoise)
    if resample_steps and resample_steps >= len(sigmas) - 1 > 0:
        raise ValueError(f"resample_steps is {resample_steps}, but must be less than the {len(sigmas) - 1} steps: try a fifth of them.")
    if pruning is not None:
        check_pictures(source)

    check_total(candidates * source.numel(), f"candidates is {candidates}, which makes latents")
    rows = [row for row in range(len(source)) for _ in range(candidates)]
    seeds = [candidate_seed(seed, i % candidates, row) for i, row in enumerate(rows)]
    shown = Steps(model, sigmas, schedule, resample_steps, node_id, steps=steps, sampler_name=sampler_name, scheduler=scheduler, denoise=denoise)
    progress, race = Progress(model, len(shown.order), len(rows)), Race(pruning, model)
    helpers = (Helpers() if blend is None else blend.helpers) + (Helpers() if pruning is None else pruning.helpers(source))
    memory = plan(model, source, len(rows), cfg, 1 if goes_by_batch(model, sampler_name) else chunk_size, helpers)

    def sample(chunk: list[int], stage: int | None = None) -> Tensor:
        """These candidates at the end of the run, or what is predicted for them at the round that opens a stage."""
        of_chunk, of_seeds = [rows[i] for i in chunk], [seeds[i] for i in chunk]
        draws, replay = NoiseDraws(of_seeds, tuple(source.shape[1:])), race.run(chunk, stage)
        samples = comfy.sample.sample_custom(
            patched(model, schedule, blend, of_chunk, memory.beside),
            draws.draw(),
            cfg,
            blending_sampler(sampler_name, of_seeds, draws, fresh_background, resample_steps, replay),
            sigmas,
            *of_rows([positive, negative], of_chunk, len(source), chunk, len(rows)),
            source[of_chunk],
            callback=shown.marked(progress.of(chunk)),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=of_seeds[0],
        )
        race.note(chunk, replay)
        return with_background(samples, source[of_chunk], schedule and schedule.rows(of_chunk))

    chunks = Chunks(memory.at_once)
    left, dropped = torch.arange(len(rows)).view(len(source), candidates), []
    for stage, count in race.rounds(candidates, sigmas):
        scores = pruning.judge(chunks.run(left.flatten().tolist(), partial(sample, stage=stage)))
        best = race.best(left, scores.view_as(left), count)
        out = dict(zip(left.flatten().tolist(), scores.tolist(), strict=True))
        for i in best.flatten().tolist():
            del out[i]
        progress.drop(set(out))
        dropped += [Dropped(seed=seeds[i], score=score, share=pruning.shares[stage - 1]) for i, score in out.items()]
        left = best
    kept = left.flatten().tolist()
    samples = chunks.run(kept, sample)
    latent = as_latent(latent_image, samples, schedule and schedule.rows([rows[i] for i in kept]), kept, [seeds[i] for i in kept])
    return latent | ({DROPPED: dropped} if dropped else {}), {"steps": [shown.shown]}


def masks_of(latent: dict, source: Tensor, mask: Tensor | None, schedule: MaskSchedule | None, both: bool) -> tuple[Tensor | None, MaskSchedule | None]:
    """The mask at picture size, if any, and the masks to sample under, fitted to the source latent: the schedule, or the mask, or
    the latent's own noise mask, or None.

    both: whether a mask is of use beside a schedule. Raises ValueError if there are both and it is not, for a schedule of another
    size, and for a batch that does not match.
    """
    if mask is not None and schedule is not None and not both:
        raise ValueError("mask and mask_schedule are both connected: disconnect mask, because the schedule already contains it.")
    name = "mask" if mask is not None else "latent_image's noise_mask"
    if mask is None and latent.get("noise_mask") is not None:
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

    Raises ValueError for a scheduler that cannot make so few steps (kl_optimal for 1), and for a denoise so small that ComfyUI, which
    makes steps / denoise levels and takes the last of them, would find no memory for them.
    """
    if 0 < denoise < steps / MOST_LEVELS:
        raise ValueError(f"denoise is {denoise:g}, which is too small for {steps} steps: use 0, or {steps / MOST_LEVELS:g} and more.")
    sigmas = comfy.samplers.KSampler(
        model, steps=steps, device=model.load_device, sampler=sampler_name, scheduler=scheduler, denoise=denoise, model_options=model.model_options
    ).sigmas
    if not sigmas.isfinite().all():
        raise ValueError(f"scheduler is {scheduler}, which can't work with steps set to {steps}: use more steps or another scheduler.")
    return sigmas


def patched(model: ModelPatcher, schedule: MaskSchedule | None, blend: PixelBlend | None, rows: list[int], beside: Sequence[ModelPatcher]) -> ModelPatcher:
    """The model that samples candidates of these rows of the source, and is loaded together with those beside it."""
    if schedule is not None:
        model = with_schedule(model, schedule.rows(rows))
    if blend is not None:
        model = with_pixel_blend(model, blend.rows(rows))
    return with_models_beside(model, KEY, beside) if beside else model


def with_background(samples: Tensor, source: Tensor, schedule: MaskSchedule | None) -> Tensor:
    """Samples with the source outside the result's mask."""
    return samples if schedule is None else keep_background(samples, source.to(samples), noise_mask(schedule.thin, samples).to(samples))


def as_latent(latent: dict, samples: Tensor, schedule: MaskSchedule | None, kept: list[int], seeds: list[int]) -> dict:
    """The LATENT to return: the result's mask as noise_mask, and the candidates' numbers and seeds."""
    out = {key: value for key, value in latent.items() if key not in ("downscale_ratio_spacial", "downscale_ratio_temporal")}
    out |= {"samples": samples, "batch_index": kept}
    if schedule is not None:
        thin = noise_mask(schedule.thin, samples)
        out["noise_mask"] = thin.expand(len(samples), *thin.shape[1:])
    return with_seeds(out, seeds)
