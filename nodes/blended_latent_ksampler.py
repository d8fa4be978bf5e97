from __future__ import annotations

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..bld import masks
from ..bld.blending import NoiseDraws, keep_background
from ..bld.schedule import MaskSchedule, constant
from .checks import as_mask, as_samples, check_batch
from .sampling import as_schedule, blending_sampler, check_size, noise_mask, of_rows, with_schedule
from .types import CATEGORY, MaskScheduleType

EVERY_STEP, FIXED = "every step", "fixed"
MAX_SEED = 0xFFFFFFFFFFFFFFFF


class BlendedLatentKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlendedLatentKSampler",
            display_name="Blended Latent KSampler",
            category=CATEGORY,
            description="KSampler whose latent is blended with the source at every step, under a mask that may shrink. Outside the mask the result's latent "
            "is the source's, exactly.",
            search_aliases=["inpaint sampler", "ksampler", "blended latent diffusion", "local edit", "noise mask"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, with any patches: LoRA, ControlNet, FreeU, ..."),
                io.Int.Input(
                    "seed", default=0, min=0, max=MAX_SEED, control_after_generate=True, tooltip="Of the first candidate; candidate i has seed + i."
                ),
                io.Int.Input("steps", default=50, min=1, max=10000, tooltip="Denoising steps. The paper: 50."),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="Classifier-free guidance. The paper: 5.0 for LDM, 7.5 for SD 2.1."
                ),
                io.Combo.Input("sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="ddim", tooltip="Any of the host's. The paper: ddim."),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="ddim_uniform",
                    tooltip="How the noise falls. The paper: ddim_uniform.",
                ),
                io.Conditioning.Input("positive", tooltip="What the masked area shall show."),
                io.Conditioning.Input("negative", tooltip="What it shall not show; the paper: an empty prompt."),
                io.Latent.Input("latent_image", tooltip="The source, from VAE Encode: one, or a batch of them."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1 the masked area starts from the source, too: for scribbles. The paper: 1 for LDM, 0.75 for SD 2.1.",
                ),
                io.Int.Input("candidates", default=1, min=1, max=256, tooltip="Predictions for each source. The paper draws 24 and ranks them."),
                io.Mask.Input(
                    "mask", optional=True, tooltip="White is edited. Of any size. Without it the noise mask of the latent counts."
                ),
                MaskScheduleType.Input("mask_schedule", optional=True, tooltip="From Progressive Mask Dilate, instead of a mask."),
                io.Combo.Input(
                    "background_noise",
                    options=[EVERY_STEP, FIXED],
                    default=EVERY_STEP,
                    advanced=True,
                    tooltip="every step: fresh noise for the background at each step (the paper). fixed: at each step the noise that sampling starts "
                    "from (ComfyUI's core).",
                ),
                io.Int.Input(
                    "chunk_size",
                    default=0,
                    min=0,
                    max=256,
                    advanced=True,
                    tooltip="Candidates sampled at once. 0: as many as the free memory allows.",
                ),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="One a candidate, with the mask of the result as noise_mask.")],
        )

    @classmethod
    def execute(
        cls,
        model: ModelPatcher,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: list,
        negative: list,
        latent_image: dict,
        denoise: float = 1.0,
        candidates: int = 1,
        mask: Tensor | None = None,
        mask_schedule: MaskSchedule | None = None,
        background_noise: str = EVERY_STEP,
        chunk_size: int = 0,
    ) -> io.NodeOutput:
        source = comfy.sample.fix_empty_latent_channels(model, as_samples(latent_image, "latent_image"), latent_image.get("downscale_ratio_spacial"))
        schedule = schedule_of(latent_image, source, mask, mask_schedule)
        rows = [row for row in range(len(source)) for _ in range(candidates)]
        seeds = [(seed + i) % (MAX_SEED + 1) for i in range(len(rows))]

        ksampler = comfy.samplers.KSampler(
            model, steps=steps, device=model.load_device, sampler=sampler_name, scheduler=scheduler, denoise=denoise, model_options=model.model_options
        )
        chunks = list(torch.arange(len(rows)).split(chunk_size or chunk_that_fits(model, source, len(rows))))
        show = progress(model, len(ksampler.sigmas) - 1, len(chunks))

        results = []
        for number, chunk in enumerate(chunk.tolist() for chunk in chunks):
            of_chunk = [rows[i] for i in chunk]
            draws = NoiseDraws([seeds[i] for i in chunk], tuple(source.shape[1:]))
            results.append(
                comfy.sample.sample_custom(
                    with_schedule(model, schedule.rows(of_chunk)) if schedule else model,
                    draws.draw(),
                    cfg,
                    blending_sampler(sampler_name, draws if background_noise == EVERY_STEP else None),
                    ksampler.sigmas,
                    of_rows(positive, of_chunk, len(source), chunk, len(rows)),
                    of_rows(negative, of_chunk, len(source), chunk, len(rows)),
                    source[of_chunk],
                    callback=lambda step, x0, x, total, number=number: show(number * total + step, x0, x),
                    disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                    seed=seeds[chunk[0]],
                )
            )
        return io.NodeOutput(finish(latent_image, torch.cat(results), source[rows], schedule and schedule.rows(rows)))


