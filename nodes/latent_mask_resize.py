from __future__ import annotations

from comfy.sd import VAE
from comfy_api.latest import io, ui
from torch import Tensor

from ..bld import masks
from ..bridge.checks import as_mask
from ..bridge.latent_masks import resize_for
from ..bridge.types import CATEGORY


class LatentMaskResize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentMaskResize",
            display_name="Latent Mask Resize",
            category=CATEGORY,
            description="Brings a mask to the size of a latent, and its frames to the latent's, without losing thin strokes.",
            search_aliases=["downscale mask", "mask to latent", "video mask", "set latent noise mask", "inpaint mask", "blended latent diffusion"],
            has_intermediate_output=True,
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="The mask at picture size; white is what will be edited. One for all, or one each; for a video one a frame or one a latent frame.",
                ),
                io.Latent.Input("latent", tooltip="The latent whose height, width and frames the mask gets. The ratio is read from it, never assumed."),
                io.Combo.Input(
                    "mode",
                    options=list(masks.RESIZE_MODES),
                    default="max",
                    tooltip="max: a latent pixel is masked if any of its pixels is, so no paint is lost (default). coverage: strokes and dots like max, but "
                    "tight edges on larger areas. area: the painted share itself, a soft mask. bilinear: what ComfyUI's samplers do. nearest: what "
                    "the paper's code does. The last two lose thin strokes.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Mode coverage only: how far a painted area may stick out of the mask, as a share of a latent pixel. 0.5 moves its edge to the "
                    "nearest latent pixel, so that it hardly grows or shrinks; 0 is mode max. What is narrower than a latent pixel is kept at any value. "
                    "In a soft mask, what is below the threshold counts as not painted.",
                ),
                io.Boolean.Input("invert", default=False, advanced=True, tooltip="Edit what is not painted: the background edit of the paper."),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Only for a video latent whose video frames per latent frame cannot be told from the counts of frames.",
                ),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="The mask at latent size; for a video one a latent frame."),
                io.Latent.Output(display_name="latent", tooltip="The latent with this mask as its noise_mask, for any sampler."),
                io.String.Output(display_name="report", tooltip="What the resize kept and lost."),
            ],
        )

    @classmethod
    def execute(
        cls, mask: Tensor, latent: dict, mode: str = "max", threshold: float = 0.5, invert: bool = False, vae: VAE | None = None
    ) -> io.NodeOutput:
        small, masked, report = resize_for(as_mask(mask), latent, mode, threshold, invert, vae)
        return io.NodeOutput(small, masked, report, ui=ui.PreviewMask(small))
