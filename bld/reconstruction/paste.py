"""x_hat · m + x · (1 - m) in pixels: the background is exact, the seam is visible."""

from __future__ import annotations

from collections.abc import Callable

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
    return one_by_one(paste_one, x_hat, x, feather_inside(m, feather))


def paste_one(x_hat: Tensor, x: Tensor, m: Tensor) -> Tensor:
    """`paste` of one picture (C, H, W), m: (H, W)."""
    return torch.where(m > 0, x_hat * m + x * (1 - m), x)


def one_by_one(make: Callable[[Tensor, Tensor, Tensor], Tensor], x_hat: Tensor, x: Tensor, m: Tensor) -> Tensor:
    """What `make` gives for each picture of a batch, so that what is computed on the way takes the memory of one picture, not of a whole video.

    x_hat: (B, C, H, W). x: (B or 1, C, H, W). m: (B or 1, H, W). Those of one video may stand for all videos of a batch. Returns: (B, C, H, W).
    """
    result = torch.empty_like(x_hat)
    for i, picture in enumerate(x_hat):
        result[i] = make(picture, x[i % len(x)], m[i % len(m)])
    return result