def schedule_of(latent: dict, source: Tensor, mask: Tensor | None, schedule: MaskSchedule | None) -> MaskSchedule | None:
    """The masks to sample under, at the latent's size: the schedule, or the mask, or the latent's own noise mask, or None.

    Raises ValueError for two of them at once, for a schedule of another size and for a batch that does not match.
    """
    if mask is not None and schedule is not None:
        raise ValueError("mask and mask_schedule are both connected: disconnect mask, since the schedule already holds it.")
    size = tuple(source.shape[-2:])
    if schedule is None:
        if mask is None and "noise_mask" not in latent:
            return None
        mask = as_mask(mask) if mask is not None else as_mask(latent["noise_mask"].reshape(-1, *latent["noise_mask"].shape[-2:]), "latent_image's noise_mask")
        check_batch(len(mask), len(source), "mask", "latent_image")
        schedule = constant(masks.resize(mask, size))
    schedule = as_schedule(schedule)
    check_size(schedule, source)
    return schedule


def chunk_that_fits(model: ModelPatcher, source: Tensor, count: int) -> int:
    """As many samples at once as the host's own estimate says there is memory for, at least one. The host unloads other models for it."""
    device = model.load_device
    loaded = [entry for entry in comfy.model_management.current_loaded_models if entry.device == device and entry.model is not model]
    others = sum(entry.model_loaded_memory() for entry in loaded)
    free = model.get_free_memory(device) + others - (model.model_size() - model.loaded_size())
    # A prompt and an empty one are sampled together, so the model sees twice the batch.
    while count > 1 and model.memory_required([2 * count, *source.shape[1:]]) > free:
        count = (count + 1) // 2
    return count


def progress(model: ModelPatcher, steps: int, chunks: int):
    """The host's own progress bar and live preview over all chunks: show(step, x0, x)."""
    total = max(steps, 1) * chunks
    callback = latent_preview.prepare_callback(model, total)
    return lambda step, x0, x: callback(step, x0, x, total)


def finish(latent: dict, samples: Tensor, source: Tensor, schedule: MaskSchedule | None) -> dict:
    """The LATENT to return: background exact, the mask of the result as noise_mask, nothing stale."""
    out = {key: value for key, value in latent.items() if key not in ("downscale_ratio_spacial", "downscale_ratio_temporal", "batch_index")}
    out["samples"] = samples
    if schedule is not None:
        thin = noise_mask(schedule.thin, samples)
        out["samples"] = keep_background(samples, source.to(samples), thin.to(samples))
        out["noise_mask"] = thin.expand(len(samples), *thin.shape[1:])
    return out
