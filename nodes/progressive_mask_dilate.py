from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..bld import masks, schedule
from ..bridge.checks import as_mask, check_total
from ..bridge.inputs import checked
from ..bridge.older_comfyui import schema
from ..bridge.schedule_picture import stages_over_time
from ..bridge.types import CATEGORY, MaskScheduleType


class ProgressiveMaskDilate(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ProgressiveMaskDilate",
            display_name="Progressive Mask Dilate",
            category=CATEGORY,
            description="Makes a schedule of masks that ends with your own. Thin parts start wider, so that an edit has enough room in the early steps, when "
            "rough shapes and colors form. Broad parts start a little inside their edge, so that an object forms whole.",
            search_aliases=[
                "inpaint",
                "grow mask",
                "expand mask",
                "shrink mask",
                "mask schedule",
                "progressive mask shrinking",
                "thin mask",
                "blended latent diffusion",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Mask.Input("mask", tooltip="The mask at latent size, from Latent Mask Resize."),
                io.Int.Input(
                    "stages",
                    default=1,
                    min=0,
                    max=64,
                    tooltip="How many wide masks come before your own mask. 0 means no shrinking. The paper uses 3.",
                ),
                io.Int.Input(
                    "growth",
                    default=2,
                    min=1,
                    max=256,
                    tooltip="How far each stage reaches beyond the next one, on every side, in latent pixels. With SD and SDXL one latent pixel is 8 picture "
                    "pixels. The paper uses 1, so its widest stage reaches 3 latent pixels beyond the mask.",
                ),
                io.Combo.Input(
                    "shape",
                    options=list(masks.SHAPES),
                    default="square",
                    advanced=True,
                    tooltip="How the wide masks grow: with square or with round corners. The paper uses square.",
                ),
                io.Float.Input(
                    "takeover",
                    default=0.95,
                    min=0.01,
                    max=0.99,
                    step=0.01,
                    advanced=True,
                    tooltip="When your own mask takes over, as a share of the schedule from pure noise (0) to none (1). It counts like start_percent in "
                    "other nodes. A late takeover helps thin strokes. With everywhere it also makes the edges of broad masks visible, so lower it then. The "
                    "paper uses 0.78 (39 of 50 steps).",
                ),
                io.Combo.Input(
                    "spacing",
                    options=list(schedule.SPACINGS),
                    default="equal",
                    advanced=True,
                    tooltip="How long each wide stage lasts. equal: all last equally long (the paper). eased: the widest lasts longest, and each further "
                    "stage is shorter.",
                ),
                io.Int.Input(
                    "soft_edge",
                    default=0,
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="Width of a soft edge around the wide stages, in latent pixels. Your own mask is never softened. The paper uses 0.",
                ),
                io.Image.Input("image", optional=True, tooltip="Only for the preview: the picture that the mask belongs to, to see the masks on it."),
                io.Combo.Input(
                    "where",
                    options=[schedule.EVERYWHERE, schedule.THIN_PARTS],
                    default=schedule.THIN_PARTS,
                    optional=True,
                    advanced=True,
                    tooltip="Which parts of the mask start wide. thin parts: only strokes and points, so that broad areas keep their edge. everywhere: the "
                    "whole mask (the paper).",
                ),
                io.Int.Input(
                    "thin",
                    default=2,
                    min=1,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip="Only for thin parts: up to how many latent pixels a part counts as thin. The thinner it is, the wider it starts; thicker parts "
                    "don't grow at all.",
                ),
                io.Float.Input(
                    "inset",
                    default=0.2,
                    min=0.0,
                    max=0.9,
                    step=0.05,
                    optional=True,
                    advanced=True,
                    tooltip="Not with everywhere: how far inside their edge broad parts of the mask start, as a share of the way from the edge to the middle. "
                    "An object then forms whole instead of being cut off at the edge. From 60 % of the schedule on, the edit may use the whole mask. The "
                    "paper uses 0.",
                ),
            ],
            outputs=[
                MaskScheduleType.Output(
                    display_name="schedule",
                    tooltip="Connect it to Blended Latent KSampler, or to Apply Mask Schedule for any other sampler.",
                ),
                io.Mask.Output(display_name="stages", tooltip="All masks of the schedule as one batch, your own last."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        mask: Tensor,
        stages: int = 3,
        growth: int = 1,
        shape: str = "square",
        takeover: float = 0.78,
        spacing: str = "equal",
        soft_edge: int = 0,
        image: Tensor | None = None,
        where: str = schedule.EVERYWHERE,
        thin: int = 2,
        inset: float = 0.0,
    ) -> io.NodeOutput:
        # The defaults here are the paper's: a prompt that lacks `where` or `inset` is from before there was one, when the mask started so.
        m = as_mask(mask)
        check_total((stages + 1 + (inset > 0)) * m.numel(), f"stages is {stages}, which makes masks")
        shrinking = schedule.shrinking(m, stages, growth, takeover, shape, spacing, soft_edge, where, thin, inset)
        shown = {**ui.PreviewImage(stages_over_time(shrinking, image)).as_dict(), "schedule": [{"shares": list(shrinking.shares)}]}
        return io.NodeOutput(shrinking, shrinking.masks.flatten(0, 1), ui=shown)
