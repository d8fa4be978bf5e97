"""One clear sentence for a bad input: what it is called, what it was and what it must be."""

from __future__ import annotations

import torch
from torch import Tensor

# How far beyond 0..1 a mask may reach: bicubic resizing of a hard mask overshoots by up to 0.4453.
OVERSHOOT = 0.45
# Numbers in a tensor, 256 GiB of them in float32: one that claims more repeats a few without holding them, and any work on it would.
MOST = 2**36


def as_mask(mask: Tensor, name: str = "mask") -> Tensor:
    """A MASK as (B, H, W), float32, in 0..1; a bare (H, W) counts as a batch of one. What rounding and resizing put beyond 0..1 is cut.

    Raises ValueError for another rank, an empty side, NaN, and values that no resizing makes, such as 0..255 and -1..1.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or mask.numel() == 0:
        raise ValueError(f"{name} has shape {list(mask.shape)}, but must be (batch, height, width).")
    mask = mask.float()
    if not torch.isfinite(mask).all():
        raise ValueError(f"{name} contains NaN or infinite values: check the node that made it.")
    if mask.min() < -OVERSHOOT or mask.max() > 1 + OVERSHOOT:
        raise ValueError(f"{name} has values from {float(mask.min()):.3g} to {float(mask.max()):.3g}, but they must lie between 0 and 1: rescale it.")
    return mask.clamp(0, 1)


def as_samples(latent: dict, name: str = "latent") -> Tensor:
    """The samples of a LATENT of pictures, (B, C, h, w), or of videos, (B, C, T, h, w).

    Raises ValueError where there are none, where they hold NaN, and for nested and audio latents.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor) and not getattr(samples, "is_nested", False):
        raise ValueError(f"{name} is not a latent: connect a LATENT, for example from VAE Encode.")
    if getattr(samples, "is_nested", False):
        raise ValueError(f"{name} is a nested latent of audio and video: connect a latent of pictures or of video alone.")
    if samples.ndim == 3 or latent.get("type") == "audio":
        raise ValueError(f"{name} is an audio latent: connect a latent of pictures or video.")
    if samples.ndim not in (4, 5) or not 0 < samples.numel() <= MOST:
        raise ValueError(f"{name} has shape {list(samples.shape)}, but must be (batch, channels, height, width), for video with frames before the height.")
    if not torch.isfinite(samples).all():
        raise ValueError(f"{name} contains NaN or infinite values: check the node that made it.")
    return samples


def check_total(numbers: int, what: str) -> None:
    """Raises ValueError, before any work, where inputs that are each within their limits together ask for more than any memory holds.

    numbers: how many, as a plain product. what: the sentence's subject, which begins with the input's name, up to what it would make.
    """
    if numbers > MOST:
        raise ValueError(f"{what} of {numbers * 4 / 2**30:.0f} GiB: choose a smaller one, or fewer at once.")


def check_batch(count: int, batch: int, name: str, of: str, frames: int = 1) -> None:
    """One for all or one each: raises ValueError for any other count, so that nothing is cycled or cut silently.

    frames: where the batch is videos, one after the other, of so many frames each, those of one video serve for all, too.
    """
    if count in (1, frames, batch):
        return
    if frames == 1:
        raise ValueError(f"{name} has {count} in its batch, but {of} has {batch}: connect one for all or one for each.")
    each = f", or all {batch}" if batch > frames else ""
    raise ValueError(f"{name} has {count} in its batch, but {of} has {batch} frames in videos of {frames}: connect 1 for all, {frames} for each video{each}.")


def frames_of(frames: int | None, batch: int, of: str) -> int:
    """How many frames each video of a batch has, where 0 stands for all of them, None for 1. Raises ValueError where the batch is no whole number of videos."""
    frames = 1 if frames is None else frames
    if frames > 0 and batch % frames:
        raise ValueError(f"frames is {frames}, but {of} has {batch} pictures, which is not a multiple of it: set it to the frames of each video, or to 0.")
    return frames or batch


def as_picture(image: Tensor, name: str = "image") -> Tensor:
    """An IMAGE as (B, 3, H, W), float32; alpha is dropped.

    Raises ValueError for another rank, an empty side, fewer than three channels or NaN.
    """
    check_shape(image, name)
    image = image[..., :3].float()
    # One by one: the frames of a video are many.
    if not all(torch.isfinite(one).all() for one in image):
        raise ValueError(f"{name} contains NaN or infinite values: check the node that made it.")
    return image.movedim(-1, 1).contiguous()


def check_shape(image: Tensor, name: str = "image") -> None:
    """Raises ValueError for an IMAGE of another rank, with an empty side or fewer than three channels. Reads no pixels."""
    if image.ndim != 4 or image.shape[-1] < 3 or image.numel() == 0:
        raise ValueError(f"{name} has shape {list(image.shape)}, but must be (batch, height, width, 3).")


def printable(text: str) -> str:
    """A text in which control characters, and those that turn its direction, are written as their codes."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode() for one in text)
