"""x_hat · m + x · (1 - m) in pixels: the background is exact, the seam is visible."""

from __future__ import annotations

import torch
from scipy.ndimage import maximum_filter
from torch import Tensor

from .crop import depth


def feather_inside(m: Tensor, width: int) -> Tensor:
    """The mask times a linear ramp over the `width` pixels next to where it is 0; the frame's edge is no such place.

    (B, H, W) in 0..1 -> (B, H, W), nowhere more than m. Cost does not depend on the width.
    """
    return m * (depth(m > 0).to(m) / (width + 1)).clamp(max=1)


def fitting_feather(m: Tensor, width: int, share: int = 4) -> Tensor:
    """`feather_inside` of at most 1/`share` of how deep the mask is nearby, so that a thin stroke keeps its strength.

    (B, H, W) in 0..1 -> (B, H, W), nowhere more than m.
    """
    inside, reach = depth(m > 0), 2 * width * share + 1
    deepest = torch.from_numpy(maximum_filter(inside.numpy(), (1, reach, reach))).clamp(max=width * share)
    return m * (inside / (deepest // share + 1)).clamp(max=1).to(m)


def paste(x_hat: Tensor, x: Tensor, m: Tensor, feather: int = 0) -> Tensor:
    """The edit inside the mask, the source's own pixels elsewhere, whatever x_hat holds there.

    Args:
        x_hat: (B, C, H, W).
        x: (B or 1, C, H, W).
        m: (B or 1, H, W) in 0..1.
        feather: pixels of transition, all of them inside the mask.
    """
    m = feather_inside(m, feather)[:, None]
    return torch.where(m > 0, x_hat * m + x * (1 - m), x)
