"""How far pixels are from a mask's edge, and transitions that follow from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.ndimage import binary_dilation, distance_transform_edt
from torch import Tensor

SQUARE = np.ones((1, 3, 3), bool)
# A transition of one pixel needs a mask that is so many pixels deep.
DEPTH_PER_PIXEL = 4


def depth(region: Tensor) -> Tensor:
    """How many pixels each is from the nearest one that is not in the region, 0 for those: (B, H, W) of bool -> float32 on the CPU.

    Infinite where there is none: the frame's edge is no edge of the region.
    """
    # Without a pixel outside there is no distance to it, and scipy returns nonsense.
    depths = [distance_transform_edt(one) if not one.all() else np.full(one.shape, np.inf) for one in region.cpu().numpy()]
    return torch.from_numpy(np.stack(depths).astype(np.float32))


@dataclass(frozen=True, eq=False)
class Region:
    """Where a mask m, (B, H, W) in 0..1, is more than 0. The distances to its edge are computed once, when they are first asked for."""

    m: Tensor

    @cached_property
    def inside(self) -> Tensor:
        """How many pixels each pixel of the region is from its edge, 0 elsewhere, see `depth`."""
        return depth(self.m > 0)

    @cached_property
    def outside(self) -> Tensor:
        """How many pixels each other pixel is from the region, 0 in it, see `depth`."""
        return depth(~(self.m > 0))

    def nearby(self, ring: int) -> Tensor:
        """1 in the region and on the `ring` pixels around, else 0: (B, H, W)."""
        return (self.outside <= ring).to(self.m)

    def rise(self, width: int) -> Tensor:
        """A linear ramp from 0 where m = 0 to 1 inside, over `width` pixels where the mask is broad, over fewer where it is thin.

        It takes w = width, width / 2, width / 4 ... pixels where the mask is at least 4 w deep, and in what can be reached from there
        inside the mask by 4 w pixels: so a box has it up to its corners, a stroke beside a box has none, and one on it hardly.

        Returns: (B, H, W) in 0..1, more than 0 where m is.
        """
        taken = torch.zeros(self.m.shape)
        while width > 0:
            reach = DEPTH_PER_PIXEL * width
            broad = binary_dilation((self.inside >= reach).numpy(), SQUARE, reach, (self.m > 0).cpu().numpy())
            taken = taken.maximum(width * torch.from_numpy(broad))
            width //= 2
        return (self.inside / (taken + 1)).clamp(max=1).to(self.m)


def feather_inside(m: Tensor, width: int) -> Tensor:
    """The mask times a linear ramp over the `width` pixels next to where it is 0; the frame's edge is no such place.

    (B, H, W) in 0..1 -> (B, H, W), nowhere more than m. Cost does not depend on the width.
    """
    return m * (depth(m > 0).to(m) / (width + 1)).clamp(max=1) if width > 0 else m
