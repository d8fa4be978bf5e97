"""The area to reconstruct, following what the edit changed: an edit fills latent cells, while a painted stroke may be thinner than one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..edges import Region

# Changes in 0..1 that count nothing, and that count in full: what a decoder makes of the same cells beside an edit lies below.
LEAST, MOST = 4 / 255, 16 / 255
# Pixels over which changes are averaged, so that single pixels do not fray the edge.
SMOOTH = 3


def follow(m: Tensor, edit: Tensor, source: Tensor, reach: int) -> Tensor:
    """A mask with what the edit changed around it, as soft as the change, and fading out within `reach` pixels of where the mask is more than 0.

    Args:
        m: (B or 1, H, W) in 0..1.
        edit, source: (B, C, H, W) in 0..1, decoded by the same VAE from the edited and from the source's latent.
        reach: 1 or more.

    Returns: (B, H, W) in 0..1, nowhere less than m; 0 more than `reach` pixels from it.
    """
    change = (edit - source).abs().amax(1, keepdim=True)
    change = F.avg_pool2d(change, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)[:, 0]
    alpha = ((change - LEAST) / (MOST - LEAST)).clamp(0, 1)
    outside = Region(m).outside.to(alpha)
    # In full for the first half of the way.
    fade = (2 * (1 - outside / reach)).clamp(0, 1)
    return torch.maximum(m, alpha * fade)


def with_thin(picture: Tensor, plain: Tensor, x: Tensor, broad: Tensor, alpha: Tensor) -> Tensor:
    """A reconstruction with the plain decode under the thin parts of its mask: `picture` itself, changed in place, since videos are large.

    Args:
        picture: (B, C, H, W), of which only what lies under the broad parts of the mask counts.
        plain: (B, C, H, W).
        x: (B or 1, C, H, W), the source.
        broad: (B or 1, H, W), > 0 in the broad parts.
        alpha: (B or 1, H, W) in 0..1, the thin parts as `follow` gives them.
    """
    for i, one in enumerate(picture):
        around = torch.where(broad[i % len(broad)] > 0, one, x[i % len(x)])
        one.copy_(around.lerp(plain[i], alpha[i % len(alpha)]))
    return picture
