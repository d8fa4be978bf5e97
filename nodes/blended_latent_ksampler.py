from __future__ import annotations

import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..bld import masks
from ..bld.blending import NoiseDraws, keep_background
from ..bld.schedule import MaskSchedule, constant, route
from .background import WHOLE_BATCH_SAMPLERS, blending_sampler
from .candidates import in_chunks, of_rows, progress, that_fit
from .checks import as_mask, as_samples
from .latent_mask import of_latent, sets_of_frames
from .pixel_blend import PixelBlend, blend_of, with_pixel_blend
from .pruning import Pruning, Race, check_conditions
from .sampling import as_schedule, fitted, noise_mask, with_schedule
from .types import CATEGORY, MaskScheduleType, PruningType

EVERY_STEP, FIXED = "every step", "fixed"
MAX_SEED = 0xFFFFFFFFFFFFFFFF


class BlendedLatentKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BlendedLatentKSampler",
            display_name="Blended Latent KSampler",
            category=CATEGORY,
            description="A KSampler for inpainting with ordinary checkpoints, after the paper Blended Latent Diffusion. At every step it puts the source back "
            "outside the mask, so the latent there ends up identical to the source. It can draw several candidates at once.",
            search_aliases=["inpaint", "inpaint sampler", "ksampler", "local edit", "noise mask", "background", "candidates", "blended latent diffusion"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model to sample with. LoRA, FreeU and other patches work as usual."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="The seed of the first candidate. The next candidates use seed + 1, seed + 2 and so on.",
                ),
                io.Int.Input("steps", default=50, min=1, max=10000, tooltip="How many denoising steps to run. The paper uses 50; fewer are faster."),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="Guidance: how strongly the edit follows the prompt. The paper uses 7.5 for Stable Diffusion 2.1 and 5.0 for the older latent "
                    "diffusion model (LDM).",
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="ddim",
                    tooltip="The sampling algorithm. All of ComfyUI's samplers work. The paper uses ddim.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="ddim_uniform",
                    tooltip="How the noise decreases from step to step. All of ComfyUI's schedulers work. The paper uses ddim_uniform.",
                ),
                io.Conditioning.Input("positive", tooltip="Describe what you want to see inside the mask."),
                io.Conditioning.Input("negative", tooltip="Describe what you don't want to see inside the mask. The paper uses an empty prompt."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The source picture as a latent, from VAE Encode (not VAE Encode (for Inpainting), which grays out the masked area). A batch "
                    "edits several pictures in one run.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much the masked area may change. At 1 it starts from pure noise. At lower values it keeps rough shapes and colors of the "
                    "source; try 0.75 for scribbles. The paper uses 1 for LDM and 0.75 for Stable Diffusion 2.1.",
                ),
                io.Int.Input(
                    "candidates",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="How many versions to draw of each source picture. Draw several and let CLIP Rank Batch pick the best. The paper draws 24.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="White marks the area to edit. The mask can have any size with the proportions of the picture. If you connect neither mask nor "
                    "mask_schedule, the noise mask of latent_image is used.",
                ),
                MaskScheduleType.Input(
                    "mask_schedule",
                    optional=True,
                    tooltip="Masks that shrink during sampling, from Progressive Mask Dilate. Recommended for thin masks. Connect it instead of mask (both "
                    "only with pixel_blend).",
                ),
                io.Combo.Input(
                    "background_noise",
                    options=[EVERY_STEP, FIXED],
                    default=EVERY_STEP,
                    advanced=True,
                    tooltip="The noise added to the source before it is blended in. every step: fresh noise at each step (the paper). fixed: the same noise "
                    "at each step, as in ComfyUI's own samplers.",
                ),
                io.Int.Input(
                    "chunk_size",
                    default=0,
                    min=0,
                    max=256,
                    advanced=True,
                    tooltip="How many candidates to sample at once. 0: as many as fit into free memory. Set a small number if sampling takes memory that you "
                    "need elsewhere. Each candidate looks the same either way.",
                ),
                io.Int.Input(
                    "resample_steps",
                    default=0,
                    min=0,
                    max=10000,
                    advanced=True,
                    tooltip="RePaint: after every group of this many steps, jumps back and runs the group again. The edit then fits its surroundings better, "
                    "but sampling takes nearly twice as long. A fifth of the steps is a good start. The paper uses 0 (off).",
                ),
                io.Float.Input(
                    "pixel_blend",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Also blends in pixels during the last part of the schedule, so that the source is kept right up to the painted edge. 0.2 means "
                    "the last fifth; 0 is off. Needs vae and pixels. Slow: each of these steps decodes and encodes the picture. The paper uses 0 for LDM.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="Only for pixel_blend: the VAE that encoded latent_image."),
                io.Image.Input("pixels", optional=True, tooltip="Only for pixel_blend: the source picture that latent_image was encoded from."),
                PruningType.Input(
                    "pruning",
                    optional=True,
                    tooltip="Drops weak candidates part-way through sampling, which saves time. Connect Prune Candidates.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The edited latents, one per candidate, with the final mask as their noise mask. With pruning, only the candidates that were kept.",
                )
            ],
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
        resample_steps: int = 0,
        pixel_blend: float = 0.0,
        vae: comfy.sd.VAE | None = None,
        pixels: Tensor | None = None,
        pruning: Pruning | None = None,
    ) -> io.NodeOutput:
        source = comfy.sample.fix_empty_latent_channels(model, as_samples(latent_image, "latent_image"), latent_image.get("downscale_ratio_spacial"))
        picture_mask, schedule = masks_of(latent_image, source, mask, mask_schedule, pixel_blend > 0)
        blend = blend_of(pixel_blend, vae, pixels, picture_mask, source)
        sigmas = levels(model, steps, sampler_name, scheduler, denoise)
        if resample_steps and resample_steps >= len(sigmas) - 1 > 0:
            raise ValueError(f"resample_steps was {resample_steps}, must be less than the {len(sigmas) - 1} steps: try a fifth of them.")

        if pruning is not None:
            check_conditions({"positive": positive, "negative": negative}, source)

        rows = [row for row in range(len(source)) for _ in range(candidates)]
        seeds = [(seed + i) % (MAX_SEED + 1) for i in range(len(rows))]
        executed = sum(end - start for start, end in route(max(len(sigmas) - 1, 0), resample_steps))
        callback = progress(model, executed, len(rows))
        kept: list[int] = []

        def sample(chunk: list[int]) -> Tensor:
            of_chunk, of_seeds = [rows[i] for i in chunk], [seeds[i] for i in chunk]
            draws = NoiseDraws(of_seeds, tuple(source.shape[1:]))
            # All of one source share its masks, also when some of them are dropped.
            of_masks = of_chunk[:1] if len(set(of_chunk)) == 1 else of_chunk
            race = Race(pruning, len(chunk), schedule and schedule.rows(of_masks).thin) if pruning else None
            samples = comfy.sample.sample_custom(
                patched(model, schedule, blend, of_masks),
                draws.draw(),
                cfg,
                blending_sampler(sampler_name, of_seeds, draws, background_noise == EVERY_STEP, resample_steps, race),
                sigmas,
                *of_rows([positive, negative], of_chunk, len(source), chunk, len(rows)),
                source[of_chunk],
                callback=callback(chunk),
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=of_seeds[0],
            )
            left = race.alive if race else torch.arange(len(chunk))
            kept.extend(chunk[i] for i in left.tolist())
            return samples[left]

        at_once = 1 if sampler_name in WHOLE_BATCH_SAMPLERS else chunk_size or that_fit(model, source, len(rows))
        samples = in_chunks(len(rows), at_once, candidates if pruning else len(rows), sample)
        of_kept = [rows[i] for i in kept]
        return io.NodeOutput(finish(latent_image, samples, source[of_kept], schedule and schedule.rows(of_kept), kept))


