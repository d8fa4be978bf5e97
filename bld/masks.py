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


def resize(mask: Tensor, size: tuple[int, int], mode: str = "max", threshold: float = 0.1) -> Tensor:
    """Brings a mask to latent size. The ratio is mask size against `size`, per axis, and need not be whole.

    Args:
        mask: (B, H, W) in 0..1.
        size: (h, w) of the latent.
        mode: `max` a cell takes its largest pixel, so no stroke is ever lost; `coverage` 1 where the painted share
            reaches `threshold`; `area` the painted share itself; `bilinear` torch's, not antialiased, as ComfyUI's core;
            `nearest` one pixel a cell, at its centre, as PIL and the authors' code.
        threshold: 0..1, of mode `coverage` only.

    Returns: (B, h, w) in 0..1.
    """
    match mode:
        case "max":
            return F.adaptive_max_pool2d(mask, size)
        case "coverage":
            return (area(mask, size) >= max(threshold, 1e-6)).to(mask)
        case "area":
            return area(mask, size)
        case "bilinear":
            return F.interpolate(mask[:, None], size=size, mode="bilinear")[:, 0]
        case "nearest":
            return F.interpolate(mask[:, None], size=size, mode="nearest-exact")[:, 0]
    raise ValueError(f"mode was {mode!r}, must be one of {', '.join(RESIZE_MODES)}.")


def dropped(mask: Tensor, latent_mask: Tensor) -> tuple[int, int]:
    """What a resize lost: painted pixels (> 0) none of whose cells is on, and strokes of which no pixel is left.

    A stroke is an 8-connected region of painted pixels. mask: (B, H, W), latent_mask: (B, h, w).

    Returns: (pixels, strokes).
    """
    kept = F.interpolate((latent_mask > 0).to(mask)[:, None], size=mask.shape[-2:], mode="nearest-exact")[:, 0] > 0
    painted = mask > 0
    pixels = int((painted & ~kept).sum())
    if pixels == 0:
        return 0, 0
    strokes = 0
    for one, left in zip(painted.cpu().numpy(), kept.cpu().numpy(), strict=True):
        labels, count = scipy.ndimage.label(one, structure=scipy.ndimage.generate_binary_structure(2, 2))
        strokes += count - np.count_nonzero(np.unique(labels[left]))
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
