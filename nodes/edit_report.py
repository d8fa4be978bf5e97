from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..bridge.edit_report import measure_edits
from ..bridge.inputs import checked
from ..bridge.older_comfyui import schema
from ..bridge.types import CATEGORY, frames_input


class EditReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="EditReport",
            display_name="Edit Report",
            category=CATEGORY,
            description="Measures how well an edit kept the rest of the picture: did the background change, and does the seam show? Works for the results of "
            "any inpainting method.",
            search_aliases=[
                "compare",
                "compare images",
                "image difference",
                "psnr",
                "color shift",
                "delta e",
                "quality",
                "background",
                "blended latent diffusion",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("source", tooltip="The picture before the edit: one for all edited pictures or one for each."),
                io.Image.Input("edited", tooltip="The edited pictures. They must have the size of the source, or the size that VAE Encode crops it to."),
                io.Mask.Input("mask", tooltip="The mask at the source's size, with the edited area in white. Only pure black counts as background."),
                frames_input("to measure how much the seam flickers"),
            ],
            outputs=[
                io.Float.Output(
                    display_name="background_psnr",
                    tooltip="How close the background is to the source, in dB. Higher is better: above 40 a difference is hard to see, and 150 means "
                    "identical. For a batch, the worst picture.",
                ),
                io.Float.Output(
                    display_name="worst_block",
                    tooltip="The same for the worst 16x16 block of background pixels, in dB. A low value reveals damage in one spot. For a batch, the worst "
                    "picture.",
                ),
                io.Float.Output(
                    display_name="seam",
                    tooltip="How visible the mask's edge is: the color step across it that the source doesn't have, in levels of 255. Below 1 or 2 is good, "
                    "0 means invisible. For a batch, the worst picture.",
                ),
                io.Float.Output(
                    display_name="colour_shift",
                    tooltip="How much the colors of the background changed (mean CIE ΔE00). A shift of 1 is just visible. For a batch, the worst picture.",
                ),
                io.String.Output(display_name="report", tooltip="All figures of each picture, and the worst of each, as JSON."),
                io.Image.Output(
                    display_name="error",
                    tooltip="The change of the background, amplified 16 times, with the outline of the mask. Black means unchanged.",
                ),
                io.Float.Output(
                    display_name="flicker",
                    tooltip="How much the seam of a video changes from one frame to the next, beyond the source's own change, in levels of 255: the worst "
                    "frame. 0 means steady. Without a video there is nothing to measure (NaN).",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, source: Tensor, edited: Tensor, mask: Tensor, frames: int = 1) -> io.NodeOutput:
        worst, flicker, report, error, shown = measure_edits(source, edited, mask, frames)
        return io.NodeOutput(worst.background_psnr, worst.worst_block, worst.seam, worst.colour_shift, report, error, flicker, ui=shown)
