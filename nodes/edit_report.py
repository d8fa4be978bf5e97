from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..bridge.edit_report import measure_edits
from ..bridge.types import CATEGORY


class EditReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="EditReport",
            display_name="Edit Report",
            category=CATEGORY,
            description="Measures an edit: is the background still the source's, and does the seam show? Works for the result of any method.",
            search_aliases=["psnr", "image difference", "compare images", "seam", "color shift", "delta e", "quality", "blended latent diffusion"],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("source", tooltip="The source picture: one for all, or one each."),
                io.Image.Input("edited", tooltip="The edited pictures. Their size is the source's, or what VAE Encode crops it to."),
                io.Mask.Input("mask", tooltip="The mask at the source's size; white was edited. All that is not black is left out of the background."),
            ],
            outputs=[
                io.Float.Output(display_name="background_psnr", tooltip="In dB, of the unmasked area; of a batch, the worst. 150: the source exactly."),
                io.Float.Output(display_name="worst_block", tooltip="In dB, of the worst 16x16 block of the unmasked area. 150: the source exactly."),
                io.Float.Output(
                    display_name="seam",
                    tooltip="The step across the mask's edge beyond the source's own, in levels of 255; of a batch, the worst. 0 where nothing shows.",
                ),
                io.Float.Output(display_name="colour_shift", tooltip="Mean CIE ΔE00 of the unmasked area; of a batch, the worst. 1 is just visible."),
                io.String.Output(display_name="report", tooltip="All figures of each picture, and the worst of each, as JSON."),
                io.Image.Output(display_name="error", tooltip="The error of the unmasked area, 16 times amplified, with the mask's outline."),
            ],
        )

    @classmethod
    def execute(cls, source: Tensor, edited: Tensor, mask: Tensor) -> io.NodeOutput:
        worst, report, error = measure_edits(source, edited, mask)
        return io.NodeOutput(worst.background_psnr, worst.worst_block, worst.seam, worst.colour_shift, report, error, ui=ui.PreviewImage(error, cls=cls))
