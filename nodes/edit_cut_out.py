from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..bridge.cut_out import cut_out
from ..bridge.inputs import checked
from ..bridge.older_comfyui import schema
from ..bridge.types import CATEGORY, EditPlaceType


class EditCutOut(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="EditCutOut",
            display_name="Edit Cut Out",
            category=CATEGORY,
            description="Cuts out the area around the mask, so that an edit of a small place in a large picture costs only what the place costs. Edit Put "
            "Back puts the result back.",
            search_aliases=["crop around mask", "crop and stitch", "large image", "high resolution", "masked only", "blended latent diffusion"],
            inputs=[
                io.Image.Input("image", tooltip="The whole picture. Of a batch or a video, the same area is cut out of each."),
                io.Mask.Input(
                    "mask",
                    tooltip="The mask at picture size, with the area to edit in white: one for the whole batch or one per picture. The crop shows what all of "
                    "them mark.",
                ),
                io.Float.Input(
                    "context",
                    default=0.5,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How much of the surroundings the model sees: how far the crop reaches beyond the mask on every side, as a share of the mask's "
                    "longer side.",
                ),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=8192,
                    step=8,
                    tooltip="Scales the crop to about as many pixels as a square with this side. Use the size that the model was trained for, such as 512 for "
                    "SD 1.5 or 1024 for SDXL. 0: the crop keeps the picture's pixels.",
                ),
                io.Int.Input(
                    "multiple",
                    default=64,
                    min=8,
                    max=512,
                    step=8,
                    advanced=True,
                    tooltip="Both sides of the crop are a multiple of this many pixels. 64 suits all models; 8 or 16 keep the crop smaller where "
                    "the VAE allows it.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The crop. Use it everywhere in the place of the picture."),
                io.Mask.Output(display_name="mask", tooltip="The mask of the crop, at its size."),
                EditPlaceType.Output(display_name="where", tooltip="Where the crop comes from, for Edit Put Back."),
                io.String.Output(display_name="report", tooltip="Place and size of the crop as text."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, image: Tensor, mask: Tensor, context: float = 0.5, size: int = 0, multiple: int = 64) -> io.NodeOutput:
        return io.NodeOutput(*cut_out(image, mask, context, multiple, size))
