"""Blending in pixels in the last steps (the authors' SD scripts): around the mask, the predicted picture gets the source's own pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...bld import masks
from ..checks import check_batch
from ..comfy_internals import bytes_to_decode, bytes_to_encode, levels_of_call, load_again
from ..latent_masks import sets_of_frames
from ..vae.pixels import ratios_of, with_channels_of
from .candidates import Helpers
from .stages import stage_of_call


@dataclass(frozen=True, eq=False)
class PixelBlend:
    """A `sampler_post_cfg_function` of ComfyUI: decodes the prediction, puts the source around the mask, and encodes it again.

    Attributes:
        pixels: (1 or N, F, H, W, C) in 0..1; F is 1 for a picture.
        mask: (1 or N, 1 or F, H, W, 1) in 0..1. Where it is 1, the prediction stays.
        start: the share of the schedule, 0..1, at which the blend begins. The last step is always blended.
        helpers: the VAE's weights and work.
    """

    vae: comfy.sd.VAE
    pixels: Tensor
    mask: Tensor
    start: float
    helpers: Helpers

    def rows(self, index: list[int]) -> PixelBlend:
        """The blend of some of the batch, in that order."""
        pixels, mask = (value if len(value) == 1 else value[index] for value in (self.pixels, self.mask))
        return replace(self, pixels=pixels, mask=mask)

    def __call__(self, args: dict) -> Tensor:
        denoised, inner = args["denoised"], args["model"]
        if stage_of_call([self.start], args["sigma"], levels_of_call(args["model_options"]), inner.model_sampling) == 0:
            return denoised
        z = inner.process_latent_out(denoised.float())
        if z.ndim == 4:
            blended = self.blend(z, self.pixels[:, 0], self.mask[:, 0])
        else:
            # ComfyUI's video VAEs encode one video at a time. Its frames lie where a batch of pictures does.
            of_each = (value.expand(len(z), *value.shape[1:]) for value in (self.pixels, self.mask))
            blended = torch.cat([self.blend(one, pixels, mask) for one, pixels, mask in zip(z.split(1), *of_each, strict=True)])
        load_again(inner.current_patcher, {name: args[name] for name in ("cond", "uncond") if args[name]}, denoised.shape)
        return inner.process_latent_in(blended.to(denoised))

    def blend(self, z: Tensor, pixels: Tensor, mask: Tensor) -> Tensor:
        """z: (B, C, h, w) or one video (1, C, T, h, w); pixels, mask: (1 or B or F, H, W, ...)."""
        picture = self.vae.decode(z).flatten(0, -4)
        mask = mask.to(picture)
        return self.vae.encode(picture * mask + pixels.to(picture) * (1 - mask))


def with_pixel_blend(model: ModelPatcher, blend: PixelBlend) -> ModelPatcher:
    """A clone of the model whose predictions are blended in pixels."""
    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(blend)
    return patched


def blend_of(share: float, vae: comfy.sd.VAE | None, pixels: Tensor | None, mask: Tensor | None, samples: Tensor) -> PixelBlend | None:
    """The blend for the last `share` (0..1) of the schedule for samples like these, or None if it is 0.

    Raises ValueError if vae, pixels or mask is missing, or if pixels are not the picture that the samples were encoded from.
    """
    if share == 0:
        return None
    missing = [name for name, value in (("vae", vae), ("pixels", pixels), ("a mask", mask)) if value is None]
    if missing:
        raise ValueError(f"pixel_blend is {share:g}, which needs {' and '.join(missing)}: connect {'it' if len(missing) == 1 else 'them'}, or set it to 0.")
    to_latent_frame, scale = ratios_of(vae, samples)
    height, width = (scale * side for side in samples.shape[-2:])
    pixels = masks.cropped(with_channels_of(vae, pixels).movedim(-1, 1), samples.shape[-2:], scale).movedim(1, -1)
    if pixels.shape[1:3] != (height, width):
        raise ValueError(f"pixels are {pixels.shape[2]}x{pixels.shape[1]}, but latent_image comes from a picture of {width}x{height}: connect that picture.")
    frames = 1 if samples.ndim == 4 else 1 + (samples.shape[2] - 1) * to_latent_frame
    if len(pixels) % frames:
        raise ValueError(f"pixels have {len(pixels)} frames, but latent_image comes from a video of {frames}: connect that video.")
    pixels = pixels.unflatten(0, (-1, frames))
    check_batch(len(pixels), len(samples), "pixels", "latent_image")
    sets, ratio = sets_of_frames(len(mask), {"samples": samples}, vae, of="latent_image")
    mask = masks.resize(masks.as_encoded(mask, samples.shape[-2:]), (height, width), "nearest").unflatten(0, (sets, -1))
    if mask.shape[1] > 1:
        mask = masks.spread_frames(mask, to_latent_frame) if ratio == 1 else mask[:, :frames]
    memory = max(bytes_to_decode(vae, samples.shape[1:]), bytes_to_encode(vae, pixels.shape[1:]))
    return PixelBlend(vae, pixels, mask[..., None], 1 - share, Helpers((vae.patcher,), memory))
