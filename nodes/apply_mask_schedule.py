from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io

from ..bld.schedule import MaskSchedule
from ..bridge.checks import as_samples
from ..bridge.latent_masks import as_schedule
from ..bridge.sampling.stages import with_schedule
from ..bridge.types import CATEGORY, MaskScheduleType


class ApplyMaskSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ApplyMaskSchedule",
            display_name="Apply Mask Schedule",
            category=CATEGORY,
            description="Progressive mask shrinking for any sampler: patches the model so that each step blends with the mask of its stage. A noise mask of "
            "the latent no longer counts.",
            search_aliases=["progressive mask shrinking", "model patch", "inpaint", "blended latent diffusion"],
            inputs=[
                io.Model.Input("model", tooltip="The model to patch; the one passed in stays as it is."),
                MaskScheduleType.Input("mask_schedule", tooltip="From Progressive Mask Dilate."),
                io.Latent.Input(
                    "source",
                    optional=True,
                    tooltip="The source latent, for a sampler that goes on from another one's latent with noise left in it (KSampler Advanced): without it "
                    "that noise would stay in the background.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model", tooltip="For any sampler: KSampler, KSampler (Advanced), SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model: ModelPatcher, mask_schedule: MaskSchedule, source: dict | None = None) -> io.NodeOutput:
        return io.NodeOutput(with_schedule(model, as_schedule(mask_schedule), as_samples(source, "source") if source is not None else None))
