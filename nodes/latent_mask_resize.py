from __future__ import annotations

import logging

from comfy.sd import VAE
from comfy_api.latest import io, ui
from torch import Tensor

from ..bld import masks
from .checks import as_mask, as_samples
from .latent_mask import of_latent, sets_of_frames
from .sampling import noise_mask
from .types import CATEGORY


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
        mask = as_mask(mask)
        samples = as_samples(latent)
        sets, ratio = sets_of_frames(len(mask), latent, vae)
        if invert:
            mask = 1 - mask
        part = masks.as_encoded(mask, tuple(samples.shape[-2:]))
        small = of_latent(part, samples, sets, ratio, mode, threshold)
        report = cls.report(mask, part.unflatten(0, (sets, -1)), small, ratio, mode)
        small = small.flatten(0, 1)
        masked = {**latent, "noise_mask": noise_mask(small, samples)}
        return io.NodeOutput(small, masked, report, ui=ui.PreviewMask(small))

    @staticmethod
    def report(mask: Tensor, part: Tensor, small: Tensor, ratio: int, mode: str) -> str:
        """mask: (B, H, W) as it came; part: (sets, frames, H, W), what VAE Encode leaves of it; small: (sets, latent frames, h, w)."""
        spread = masks.spread_frames(small, ratio)
        frames = min(part.shape[1], spread.shape[1])
        part, spread = part[:, :frames].flatten(0, 1), spread[:, :frames].flatten(0, 1)
        report = "".join(
            [
                f"{mask.shape[-1]}x{mask.shape[-2]}",
                f", cropped to {part.shape[-1]}x{part.shape[-2]} as by VAE Encode," if part.shape[-2:] != mask.shape[-2:] else "",
                f" to {small.shape[-1]}x{small.shape[-2]}",
                f", {len(mask)} frames to {small.shape[0] * small.shape[1]}" if small.shape[1] > 1 else "",
                f" without the last {len(mask) // small.shape[0] - frames}, as by VAE Encode" if len(mask) > len(part) else "",
                f", mode {mode}: ",
            ]
        )
        pixels, strokes = masks.dropped(part, spread)
        if pixels == 0:
            return report + f"every painted pixel kept, {float((small > 0).float().mean()):.1%} of the latent masked."
        report += f"{pixels} of {int((part > 0).sum())} painted pixels and {strokes} whole strokes dropped; mode max keeps them."
        if strokes:
            logging.warning("Latent Mask Resize, %s", report)
        return report
