"""x_hat · m + x · (1 - m) in pixels: the background is exact, the seam is visible."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor


def feather_inside(m: Tensor, width: int) -> Tensor:
    """The mask times a linear ramp over the `width` pixels next to where it is 0; the frame's edge is no such place.

    (B, H, W) in 0..1 -> (B, H, W), nowhere more than m. Cost does not depend on the width.
    """
    if width == 0:
        return m
    # Without a pixel outside there is no distance to it, and scipy returns nonsense.
    distances = [distance_transform_edt(region) if not region.all() else np.full(region.shape, np.inf) for region in (m > 0).cpu().numpy()]
    return m * (torch.from_numpy(np.stack(distances)).to(m) / (width + 1)).clamp(max=1)


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
