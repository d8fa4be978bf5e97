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
            description="Resizes a mask from picture size to latent size without losing thin strokes, and adds it to the latent as its noise mask. Works for "
            "pictures and video.",
            search_aliases=[
                "inpaint",
                "inpaint mask",
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