def masks_of(latent: dict, source: Tensor, mask: Tensor | None, schedule: MaskSchedule | None, both: bool) -> tuple[Tensor | None, MaskSchedule | None]:
    """The mask at picture size, if any, and the masks to sample under, fitted to the source latent: the schedule, or the mask, or
    the latent's own noise mask, or None.

    both: whether there is use for a mask beside a schedule. Raises ValueError where there is none, for a schedule of another size
    and for a batch that does not match.
    """
    if mask is not None and schedule is not None and not both:
        raise ValueError("mask and mask_schedule are both connected: disconnect mask, since the schedule already holds it.")
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
    """The noise levels of the run, (steps + 1,), as the host's KSampler has them; none for denoise 0.

    Raises ValueError for a scheduler that has none for so few steps (kl_optimal for 1).
    """
    sigmas = comfy.samplers.KSampler(
        model, steps=steps, device=model.load_device, sampler=sampler_name, scheduler=scheduler, denoise=denoise, model_options=model.model_options
    ).sigmas
    if not sigmas.isfinite().all():
        raise ValueError(f"scheduler was {scheduler}, which cannot make {steps} steps: take more steps or another scheduler.")
    return sigmas


def patched(model: ModelPatcher, schedule: MaskSchedule | None, blend: PixelBlend | None, rows: list[int]) -> ModelPatcher:
    """The model to sample the candidates of these rows of the source with."""
    if schedule is not None:
        model = with_schedule(model, schedule.rows(rows))
    return with_pixel_blend(model, blend.rows(rows)) if blend is not None else model


def finish(latent: dict, samples: Tensor, source: Tensor, schedule: MaskSchedule | None, kept: list[int]) -> dict:
    """The LATENT to return: background exact, the mask of the result as noise_mask, and which candidates there are as batch_index."""
    out = {key: value for key, value in latent.items() if key not in ("downscale_ratio_spacial", "downscale_ratio_temporal")}
    out |= {"samples": samples, "batch_index": kept}
    if schedule is not None:
        thin = noise_mask(schedule.thin, samples)
        out["samples"] = keep_background(samples, source.to(samples), thin.to(samples))
        out["noise_mask"] = thin.expand(len(samples), *thin.shape[1:])
    return out
