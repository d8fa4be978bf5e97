from __future__ import annotations

import json
import math
from dataclasses import asdict, fields

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import io, ui
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..bld.masks import dilate
from ..bld.metrics import EditFigures, figures
from .checks import as_mask, as_picture, check_batch
from .types import CATEGORY

# No 8-bit picture gets there without being the source: one pixel of 4096x4096, one level off, is at 120 dB.
MOST_DB = 150.0
AMPLIFY = 16
OUTLINE = (1.0, 0.8, 0.0)


class EditReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
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
                "seam",
                "color shift",
                "delta e",
                "quality",
                "inpaint",
                "background",
                "blended latent diffusion",
            ],
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("source", tooltip="The picture before the edit: one for all edited pictures or one for each."),
                io.Image.Input("edited", tooltip="The edited pictures. They must have the size of the source, or the size that VAE Encode crops it to."),
                io.Mask.Input("mask", tooltip="The mask at the source's size, with the edited area in white. Only pure black counts as background."),
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
            ],
        )

    @classmethod
    def execute(cls, source: Tensor, edited: Tensor, mask: Tensor) -> io.NodeOutput:
        x_hat, x, m = as_picture(edited, "edited").cpu(), as_picture(source, "source").cpu(), as_mask(mask).cpu()
        check_batch(len(x), len(x_hat), "source", "edited")
        check_batch(len(m), len(x_hat), "mask", "edited")
        size = x_hat.shape[-2:]
        x, m = crop_as_encoded(x, size, "source"), crop_as_encoded(m, size, "mask")

        bar = comfy.utils.ProgressBar(len(x_hat))
        measured, errors = [], []
        for i, y in enumerate(x_hat):
            comfy.model_management.throw_exception_if_processing_interrupted()
            one = y[None], x[i % len(x)][None], m[i % len(m)][None]
            measured.append(finite(figures(*one)))
            errors.append(error_picture(*one))
            bar.update(1)
        worst = worst_of(measured)
        error = torch.cat(errors)
        return io.NodeOutput(
            worst.background_psnr, worst.worst_block, worst.seam, worst.colour_shift, as_json(measured, worst), error, ui=ui.PreviewImage(error, cls=cls)
        )


def crop_as_encoded(pixels: Tensor, size: tuple[int, int], name: str) -> Tensor:
    """What VAE Encode keeps of (..., H, W), where that has this size: whole multiples of the VAE's factor, out of the middle.

    Raises ValueError where no VAE would crop to this size.
    """
    full = pixels.shape[-2:]
    if not any(all(cropped == side // factor * factor for cropped, side in zip(size, full, strict=True)) for factor in (1, 2, 4, 8, 16, 32, 64)):
        raise ValueError(
            f"{name} is {full[1]}x{full[0]}, but edited is {size[1]}x{size[0]}: give the {name} of this edit, at the size that went into VAE Encode."
        )
    top, left = ((side - cropped) // 2 for cropped, side in zip(size, full, strict=True))
    return pixels[..., top : top + size[0], left : left + size[1]]


def finite(one: EditFigures) -> EditFigures:
    """The same, with dB no higher than MOST_DB."""
    return EditFigures(**{name: min(value, MOST_DB) if value == math.inf else value for name, value in asdict(one).items()})


def worst_of(measured: list[EditFigures]) -> EditFigures:
    """The worst of each figure: the lowest dB, the highest of the others. NaN where no picture has one."""
    worst = {}
    for field in fields(EditFigures):
        values = [value for value in (getattr(one, field.name) for one in measured) if not math.isnan(value)]
        pick = min if field.name in ("background_psnr", "worst_block") else max
        worst[field.name] = pick(values, default=math.nan)
    return EditFigures(**worst)


def as_json(measured: list[EditFigures], worst: EditFigures) -> str:
    """Rounded to four digits; null stands where there was nothing to measure."""

    def plain(one: EditFigures) -> dict[str, float | None]:
        return {name: None if math.isnan(value) else round(value, 4) for name, value in asdict(one).items()}

    return json.dumps({"worst": plain(worst), "pictures": [plain(one) for one in measured]}, indent=1, allow_nan=False)


def error_picture(x_hat: Tensor, x: Tensor, m: Tensor) -> Tensor:
    """The background's error, AMPLIFY times, around the source in dark grey where it was masked, with an outline and a caption.

    x_hat, x: (1, 3, H, W). m: (1, H, W). Returns: an IMAGE, (1, H + caption, W, 3) in 0..1.
    """
    outside = (m == 0).float()
    width = 1 + max(m.shape[-2:]) // 1024
    outline = ((m > 0) & (dilate(outside, 2 * width + 1) > 0))[0, ..., None]
    error = ((x_hat - x).abs() * AMPLIFY).clamp(0, 1)
    picture = torch.where(outside[:, None] > 0, error, x.mean(1, keepdim=True).clamp(0, 1) / 4)[0].movedim(0, -1)
    picture = torch.where(outline, torch.tensor(OUTLINE), picture)
    return torch.cat([picture, caption(f"error, {AMPLIFY} times", picture.shape[1])])[None]


def caption(text: str, width: int) -> Tensor:
    """Light text on a dark strip of this width: (h, width, 3) in 0..1."""
    height = max(16, width // 32)
    strip = Image.new("RGB", (width, height), (40, 40, 40))
    ImageDraw.Draw(strip).text((width // 2, height // 2), text, fill=(230, 230, 230), anchor="mm", font=ImageFont.load_default(height * 0.7))
    return torch.from_numpy(np.asarray(strip, np.float32) / 255)
