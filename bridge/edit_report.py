"""Figures and an error picture for edited pictures."""

from __future__ import annotations

import json
import math
from dataclasses import fields

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..bld.metrics import EditFigures
from .checks import as_mask, as_picture, check_batch, frames_of
from .comparison import AMPLIFY, comparison, error_map, flickers_of, measure, most_of, rounded


def measure_edits(source: Tensor, edited: Tensor, mask: Tensor, frames: int = 1) -> tuple[EditFigures, float, str, Tensor, dict]:
    """The worst figures of edited pictures, the worst flicker, all figures as JSON, an IMAGE of the errors, and the `ui` output.

    Args: source, edited: IMAGE. mask: MASK at the source's size. frames: of each video, 1 for pictures, which have no flicker, 0 for one video of all.
    Raises ValueError if sizes or batches do not fit together.
    """
    x_hat, x, m = as_picture(edited, "edited").cpu(), as_picture(source, "source").cpu(), as_mask(mask).cpu()
    frames = frames_of(frames, len(x_hat), "edited")
    check_batch(len(x), len(x_hat), "source", "edited", frames)
    check_batch(len(m), len(x_hat), "mask", "edited", frames)
    size = x_hat.shape[-2:]
    x, m = crop_as_encoded(x, size, "source"), crop_as_encoded(m, size, "mask")

    bar = comfy.utils.ProgressBar(len(x_hat))
    measured, errors = [], []
    for i, y in enumerate(x_hat):
        comfy.model_management.throw_exception_if_processing_interrupted()
        one = y[None], x[i % len(x)][None], m[i % len(m)][None]
        measured.append(measure(*one))
        errors.append(error_picture(*one))
        bar.update(1)
    worst, flickers = worst_of(measured), flickers_of(x_hat, x, m, frames)
    most = most_of(flickers)
    each = [rounded(one, flicker=value) for one, value in zip(measured, flickers, strict=True)]
    # null means that there was nothing to measure.
    report = json.dumps({"worst": rounded(worst, flicker=most), "pictures": each}, indent=1, allow_nan=False)
    return worst, most, report, torch.cat(errors), comparison(x_hat, x, m, known=each, frames=frames)


def crop_as_encoded(pixels: Tensor, size: tuple[int, int], name: str) -> Tensor:
    """What VAE Encode keeps of (..., H, W), where that has this size: whole multiples of the VAE's factor, out of the middle.

    Raises ValueError where no VAE would crop to this size.
    """
    full = pixels.shape[-2:]
    if not any(all(cropped == side // factor * factor for cropped, side in zip(size, full, strict=True)) for factor in (1, 2, 4, 8, 16, 32, 64)):
        raise ValueError(
            f"{name} is {full[1]}x{full[0]}, but edited is {size[1]}x{size[0]}: connect the {name} of this edit, at the size that went into VAE Encode."
        )
    top, left = ((side - cropped) // 2 for cropped, side in zip(size, full, strict=True))
    return pixels[..., top : top + size[0], left : left + size[1]]


def worst_of(measured: list[EditFigures]) -> EditFigures:
    """The worst of each figure: the lowest dB, the highest of the others. NaN if no picture has one."""
    worst = {}
    for field in fields(EditFigures):
        values = [value for value in (getattr(one, field.name) for one in measured) if not math.isnan(value)]
        pick = min if field.name in ("background_psnr", "worst_block") else max
        worst[field.name] = pick(values, default=math.nan)
    return EditFigures(**worst)


def error_picture(x_hat: Tensor, x: Tensor, m: Tensor) -> Tensor:
    """`error_map` with a caption: an IMAGE, (1, H + caption, W, 3) in 0..1."""
    picture = error_map(x_hat, x, m)
    return torch.cat([picture, caption(f"error, {AMPLIFY} times", picture.shape[1])])[None]


def caption(text: str, width: int) -> Tensor:
    """Light text on a dark strip of this width: (h, width, 3) in 0..1."""
    height = max(16, width // 32)
    strip = Image.new("RGB", (width, height), (40, 40, 40))
    ImageDraw.Draw(strip).text((width // 2, height // 2), text, fill=(230, 230, 230), anchor="mm", font=ImageFont.load_default(height * 0.7))
    return torch.from_numpy(np.asarray(strip, np.float32) / 255)
