"""A mask for a latent: which masks of a batch belong to which sample and frame, and their shape beside the samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from numbers import Real

import torch
from comfy.sd import VAE
from torch import Tensor

from ..bld import masks
from ..bld.schedule import MaskSchedule
from .checks import as_mask, as_samples, check_batch
from .mask_picture import resize_pictures
from .vae.pixels import ratios_of


def sets_of_frames(count: int, latent: dict, vae: VAE | None = None, name: str = "mask", of: str = "latent") -> tuple[int, int]:
    """How `count` masks belong to the latent, as in `masks.video_frames`. Beside a picture, each mask is a set of its own.

    Raises ValueError for a count that fits neither samples nor frames.
    """
    samples = latent["samples"]
    if samples.ndim == 4 or samples.shape[2] == 1:
        check_batch(count, len(samples), name, of)
        return count, 1
    if count == 1:
        return 1, 1
    ratio = latent.get("downscale_ratio_temporal") or (ratios_of(vae, samples)[0] if vae else None)
    return masks.video_frames(count, len(samples), samples.shape[2], ratio)


def of_latent(mask: Tensor, samples: Tensor, sets: int, ratio: int, mode: str = "max", threshold: float = 0.5) -> Tensor:
    """Masks (sets · frames, H, W), cropped as VAE Encode crops, for samples (N, C, ..., h, w): (sets, latent frames, h, w)."""
    frames = samples.shape[2] if samples.ndim == 5 else 1
    small = masks.resize(mask, tuple(samples.shape[-2:]), mode, threshold).unflatten(0, (sets, -1))
    return masks.pool_frames(small, frames, ratio) if small.shape[1] > 1 else small.expand(-1, frames, -1, -1)


def noise_mask(mask: Tensor, samples: Tensor) -> Tensor:
    """(B, h, w) in the shape of ComfyUI's noise masks beside samples (N, C, ..., h, w): (1 or N, 1, ..., h, w). One in that shape stays.

    Beside a video of T latent frames, a multiple of T masks is one for each frame.
    """
    if mask.ndim == samples.ndim:
        return mask
    if samples.ndim == 4:
        return mask[:, None]
    frames = samples.shape[2] if len(mask) % samples.shape[2] == 0 else 1
    return mask.reshape(-1, 1, frames, *mask.shape[-2:])


def fitted(schedule: MaskSchedule, samples: Tensor, name: str = "mask_schedule") -> MaskSchedule:
    """The schedule in the shape of the samples (N, C, ..., h, w): its masks are (S, 1 or N, 1, ..., h, w).

    Raises ValueError for a schedule of another size or batch than the samples.
    """
    (height, width), size = schedule.thin.shape[-2:], samples.shape[-2:]
    if (height, width) != tuple(size):
        raise ValueError(
            f"{name} was made for a latent of {width}x{height}, but the latent is {size[1]}x{size[0]}: resize the mask with Latent Mask Resize first."
        )
    masks = torch.stack([noise_mask(mask, samples) for mask in schedule.masks])
    check_batch(masks.shape[1], len(samples), name, "the latent" if samples.ndim == 4 else f"the latent of {samples.shape[2]} frames")
    return replace(schedule, masks=masks)


def as_schedule(value) -> MaskSchedule:
    """A MASK_SCHEDULE as ours. Another pack's needs only `masks` and `shares`. Raises ValueError for masks or shares that can't be used."""
    if not isinstance(value.masks, Tensor) or not isinstance(value.shares, Sequence) or not all(isinstance(share, Real) for share in value.shares):
        raise ValueError("mask_schedule must have masks as a tensor and shares as a list of numbers: connect Progressive Mask Dilate.")
    # The masks first, which may be of any type and not of numbers.
    masks = as_mask(value.masks.flatten(0, -3), "mask_schedule") if value.masks.ndim >= 4 else value.masks
    return MaskSchedule(masks.view(value.masks.shape), tuple(map(float, value.shares)))


def resize_for(
    mask: Tensor, latent: dict, mode: str, threshold: float, invert: bool, vae: VAE | None, image: Tensor | None
) -> tuple[Tensor, dict, str, Tensor]:
    """A mask (B, H, W) brought to a LATENT: the masks at its size, (frames, h, w), the LATENT with them as noise_mask, the report,
    and an IMAGE of each mask over its picture, if there is one.
    """
    samples = as_samples(latent)
    sets, ratio = sets_of_frames(len(mask), latent, vae)
    if invert:
        mask = 1 - mask
    part = masks.as_encoded(mask, tuple(samples.shape[-2:]))
    small = of_latent(part, samples, sets, ratio, mode, threshold)
    part = part.unflatten(0, (sets, -1))
    report = resize_report(mask, part, small, ratio, mode)
    painted = masks.pool_frames(part, small.shape[1], ratio) if part.shape[1] > 1 else part.expand(-1, small.shape[1], -1, -1)
    small = small.flatten(0, 1)
    return small, {**latent, "noise_mask": noise_mask(small, samples)}, report, resize_pictures(painted.flatten(0, 1), small, image)


def resize_report(mask: Tensor, part: Tensor, small: Tensor, ratio: int, mode: str) -> str:
    """What a resize kept and lost.

    mask: (B, H, W), the input. part: (sets, frames, H, W), the part that VAE Encode keeps. small: (sets, latent frames, h, w).
    """
    spread = masks.spread_frames(small, ratio)
    frames = min(part.shape[1], spread.shape[1])
    part, spread = part[:, :frames].flatten(0, 1), spread[:, :frames].flatten(0, 1)
    report = "".join(
        [
            f"{mask.shape[-1]}x{mask.shape[-2]}",
            f", cropped to {part.shape[-1]}x{part.shape[-2]} like the picture in VAE Encode," if part.shape[-2:] != mask.shape[-2:] else "",
            f" to {small.shape[-1]}x{small.shape[-2]}",
            f", {len(mask)} frames to {small.shape[0] * small.shape[1]}" if small.shape[1] > 1 else "",
            f" without the last {len(mask) // small.shape[0] - frames}, which VAE Encode drops too" if len(mask) > len(part) else "",
            f", mode {mode}: ",
        ]
    )
    pixels, strokes = masks.dropped(part, spread)
    if pixels == 0:
        return report + f"every painted pixel kept, {float((small > 0).float().mean()):.1%} of the latent masked."
    report += f"{pixels} of {int((part > 0).sum())} painted pixels and {strokes} whole strokes dropped; mode max keeps them."
    if strokes:
        logging.warning("Latent Mask Resize: %s", report)
    return report
