"""x_hat · m + x · (1 - m) in pixels: the background is exact, the seam is visible."""

from __future__ import annotations

import torch
from torch import Tensor

from ..edges import feather_inside


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
