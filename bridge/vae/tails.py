"""Which VAEs can be tuned, and how their decoders end. To make another class tunable, add a function here and a row to TAILS."""

from __future__ import annotations

from collections.abc import Callable

import comfy.sd
import torch.nn.functional as functional
from torch import Tensor, nn

from ...bld.reconstruction.tail import Stage, Tail, frames_of, is_video, picture_of
from ..comfy_internals import autoencoder, cascade, frame_convolution, hunyuan_image, hunyuan_video, ldm, taesd, wan, wan22
from .pixels import signed

# How often the tuned stages of pictures double the size.
LEVELS = 2


def tail_of(vae: comfy.sd.VAE, z: Tensor | None = None) -> Tail:
    """The last stages of a VAE's decoder for a latent: of pictures from a quarter of their size on, of videos those after the last that adds frames.

    z: None for pictures. Raises ValueError for a VAE that cannot be tuned, and names the methods that work.
    """
    module = vae.first_stage_model
    if z is not None and is_video(z):
        return video_tail(module, z)
    make = next((make for kind, make in TAILS.items() if isinstance(module, kind)), None)
    tail = make(module) if make is not None and vae.output_channels >= 3 else None
    if tail is None:
        raise ValueError(
            f"vae is a {type(module).__name__}, whose decoder can't be tuned: use method paste, colour fit, poisson or auto, "
            "or an image VAE (SD, SDXL, SD3, Flux, TAESD, Qwen-Image, Wan, Stable Cascade, HunyuanImage, HunyuanVideo)."
        )
    return tail


def video_tail(module: nn.Module, z: Tensor) -> Tail:
    """See `tail_of`. Raises ValueError where the decoder's last stages mix frames in another way than by causal convolutions."""
    tail = None
    if isinstance(module, wan.WanVAE):
        tail = sequence_tail([*module.decoder.upsamples, *module.decoder.head], frames_of, levels=1)
    elif isinstance(module, wan22.WanVAE):
        tail = wan22_tail(module, frames_of)
    if tail is None or any(getattr(part, "mode", "") == "upsample3d" for part in tail.modules.modules()):
        raise ValueError(
            f"vae is a {type(module).__name__}, whose decoder can't be tuned for videos, and samples has {z.shape[2]} latent frames: use method paste, "
            "colour fit, poisson or auto, or a VAE of Wan or Qwen-Image."
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


def wan22_tail(module: nn.Module, finish: Callable[[Tensor], Tensor] = picture_of) -> Tail:
    """For the video VAE of Wan 2.2. It ends with a shuffle that doubles the size, so one more doubling is a quarter."""
    doubling, last = module.decoder.upsamples[-2:]
    *blocks, resample = doubling.upsamples
    layers = [last, *module.decoder.head]
    first = Stage(doubling, 2, 2 * sum(map(reach_of, blocks)) + reach_of(resample), past_of(doubling))
    shuffle = Stage(lambda y: finish(wan22.unpatchify(y, patch_size=2)), 2)
    return Tail(doubling, (first, *map(stage_of, layers), shuffle), nn.ModuleList([doubling, *layers]))


def sequence_tail(layers: list[nn.Module], finish: Callable[[Tensor], Tensor], levels: int = LEVELS) -> Tail:
    """For layers in a row, from the last but so many on that double the size."""
    last = layers[[i for i, layer in enumerate(layers) if isinstance(layer, DOUBLING)][-levels] :]
    return Tail(last[0], (*map(stage_of, last), Stage(finish)), nn.ModuleList(last))


def stage_of(layer: nn.Module) -> Stage:
    """One layer as a stage."""
    grow = 2 if isinstance(layer, DOUBLING) else 1
    return Stage(layer, grow, reach_of(layer) * (grow if isinstance(layer, SHUFFLING) else 1), past_of(layer))


def past_of(layer: nn.Module) -> int:
    """How many earlier frames each frame of a layer's output depends on, where its convolutions are causal."""
    return sum(part.kernel_size[0] - 1 for part in layer.modules() if isinstance(part, nn.Conv3d))


def reach_of(layer: nn.Module) -> int:
    """How far a layer looks, in the cells that it convolves: half of each convolution's kernel, or a quarter if it doubles the size."""
    kernels = [(part.kernel_size[-1], part.transposed) for part in layer.modules() if isinstance(part, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d)]
    return sum(size // (4 if doubles else 2) for size, doubles in kernels)


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


def why_not_tuned(vae: comfy.sd.VAE, z: Tensor) -> str | None:
    """Why this VAE's decoder cannot be tuned for a latent, or None if it can."""
    try:
        tail_of(vae, z)
    except ValueError as error:
        return str(error)
    return None
