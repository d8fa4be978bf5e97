from __future__ import annotations

import comfy.samplers
import comfy.sd
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..bld.schedule import MaskSchedule
from ..bld.seeds import MAX_CANDIDATES, MAX_SEED
from ..bridge.inputs import checked
from ..bridge.older_comfyui import schema
from ..bridge.sampling.pruning import Pruning
from ..bridge.sampling.sampler import sample_candidates
from ..bridge.sampling.seeds import seeds_of
from ..bridge.types import CATEGORY, MaskScheduleType, PruningType

EVERY_STEP, FIXED = "every step", "fixed"


class BlendedLatentKSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="BlendedLatentKSampler",
            display_name="Blended Latent KSampler",
            category=CATEGORY,
            description="A KSampler for inpainting with ordinary checkpoints, after the paper Blended Latent Diffusion. At every step it puts the source back "
            "outside the mask, so the latent there ends up identical to the source. It can draw several candidates at once.",
            search_aliases=["inpaint", "inpaint sampler", "ksampler", "local edit", "noise mask", "background", "candidates", "blended latent diffusion"],
            has_intermediate_output=True,
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model to sample with. LoRA, FreeU and other patches work as usual."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=True,
                    tooltip="The seed of the first candidate. The seeds of the others are derived from it, so neighboring seeds never draw the same candidate. "
                    "The output seeds lists them all.",
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
                    max=MAX_CANDIDATES,
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
                    tooltip="The masks of each part of the sampling, from Progressive Mask Dilate. Recommended. Connect it instead of mask (both "
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
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The edited latents, one per candidate, with the final mask as their noise mask. With pruning, only the candidates that were kept.",
                ),
                io.Int.Output(
                    display_name="seeds",
                    is_output_list=True,
                    tooltip="The seed of each candidate, as a list. Set a candidate's seed as seed, with candidates at 1, to draw the same picture alone.",
                ),
            ],
        )

    @classmethod
    @checked
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
        latent, shown = sample_candidates(
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
            getattr(getattr(cls, "hidden", None), "unique_id", None),
        )
        return io.NodeOutput(latent, seeds_of(latent), ui=shown)
