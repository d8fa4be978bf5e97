from __future__ import annotations

from comfy.sd import VAE
from comfy_api.latest import io, ui
from torch import Tensor

from ..bld import masks
from ..bridge.checks import as_mask
from ..bridge.inputs import checked
from ..bridge.latent_masks import resize_for
from ..bridge.older_comfyui import schema
from ..bridge.types import CATEGORY


class LatentMaskResize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="LatentMaskResize",
            display_name="Latent Mask Resize",
            category=CATEGORY,
            description="Resizes a mask from picture size to latent size without losing thin strokes, and adds it to the latent as its noise mask. Works for "
            "pictures and video.",
            search_aliases=[
                "resize mask",
                "downscale mask",
                "mask to latent",
                "video mask",
                "set latent noise mask",
                "blended latent diffusion",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="The mask at picture size. White marks the area to edit. Connect one mask for the whole batch or one per latent. For video, "
                    "connect one mask for the whole clip, one per frame or one per latent frame.",
                ),
                io.Latent.Input("latent", tooltip="The latent that the mask is for. Its height, width and number of frames set the size of the new mask."),
                io.Combo.Input(
                    "mode",
                    options=list(masks.RESIZE_MODES),
                    default="max",
                    tooltip="How to shrink the mask. max: keeps every painted pixel; areas can grow by up to one latent pixel. coverage: keeps thin strokes "
                    "too, and areas stay close to their painted size. area: a soft mask with the painted share of each latent pixel. bilinear: what "
                    "ComfyUI's samplers do. nearest: what the paper's code does. The last two lose thin strokes.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Only for mode coverage: how far a painted area may stick out of the mask, as a share of a latent pixel. At 0.5 the edges of an "
                    "area move to the nearest latent pixel, so its size hardly changes. Lower values give larger areas; 0 is the same as max. Thin "
                    "strokes are kept at any value. In a soft mask, values below the threshold count as not painted.",
                ),
                io.Boolean.Input(
                    "invert",
                    default=False,
                    advanced=True,
                    tooltip="Edits everything except the painted area, as in the paper's background edits. If you also connect the mask to other nodes, use "
                    "Invert Mask before all of them instead.",
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Only for video: tells the node how many video frames make one latent frame. Connect it if the node asks for it.",
                ),
                io.Image.Input("image", optional=True, tooltip="Only for the preview: the picture that the mask belongs to, to see the mask on it."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="The mask at latent size. For video, one mask per latent frame."),
                io.Latent.Output(
                    display_name="latent",
                    tooltip="The input latent with the new mask as its noise mask. Any sampler then edits only the masked area.",
                ),
                io.String.Output(display_name="report", tooltip="Says whether every painted pixel was kept, and what was lost if not."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        mask: Tensor,
        latent: dict,
        mode: str = "max",
        threshold: float = 0.5,
        invert: bool = False,
        vae: VAE | None = None,
        image: Tensor | None = None,
    ) -> io.NodeOutput:
        small, masked, report, shown = resize_for(as_mask(mask), latent, mode, threshold, invert, vae, image)
        return io.NodeOutput(small, masked, report, ui=ui.PreviewImage(shown))
