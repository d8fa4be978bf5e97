"""The part of a large picture that an edit needs to see: a window around the mask, and the crop that is made of it at a size that a model likes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch.nn.functional as functional
from torch import Tensor


@dataclass(frozen=True)
class Side:
    """Rows or columns: where the window starts in the picture, how long it is, and how long the crop that is made of it."""

    start: int
    length: int
    crop: int

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.length)


@dataclass(frozen=True)
class Window:
    """A window in a picture (..., H, W)."""

    rows: Side
    columns: Side

    @property
    def place(self) -> tuple:
        """An index that cuts it out."""
        return ..., self.rows.slice, self.columns.slice

    @property
    def crop(self) -> tuple[int, int]:
        """Height and width of the crop."""
        return self.rows.crop, self.columns.crop

    @property
    def is_scaled(self) -> bool:
        """Whether the crop has another size than the window."""
        return self.crop != (self.rows.length, self.columns.length)


def window_around(m: Tensor, context: float, multiple: int, side: int = 0) -> Window:
    """The window that shows all that is painted and what is around it.

    It lies in the picture, as near as possible to centered on the mask. It gets smaller than the context asks for where the picture ends,
    by at most a half where the picture goes on.

    Args:
        m: (B, H, W); painted where it is above 0, and somewhere it is. One window for all.
        context: how far it reaches beyond the paint on every side, as a share of the paint's longer side; one pixel
            at least, so that the mask has an edge in it.
        multiple: of which both sides of the crop are one. Where a picture is too small for that, the crop is stretched to it.
        side: the crop gets about as many pixels as a square of this side; 0 keeps the picture's own pixels.
    """
    painted = (m > 0).any(0)
    boxes = [(int(line[0]), int(line[-1]) + 1) for line in (painted.any(1).nonzero(), painted.any(0).nonzero())]
    reach = max(1.0, context * max(high - low for low, high in boxes))
    wanted = [min(full, high - low + 2 * reach) for (low, high), full in zip(boxes, painted.shape, strict=True)]
    scale = side / math.sqrt(math.prod(wanted)) if side else 1.0
    return Window(*(_side(*box, reach, length, full, multiple, scale) for box, length, full in zip(boxes, wanted, painted.shape, strict=True)))


def _side(low: int, high: int, reach: float, wanted: float, full: int, multiple: int, scale: float) -> Side:
    crop = multiple * math.ceil(wanted * scale / multiple - 1e-6)
    length = round(crop / scale)
    if length > full:
        smaller = multiple * math.floor(full * scale / multiple)
        fits = round(smaller / scale) >= min(full, high - low + max(2.0, reach))
        crop, length = (smaller, round(smaller / scale)) if fits else (crop, full)
    start = min(max(0, round((low + high - length) / 2)), full - length)
    return Side(start, length, crop)


def scaled(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture (B, C, H, W) in 0..1 at another size, bicubic; what this puts beyond 0..1 is cut. One of this size stays."""
    if tuple(picture.shape[-2:]) == size:
        return picture
    return functional.interpolate(picture, size=size, mode="bicubic", antialias=True).clamp(0, 1)
