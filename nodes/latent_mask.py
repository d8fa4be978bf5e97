"""A mask for a latent: which masks of a batch belong to which sample and frame, and all of them at latent size."""

from __future__ import annotations

from comfy.sd import VAE
from torch import Tensor

from ..bld import masks
from .checks import check_batch


def sets_of_frames(count: int, latent: dict, vae: VAE | None = None, name: str = "mask", of: str = "latent") -> tuple[int, int]:
    """How `count` masks belong to the latent, as in `masks.video_frames`; beside a picture each mask is a set of its own.

    Raises ValueError for a count that fits neither samples nor frames.
    """
    samples = latent["samples"]
    if samples.ndim == 4 or samples.shape[2] == 1:
        check_batch(count, len(samples), name, of)
        return count, 1
    if count == 1:
        return 1, 1
    ratio = latent.get("downscale_ratio_temporal") or (vae.temporal_compression_decode() if vae else None)
    return masks.video_frames(count, len(samples), samples.shape[2], ratio)


def of_latent(mask: Tensor, samples: Tensor, sets: int, ratio: int, mode: str = "max", threshold: float = 0.5) -> Tensor:
    """Masks (sets · frames, H, W), cropped as VAE Encode crops, for samples (N, C, ..., h, w): (sets, latent frames, h, w)."""
    frames = samples.shape[2] if samples.ndim == 5 else 1
    small = masks.resize(mask, tuple(samples.shape[-2:]), mode, threshold).unflatten(0, (sets, -1))
    return masks.pool_frames(small, frames, ratio) if small.shape[1] > 1 else small.expand(-1, frames, -1, -1)
