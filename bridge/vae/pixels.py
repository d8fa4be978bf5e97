"""Pictures and masks on their way into a VAE and out of it: ranges, layouts and crops."""

from __future__ import annotations

from collections.abc import Callable

import comfy.sd
import torch
from torch import Tensor

from ...bld.reconstruction.tail import picture_of
from ..checks import as_mask


def cropped(m: Tensor, vae: comfy.sd.VAE) -> Tensor:
    """Masks of a picture, (B, H, W) in 0..1, cropped as the VAE crops the picture before it encodes it."""
    return as_mask(vae.vae_encode_crop_pixels(m[..., None].expand(*m.shape, vae.output_channels))[..., 0])


def decode_of(vae: comfy.sd.VAE) -> Callable[[Tensor], Tensor]:
    """The decoder as bld calls it: (B, C, ..., h, w) -> (B, 3, H, W) in -1..1."""
    in_range = (lambda y: y) if vae.process_input(torch.zeros(1)) < 0 else signed
    return lambda z: in_range(picture_of(vae.first_stage_model.decode(z)))


def latents_of(vae: comfy.sd.VAE, pictures: Tensor) -> Tensor:
    """The latents of pictures (B, 3, H, W) in 0..1, one at a time, for `decode_of`. If memory runs out, it raises, so that the fit can step down."""
    pixels = vae.process_input(vae.vae_encode_crop_pixels(pictures.movedim(1, -1)).movedim(-1, 1))
    with torch.no_grad():
        return torch.cat([vae.first_stage_model.encode(one.unsqueeze(2) if vae.latent_dim == 3 else one) for one in pixels.split(1)])


def signed(y: Tensor) -> Tensor:
    """0..1 as -1..1."""
    return y.sub(0.5).mul(2)


def unsigned(y: Tensor) -> Tensor:
    """What a decoder drew, in -1..1 and a little beyond, as 0..1. In place."""
    return y.add_(1).div_(2).clamp_(0, 1)
