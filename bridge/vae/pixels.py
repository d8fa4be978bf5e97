"""Pictures and masks on their way into a VAE and out of it: ranges, layouts and crops."""

from __future__ import annotations

from collections.abc import Callable

import comfy.sd
import torch
from torch import Tensor

from ...bld.reconstruction.tail import frames_of, is_video, picture_of

# Latent cells a side, enough to see how large a VAE draws one.
CORNER = 4


@torch.no_grad()
def ratios_of(vae: comfy.sd.VAE, z: Tensor) -> tuple[int, int]:
    """(frames to each latent frame but the first, pixels a side of a latent cell), as the VAE draws a corner of z, (B, C, ..., h, w).

    What a VAE says of itself may be wrong: ComfyUI's object for FLUX.2's tiny autoencoder says 8 pixels and draws 16.
    Raises ValueError for latents of another VAE.
    """
    check_channels(vae, z, "latent")
    corner = z[:1, ..., :CORNER, :CORNER]
    video = z.ndim == 5 and z.shape[2] > 1
    drawn = vae.decode(corner[:, :, :2] if video else corner)
    return drawn.shape[1] - 1 if video else 1, drawn.shape[-2] // corner.shape[-1]


def check_channels(vae: comfy.sd.VAE, z: Tensor, name: str) -> None:
    """Raises ValueError for latents (B, C, ..., h, w) of another VAE's channels."""
    if z.shape[1] != vae.latent_channels:
        raise ValueError(f"{name} has {z.shape[1]} channels, but vae needs {vae.latent_channels}: connect the VAE that encoded the source.")


def with_channels_of(vae: comfy.sd.VAE, pixels: Tensor) -> Tensor:
    """Pixels (..., C) with as many channels as the VAE takes. Of a list of pixels, ComfyUI's function crops nothing."""
    return vae.vae_encode_crop_pixels(pixels.flatten(0, -2)).unflatten(0, pixels.shape[:-1])


def decode_of(vae: comfy.sd.VAE) -> Callable[[Tensor], Tensor]:
    """The decoder as bld calls it: (B, C, ..., h, w) -> (B, 3, H, W) in -1..1, of one video its frames."""
    in_range = (lambda y: y) if vae.process_input(torch.zeros(1)) < 0 else signed
    # LTX's decoder puts its frames where ComfyUI keeps pictures.
    return lambda z: in_range((frames_of if is_video(z) else picture_of)(vae.first_stage_model.decode(z)).to(z.device))


def latents_of(vae: comfy.sd.VAE, pictures: Tensor, frames: int = 1) -> Tensor:
    """The latents of pictures (B, 3, H, W) in 0..1, one at a time, for `decode_of`. If memory runs out, it raises, so that the fit can step down.

    frames: of each video in the batch.
    """
    pixels = vae.process_input(with_channels_of(vae, pictures.movedim(1, -1)).movedim(-1, 1))
    with torch.no_grad():
        return torch.cat([vae.first_stage_model.encode(one.movedim(0, 1)[None] if vae.latent_dim == 3 else one) for one in pixels.split(frames)])


def signed(y: Tensor) -> Tensor:
    """0..1 as -1..1."""
    return y.sub(0.5).mul(2)


def unsigned(y: Tensor) -> Tensor:
    """What a decoder drew, in -1..1 and a little beyond, as 0..1. In place."""
    return y.add_(1).div_(2).clamp_(0, 1)
