from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..bridge.cut_out import Place, put_back
from ..bridge.inputs import checked
from ..bridge.older_comfyui import schema
from ..bridge.types import CATEGORY, EditPlaceType, frames_input


def _feather_input() -> io.Input:
    return io.Int.Input(
        "feather", default=0, min=0, max=1024, tooltip="How many pixels the edit takes to fade in, inward from the mask's edge. 0 gives a hard edge."
    )


class EditPutBack(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="EditPutBack",
            display_name="Edit Put Back",
            category=CATEGORY,
            description="Puts the edited crop back where Edit Cut Out took it from. Outside the mask, every pixel stays that of the picture.",
            search_aliases=["crop and stitch", "paste back", "uncrop", "composite", "large image", "blended latent diffusion"],
            inputs=[
                io.Image.Input("edited", tooltip="The edited crops, from Decoder Finetune Reconstruct or VAE Decode. Each gives a picture."),
                EditPlaceType.Input("where", tooltip="Where the crop comes from, from Edit Cut Out."),
                io.DynamicCombo.Input(
                    "method",
                    options=[
                        io.DynamicCombo.Option("paste", [_feather_input()]),
                        io.DynamicCombo.Option("colour fit", [_feather_input()]),
                        io.DynamicCombo.Option("poisson", []),
                    ],
                    tooltip="How the crop is joined. paste: its pixels as they are; right after Decoder Finetune Reconstruct. colour fit: matches its colors "
                    "to the picture, then pastes. poisson: joins without a seam, but colors inside the mask can drift. Try the last two if a scaled crop "
                    "shows its edge.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="Only to put several edits into one picture: the result of the Edit Put Back before. Otherwise the picture that was cut is used.",
                ),
                frames_input("so that colour fit changes their colors no faster than the source does, and several edits of a video share its frames"),
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The whole pictures with the edit in them.")],
        )

    @classmethod
    @checked
    def execute(cls, edited: Tensor, where: Place, method: dict, image: Tensor | None = None, frames: int = 1) -> io.NodeOutput:
        settings = {key: value for key, value in method.items() if key != "method"}
        return io.NodeOutput(put_back(edited, where, method["method"], settings, image, frames))
