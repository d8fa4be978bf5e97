"""Which VAEs can be tuned, and how their decoders end. To make another class tunable, add a function here and a row to TAILS."""

from __future__ import annotations

from collections.abc import Callable

import comfy.sd
import torch.nn.functional as functional
from torch import Tensor, nn

from ...bld.reconstruction.tail import Stage, Tail, picture_of
from ..comfy_internals import autoencoder, cascade, frame_convolution, hunyuan_image, hunyuan_video, ldm, taesd, wan, wan22
from .pixels import signed


def tail_of(vae: comfy.sd.VAE) -> Tail:
    """The last stages of a VAE's decoder, from a quarter of the picture's size on.

    Raises ValueError for a VAE that cannot be tuned, and names the methods that work.
    """
    module = vae.first_stage_model
    make = next((make for kind, make in TAILS.items() if isinstance(module, kind)), None)
    tail = make(module) if make is not None and vae.output_channels >= 3 else None
    if tail is None:
        raise ValueError(
            f"vae is a {type(module).__name__}, whose decoder can't be tuned: use method paste, colour fit, poisson or auto, "
            "or an image VAE (SD, SDXL, SD3, Flux, TAESD, Qwen-Image, Wan, Stable Cascade, HunyuanImage, HunyuanVideo)."
        )
    return tail


def ldm_tail(module: nn.Module) -> Tail | None:
    """For the decoders of SD, SDXL, SD3, Flux and HunyuanImage, and for one frame of HunyuanVideo's."""
    decoder = module.decoder
    if type(decoder) not in (ldm.Decoder, hunyuan_image.Decoder, hunyuan_video.Decoder):
        return None
    # The oldest decoder numbers its levels from the picture on.
    levels = list(reversed(decoder.up) if isinstance(decoder, ldm.Decoder) else decoder.up)[-LEVELS - 1 :]
    convolve = frame_convolution(decoder.conv_out)
    if convolve is None or any(len(getattr(level, "attn", [])) > 0 for level in levels):
        return None
    layers = [layer for level in levels for layer in [*level.block, getattr(level, "upsample", None)] if layer is not None]
    last = Stage(lambda h: picture_of(convolve(functional.silu(decoder.norm_out(h)))), reach=reach_of(decoder.conv_out))
    return Tail(layers[0], (*map(stage_of, layers), last), nn.ModuleList([*layers, decoder.norm_out, decoder.conv_out]))


def stage_a_tail(module: nn.Module) -> Tail:
    """For Stable Cascade's last stage, which ends with a shuffle that doubles the size. It draws in 0..1."""
    return sequence_tail([*module.up_blocks, *module.out_block], signed)


def taesd_tail(module: nn.Module) -> Tail:
    """For the tiny autoencoders, whose decoder is one sequence."""
    return sequence_tail(list(module.taesd_decoder), signed)


def wan_tail(module: nn.Module) -> Tail:
    """For the video VAE of Qwen-Image and Wan 2.1, with one frame."""
    return sequence_tail([*module.decoder.upsamples, *module.decoder.head], picture_of)


def wan22_tail(module: nn.Module) -> Tail:
    """For the video VAE of Wan 2.2, with one frame. It ends with a shuffle that doubles the size, so one more doubling is a quarter."""
    doubling, last = module.decoder.upsamples[-2:]
    *blocks, resample = doubling.upsamples
    layers = [last, *module.decoder.head]
    first = Stage(doubling, 2, 2 * sum(map(reach_of, blocks)) + reach_of(resample))
    shuffle = Stage(lambda y: picture_of(wan22.unpatchify(y, patch_size=2)), 2)
    return Tail(doubling, (first, *map(stage_of, layers), shuffle), nn.ModuleList([doubling, *layers]))


def sequence_tail(layers: list[nn.Module], finish: Callable[[Tensor], Tensor]) -> Tail:
    """For layers in a row, from one that doubles the size on."""
    last = layers[[i for i, layer in enumerate(layers) if isinstance(layer, DOUBLING)][-LEVELS] :]
    return Tail(last[0], (*map(stage_of, last), Stage(finish)), nn.ModuleList(last))


def stage_of(layer: nn.Module) -> Stage:
    """One layer as a stage."""
    grow = 2 if isinstance(layer, DOUBLING) else 1
    return Stage(layer, grow, reach_of(layer) * (grow if isinstance(layer, SHUFFLING) else 1))


def reach_of(layer: nn.Module) -> int:
    """How far a layer looks, in the cells that it convolves: half of each convolution's kernel, or a quarter if it doubles the size."""
    kernels = [(part.kernel_size[-1], part.transposed) for part in layer.modules() if isinstance(part, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d)]
    return sum(size // (4 if doubles else 2) for size, doubles in kernels)


# How often the tuned stages double the size.
LEVELS = 2
# What doubles the size; of these, what convolves first and then spreads the channels over the new cells.
DOUBLING = (ldm.Upsample, nn.Upsample, nn.ConvTranspose2d, nn.PixelShuffle, wan.Resample, hunyuan_image.PixelUnshuffle2D, hunyuan_video.UpSmpl)
SHUFFLING = (hunyuan_image.PixelUnshuffle2D, hunyuan_video.UpSmpl)
TAILS: dict[type, Callable[[nn.Module], Tail | None]] = {
    autoencoder.AutoencodingEngine: ldm_tail,
    cascade.StageA: stage_a_tail,
    taesd.TAESD: taesd_tail,
    wan.WanVAE: wan_tail,
    wan22.WanVAE: wan22_tail,
}


def check_tunable(vae: comfy.sd.VAE, z: Tensor) -> None:
    """Raises ValueError for a VAE that cannot be tuned for a latent, and names the methods that work."""
    if z.ndim == 5 and z.shape[2] > 1:
        raise ValueError(f"samples is a video of {z.shape[2]} latent frames, and only pictures can be fitted: use method paste, colour fit, poisson or auto.")
    tail_of(vae)


def why_not_tuned(vae: comfy.sd.VAE, z: Tensor) -> str | None:
    """Why this VAE's decoder cannot be tuned for a latent, or None if it can."""
    try:
        check_tunable(vae, z)
    except ValueError as error:
        return str(error)
    return None
