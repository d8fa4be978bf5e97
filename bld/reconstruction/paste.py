"""x_hat · m + x · (1 - m) in pixels: the background is exact, the seam is visible."""

from __future__ import annotations

from torch import Tensor

from ..masks import dilate


def feather_inside(m: Tensor, width: int) -> Tensor:
    """A linear ramp of `width` pixels inside the mask's edge; outside it stays 0. (B, H, W) in 0..1 -> (B, H, W)."""
    outside = 1 - m
    return 1 - sum(dilate(outside, 2 * reach + 1) for reach in range(width + 1)) / (width + 1)


def paste(x_hat: Tensor, x: Tensor, m: Tensor, feather: int = 0) -> Tensor:
    """The edit inside the mask, the source's own pixels elsewhere.

    Args:
        x_hat: (B, C, H, W).
        x: (B or 1, C, H, W).
        m: (B or 1, H, W) in 0..1.
        feather: pixels of transition, all of them inside the mask.
    """
    m = feather_inside(m, feather)[:, None]
    return x_hat * m + x * (1 - m)
