"""Masks: from picture size to latent size, and dilation in latent pixels (paper, sections 3.2 and 3.3)."""

from __future__ import annotations

import math

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor

RESIZE_MODES = ("max", "coverage", "area", "bilinear", "nearest")
SHAPES = ("square", "disk")


def overlap_weights(pixels: int, cells: int) -> Tensor:
    """The share of each of `cells` equal cells that each of `pixels` pixels covers.

    Returns: (cells, pixels) in float64, rows sum to 1. Exact for every ratio of the two, whole or not.
    """
    ratio = pixels / cells
    left = torch.arange(cells, dtype=torch.float64)[:, None] * ratio
    pixel = torch.arange(pixels, dtype=torch.float64)[None]
    overlap = torch.minimum(left + ratio, pixel + 1) - torch.maximum(left, pixel)
    return overlap.clamp(min=0) / ratio


def area(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The painted share of every cell of a grid of `size` (h, w), in 0..1. mask: (B, H, W) -> (B, h, w)."""
    rows = overlap_weights(mask.shape[-2], size[0]).to(mask)
    columns = overlap_weights(mask.shape[-1], size[1]).to(mask)
    return (rows @ mask @ columns.T).clamp(0, 1)


def coverage(mask: Tensor, size: tuple[int, int], threshold: float = 0.5) -> Tensor:
    """Cells of a grid of `size` (h, w) so that no paint sticks out of them by `threshold` of a cell or more.

    A cell is on where its painted share reaches `threshold`, or where paint in it lies that far from every full cell. So the
    edge of a blob is rounded to the nearest cell, while what no full cell fits into, as strokes, dots and spikes, is kept whole.

    Args:
        mask: (B, H, W) in 0..1; a pixel is painted from the value `threshold` up, so that a blurred edge grows no tail.
        threshold: 0..1; 0 is mode `max` of any paint.

    Returns: (B, h, w) of 0 and 1.
    """
    painted = ((mask > 0) & (mask >= threshold)).to(mask)
    full = 1 - F.adaptive_max_pool2d(1 - painted, size)
    near = F.interpolate(full[:, None], size=mask.shape[-2:], mode="nearest-exact")[:, 0]
    near = _widen(near, *(max(0, math.ceil(threshold * pixels / cells) - 1) for pixels, cells in zip(mask.shape[-2:], size, strict=True)))
    # Shares are sums of float32 products: a tie has to count.
    enough = area(painted, size) >= max(threshold, 1e-6) - 1e-6
    return torch.maximum(enough.to(mask), F.adaptive_max_pool2d(painted * (1 - near), size))


def resize(mask: Tensor, size: tuple[int, int], mode: str = "max", threshold: float = 0.5) -> Tensor:
    """Brings a mask to latent size. The ratio is mask size against `size`, per axis, and need not be whole.

    Args:
        mask: (B, H, W) in 0..1.
        size: (h, w) of the latent.
        mode: `max` a cell takes its largest pixel, so no paint is ever lost; `coverage` see there; `area` the painted share
            itself; `bilinear` torch's, not antialiased, as ComfyUI's core; `nearest` one pixel a cell, at its centre, as PIL
            and the authors' code.
        threshold: 0..1, of mode `coverage` only.

    Returns: (B, h, w) in 0..1.
    """
    match mode:
        case "max":
            return F.adaptive_max_pool2d(mask, size)
        case "coverage":
            return coverage(mask, size, threshold)
        case "area":
            return area(mask, size)
        case "bilinear":
            return F.interpolate(mask[:, None], size=size, mode="bilinear")[:, 0]
        case "nearest":
            return F.interpolate(mask[:, None], size=size, mode="nearest-exact")[:, 0]
    raise ValueError(f"mode was {mode!r}, must be one of {', '.join(RESIZE_MODES)}.")


def kept(mask: Tensor, latent_mask: Tensor) -> Tensor:
    """The painted pixels (> 0) whose cell is on. mask: (B, H, W), latent_mask: (B, h, w). Returns: (B, H, W) of booleans."""
    on = F.interpolate((latent_mask > 0).to(mask)[:, None], size=mask.shape[-2:], mode="nearest-exact")[:, 0]
    return (mask > 0) & (on > 0)


def dropped(mask: Tensor, latent_mask: Tensor) -> tuple[int, int]:
    """What a resize lost: painted pixels (> 0) whose cell is off, and strokes of which no pixel is left.

    A stroke is an 8-connected region of painted pixels. mask: (B, H, W), latent_mask: (B, h, w).

    Returns: (pixels, strokes).
    """
    painted, left = mask > 0, kept(mask, latent_mask)
    pixels = int((painted & ~left).sum())
    if pixels == 0:
        return 0, 0
    strokes = 0
    for one, rest in zip(painted.cpu().numpy(), left.cpu().numpy(), strict=True):
        labels, count = scipy.ndimage.label(one, structure=scipy.ndimage.generate_binary_structure(2, 2))
        strokes += count - np.count_nonzero(np.unique(labels[rest]))
    return pixels, int(strokes)


def _widen(mask: Tensor, reach_y: int, reach_x: int) -> Tensor:
    """The largest value within `reach_y` rows and `reach_x` columns of each pixel."""
    height, width = mask.shape[-2:]
    reach_y, reach_x = min(reach_y, height - 1), min(reach_x, width - 1)
    rows = F.max_pool2d(mask, (2 * reach_y + 1, 1), stride=1, padding=(reach_y, 0))
    return F.max_pool2d(rows, (1, 2 * reach_x + 1), stride=1, padding=(0, reach_x))


def dilate(mask: Tensor, kernel: int, shape: str = "square") -> Tensor:
    """Grey dilation with an all-ones structuring element of an odd width of `kernel` latent pixels.

    For a binary mask this is `scipy.ndimage.binary_dilation` with np.ones((kernel, kernel)), or with the disk
    dx² + dy² <= (kernel // 2)². Cost grows with `kernel`, not with its square.

    Args:
        mask: (B, h, w) in 0..1.
        kernel: odd, >= 1; 1 leaves the mask as it is.
        shape: `square` (the paper's) or `disk`.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel was {kernel}, must be an odd number of latent pixels, 1 or more.")
    radius = kernel // 2
    if shape == "square":
        return _widen(mask, radius, radius)
    if shape != "disk":
        raise ValueError(f"shape was {shape!r}, must be one of {', '.join(SHAPES)}.")
    height = mask.shape[-2]
    wide = mask.clone()
    for dy in range(min(radius, height - 1) + 1):
        row = _widen(mask, 0, math.isqrt(radius**2 - dy**2))
        wide[..., dy:, :] = torch.maximum(wide[..., dy:, :], row[..., : height - dy, :])
        wide[..., : height - dy, :] = torch.maximum(wide[..., : height - dy, :], row[..., dy:, :])
    return wide


def soften(mask: Tensor, width: int) -> Tensor:
    """A linear ramp of `width` latent pixels outside the mask, whose inside stays as it is: (B, h, w) -> (B, h, w)."""
    return torch.stack([_widen(mask, reach, reach) for reach in range(width + 1)]).mean(0)
