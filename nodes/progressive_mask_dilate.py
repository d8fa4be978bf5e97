from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..bld import masks, schedule
from ..bridge.checks import as_mask
from ..bridge.schedule_picture import stages_over_time
from ..bridge.types import CATEGORY, MaskScheduleType


class ProgressiveMaskDilate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ProgressiveMaskDilate",
            display_name="Progressive Mask Dilate",
            category=CATEGORY,
            description="A schedule of masks that starts wide and shrinks to the mask itself, so that a thin mask still gets the early, coarse steps.",
            search_aliases=["grow mask", "mask schedule", "progressive mask shrinking", "thin mask", "blended latent diffusion"],
            has_intermediate_output=True,
            inputs=[
                io.Mask.Input("mask", tooltip="The mask at latent size, from Latent Mask Resize."),
                io.Int.Input("stages", default=3, min=0, max=64, tooltip="Wide masks before the mask itself. The paper: 3, so four parts. 0: no shrinking."),
                io.Int.Input(
                    "growth",
                    default=1,
                    min=1,
                    max=256,
                    tooltip="Latent pixels that each stage reaches beyond the next one, on every side. The paper: 1, which makes kernels of 7, 5 and 3.",
                ),
                io.Combo.Input("shape", options=list(masks.SHAPES), default="square", advanced=True, tooltip="Structuring element. The paper: square."),
                io.Float.Input(
                    "takeover",
                    default=0.78,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    advanced=True,
                    tooltip="Share of the schedule, from pure noise to none (as start_percent counts it), after which only the mask itself is used. "
                    "The paper: 39 of 50 steps, 0.78. As measured (bench edits), 0.95 shows the prompt in strokes more often, but in the edge of a "
                    "broad mask one sees it.",
                ),
                io.Combo.Input(
                    "spacing",
                    options=list(schedule.SPACINGS),
                    default="equal",
                    advanced=True,
                    tooltip="equal: the wide stages last equally long (the paper). eased: the widest lasts longest.",
                ),
                io.Int.Input(
                    "soft_edge",
                    default=0,
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="Latent pixels of a soft edge around the wide stages, square in shape. The paper: 0. The mask itself is never softened.",
                ),
            ],
            outputs=[
                MaskScheduleType.Output(display_name="schedule", tooltip="For Blended Latent KSampler or Apply Mask Schedule."),
                io.Mask.Output(display_name="stages", tooltip="The masks as a batch, wide to thin."),
            ],
        )

    @classmethod
    def execute(
        cls,
        mask: Tensor,
        stages: int = 3,
        growth: int = 1,
        shape: str = "square",
        takeover: float = 0.78,
        spacing: str = "equal",
        soft_edge: int = 0,
    ) -> io.NodeOutput:
        shrinking = schedule.shrinking(as_mask(mask), stages, growth, takeover, shape, spacing, soft_edge)
        return io.NodeOutput(shrinking, shrinking.masks.flatten(0, 1), ui=ui.PreviewImage(stages_over_time(shrinking)))
