from __future__ import annotations

import comfy.samplers
import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..bld.schedule import MaskSchedule
from ..bridge.sampling.pruning import Pruning
from ..bridge.sampling.sampler import MAX_SEED, sample_candidates
from ..bridge.types import CATEGORY, MaskScheduleType, PruningType

EVERY_STEP, FIXED = "every step", "fixed"


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
                io.Int.Input(
                    "resample_steps",
                    default=0,
                    min=0,
                    max=10000,
                    advanced=True,
                    tooltip="RePaint: after each so many steps jump back as many and do them again, so that inside and outside agree better, in nearly "
                    "twice the time. 0: never (the paper). A fifth of the steps is a good start.",
                ),
                io.Float.Input(
                    "pixel_blend",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Share of the schedule, at its end, in which the predicted picture is also blended with the source in pixels, which keeps the "
                    "source right up to the painted edge. Needs vae and pixels; decodes and encodes at each of these steps. 0: never.",
                ),
                io.Vae.Input("vae", optional=True, tooltip="For pixel_blend only."),
                io.Image.Input("pixels", optional=True, tooltip="For pixel_blend only: the source picture that latent_image was encoded from."),
                PruningType.Input("pruning", optional=True, tooltip="From Prune Candidates: poor candidates are dropped on the way, which saves their time."),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="One a candidate that pruning has left, with the mask of the result as noise_mask.")],
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
        return io.NodeOutput(
            sample_candidates(
                model,
                seed,
                steps,
                cfg,
                sampler_name,
                scheduler,
                positive,
                negative,
                latent_image,
                denoise,
                candidates,
                mask,
                mask_schedule,
                background_noise == EVERY_STEP,
                chunk_size,
                resample_steps,
                pixel_blend,
                vae,
                pixels,
                pruning,
            )
        )
