"""A mask over its picture: what was painted, the latent cells that it covers, and what a resize lost, in red."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..bld import masks
from .checks import as_picture

# Colors and opacity of the layers, as in js/lib/schedule_bar.js: wide stages blue, the mask itself violet.
CELLS, PAINTED, LOST = (56, 163, 224), (124, 77, 219), (255, 38, 56)
OPAQUE_CELLS, OPAQUE_PAINT = 0.5, 0.75
BLANK, CAPTION, INK = (43, 43, 48), (30, 30, 33), (230, 230, 230)
LONGEST = 512
LEGEND = 28


def resize_pictures(mask: Tensor, small: Tensor, image: Tensor | None) -> Tensor:
    """A picture for each mask that a resize made.

    mask: (B, H, W), the part that VAE Encode keeps. small: (B, h, w). image: IMAGE of the mask's picture, one or B; None for a blank.

    Returns: an IMAGE, (B, H', W', 3) in 0..1. Raises ValueError for a picture of other proportions.
    """
    pictures = [None] * len(small) if image is None else [part_of(image, i, small.shape[-2:]) for i in range(len(small))]
    drawn = []
    for picture, one, cells in zip(pictures, mask, small, strict=True):
        left = masks.kept(one[None], cells[None])[0]
        lost = (one > 0) & ~left
        names = {"painted": PAINTED, "latent cells": CELLS} | ({"lost": LOST} if lost.any() else {})
        drawn.append(with_legend(over_picture(cells, LONGEST, picture, one * left, lost), names))
    return as_image(drawn)


def part_of(image: Tensor, index: int, size: tuple[int, int]) -> Tensor:
    """The part of one picture of an IMAGE (B, H, W, C), repeated if it has fewer, that is left in a latent of this size (h, w): (3, H', W')."""
    picture = as_picture(image)[index % len(image)]
    try:
        return masks.as_encoded(picture, tuple(size))
    except ValueError:
        raise ValueError(f"image is {image.shape[2]}x{image.shape[1]}, which doesn't match the latent: connect the picture that the mask belongs to.") from None


def over_picture(cells: Tensor, longest: int, picture: Tensor | None = None, painted: Tensor | None = None, lost: Tensor | None = None) -> Image.Image:
    """The layers over a picture.

    cells: (h, w) in 0..1, at latent size. longest: pixels of the longer side. picture: (3, H, W) in 0..1.
    painted, lost: masks of any size, more than 0 where they are.
    """
    scale = longest / max(cells.shape)
    height, width = (max(1, round(side * scale)) for side in cells.shape)
    frame = torch.tensor(BLANK, dtype=torch.float32)[:, None, None].expand(3, height, width)
    if picture is not None:
        # Less color, so that the layers stand out.
        fitted = F.interpolate(picture.cpu()[None], (height, width), mode="bilinear", antialias=True)[0]
        frame = 255 * (fitted + fitted.mean(0)) / 2
    shown = F.interpolate(cells.cpu().float()[None, None], (height, width), mode="nearest-exact")[0, 0]
    frame = tinted(frame, CELLS, OPAQUE_CELLS * shown)
    for layer, color, opacity in ((painted, PAINTED, OPAQUE_PAINT), (lost, LOST, 1.0)):
        if layer is not None:
            frame = tinted(frame, color, opacity * no_stroke_lost(layer.cpu().float(), (height, width)))
    if scale >= 4:
        frame = tinted(frame, CELLS, edges(shown > 0).float())
    return Image.fromarray(frame.clamp(0, 255).byte().movedim(0, -1).numpy())


def tinted(frame: Tensor, color: tuple[int, int, int], opacity: Tensor) -> Tensor:
    """A color over a picture: (3, H, W) in 0..255; opacity (H, W) in 0..1."""
    return torch.lerp(frame, torch.tensor(color, dtype=torch.float32)[:, None, None].expand_as(frame), opacity.expand_as(frame))


def no_stroke_lost(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A mask (H, W) at another size: larger in squares, smaller by the largest value."""
    enlarged = [max(side, wanted) for side, wanted in zip(mask.shape, size, strict=True)]
    return F.adaptive_max_pool2d(F.interpolate(mask[None, None], enlarged, mode="nearest-exact"), size)[0, 0]


def edges(region: Tensor) -> Tensor:
    """The pixels of a region (H, W) beside one that is not in it."""
    around = F.max_pool2d((~region).float()[None, None], 3, 1, 1)[0, 0] > 0
    return region & around


def with_legend(picture: Image.Image, names: dict[str, tuple[int, int, int]]) -> Image.Image:
    """The picture with the names of the colors below it."""
    whole = Image.new("RGB", (picture.width, picture.height + LEGEND), CAPTION)
    whole.paste(picture)
    draw, font, middle = ImageDraw.Draw(whole), ImageFont.load_default(16), picture.height + LEGEND // 2
    left = 10
    for name, color in names.items():
        draw.rectangle((left, middle - 5, left + 10, middle + 5), color)
        draw.text((left + 17, middle), name, INK, font, anchor="lm")
        left += 17 + round(draw.textlength(name, font)) + 18
    return whole


def as_image(pictures: list[Image.Image]) -> Tensor:
    """Pictures of one size as an IMAGE, (B, H, W, 3) in 0..1."""
    return torch.stack([torch.from_numpy(np.array(picture)).float().div(255) for picture in pictures])
