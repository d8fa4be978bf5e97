from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..bld.schedule import MaskSchedule
from ..bridge.checks import as_samples
from ..bridge.inputs import checked
from ..bridge.latent_masks import as_schedule
from ..bridge.older_comfyui import schema
from ..bridge.sampling.stages import with_schedule
from ..bridge.types import CATEGORY, MaskScheduleType


class ApplyMaskSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ApplyMaskSchedule",
            display_name="Apply Mask Schedule",
            category=CATEGORY,
            description="Adds a schedule of masks to a model, so that KSampler and any other sampler can use it. The schedule takes the place of the latent's "
            "noise mask.",
            search_aliases=["mask schedule", "progressive mask shrinking", "model patch", "ksampler", "blended latent diffusion"],
            inputs=[
                io.Model.Input("model", tooltip="The model to patch. The output is a patched copy; this one stays as it is."),
                MaskScheduleType.Input("mask_schedule", tooltip="The masks of each part of the sampling, from Progressive Mask Dilate."),
                io.Latent.Input(
                    "source",
                    optional=True,
                    tooltip="The source picture as a latent. Only needed if the sampler continues from a latent that still has noise in it, like the second "
                    "of two KSampler (Advanced) nodes. Without it, that noise stays in the background.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The patched model, for KSampler, KSampler (Advanced), SamplerCustomAdvanced or any other sampler."
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, model: ModelPatcher, mask_schedule: MaskSchedule, source: dict | None = None) -> io.NodeOutput:
        return io.NodeOutput(with_schedule(model, as_schedule(mask_schedule), as_samples(source, "source") if source is not None else None))
