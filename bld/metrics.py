"""Figures of an edit."""

from __future__ import annotations

import math

from torch import Tensor


def background_psnr(x_hat: Tensor, x: Tensor, m: Tensor) -> float:
    """PSNR in dB of the area that the mask leaves out, against the source; infinite where it is the source exactly.

    Args:
        x_hat: (B, C, H, W) in 0..1.
        x: (B or 1, C, H, W) in 0..1.
        m: (B or 1, H, W) in 0..1; pixels with m = 0 count. NaN where there are none.
    """
    outside = (m == 0)[:, None].expand(len(x_hat), x_hat.shape[1], -1, -1)
    squares = (x_hat - x).square()[outside]
    if squares.numel() == 0:
        return math.nan
    mse = float(squares.double().mean())
    return math.inf if mse == 0 else -10 * math.log10(mse)
