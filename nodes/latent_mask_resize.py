from __future__ import annotations

import logging

from comfy_api.latest import io, ui
from torch import Tensor

from ..bld import masks
from .checks import as_mask, as_samples, check_batch
from .sampling import noise_mask
from .types import CATEGORY


class LatentMaskResize(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LatentMaskResize",
            display_name="Latent Mask Resize",
            category=CATEGORY,
            description="Brings a mask to the size of a latent without losing thin strokes.",
            search_aliases=["downscale mask", "mask to latent", "set latent noise mask", "inpaint mask", "blended latent diffusion"],
            has_intermediate_output=True,
            inputs=[
                io.Mask.Input("mask", tooltip="The mask at picture size; white is what will be edited."),
                io.Latent.Input("latent", tooltip="The latent whose height and width the mask gets. The ratio is read from it, never assumed."),
                io.Combo.Input(
                    "mode",
                    options=list(masks.RESIZE_MODES),
                    default="max",
                    tooltip="max: a latent pixel is masked if any of its pixels is, so no stroke is lost (default). coverage: masked if the painted "
                    "share reaches the threshold. area: the painted share itself, a soft mask. bilinear: what ComfyUI's samplers do. nearest: what "
                    "the paper's code does; loses thin strokes.",
                ),
                io.Float.Input(
                    "threshold",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Mode coverage only: the painted share of a latent pixel from which it is masked. 0.1 keeps a stroke of 1 pixel at 8x.",
                ),
                io.Boolean.Input("invert", default=False, advanced=True, tooltip="Edit what is not painted: the background edit of the paper."),
            ],
            outputs=[
                io.Mask.Output(display_name="mask", tooltip="The mask at latent size."),
                io.Latent.Output(display_name="latent", tooltip="The latent with this mask as its noise_mask, for any sampler."),
                io.String.Output(display_name="report", tooltip="What the resize kept and lost."),
            ],
        )

    @classmethod
    def execute(cls, mask: Tensor, latent: dict, mode: str = "max", threshold: float = 0.1, invert: bool = False) -> io.NodeOutput:
        mask = as_mask(mask)
        samples = as_samples(latent)
        check_batch(len(mask), len(samples), "mask", "latent")
        if invert:
            mask = 1 - mask
        size = tuple(samples.shape[-2:])
        small = masks.resize(mask, size, mode, threshold)
        report = cls.report(mask, small, mode)
        masked = {**latent, "noise_mask": noise_mask(small, samples)}
        return io.NodeOutput(small, masked, report, ui=ui.PreviewMask(small))

    @staticmethod
    def report(mask: Tensor, small: Tensor, mode: str) -> str:
        pixels, strokes = masks.dropped(mask, small)
        sizes = f"{mask.shape[-1]}x{mask.shape[-2]} to {small.shape[-1]}x{small.shape[-2]}, mode {mode}: "
        if pixels == 0:
            return sizes + f"every painted pixel kept, {float((small > 0).float().mean()):.1%} of the latent masked."
        report = sizes + f"{pixels} of {int((mask > 0).sum())} painted pixels and {strokes} whole strokes dropped; mode max keeps them."
        logging.warning("Latent Mask Resize, %s", report)
        return report
