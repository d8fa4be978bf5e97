"""Which VAEs can be tuned, and how their decoders end. To make another class tunable, add a function here and a row to TAILS or VIDEO_TAILS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import comfy.sd
import torch.nn.functional as functional
from torch import Tensor, nn

from ...bld.reconstruction.tail import Stage, Tail, frames_of, is_video, norms_of, picture_of
from ..comfy_internals import all_frames, autoencoder, carried, cascade, frame_convolution, hunyuan_image, hunyuan_video, ldm, ltx, taesd, wan, wan22
from .pixels import signed

# How often the tuned stages of pictures double the size.
LEVELS = 2
Maker = Callable[[nn.Module], Tail | None]


def tail_of(vae: comfy.sd.VAE, z: Tensor | None = None) -> Tail:
    """The last stages of a VAE's decoder for a latent: of pictures from a quarter of their size on, of videos those after the last that adds frames.

    z: None for pictures. Raises ValueError for a VAE that cannot be tuned, and names the methods that work.
    """
    module = vae.first_stage_model
    if z is not None and is_video(z):
        return video_tail(module, z)
    tail = made_by(TAILS, module) if vae.output_channels >= 3 else None
    if tail is None:
        raise ValueError(
            f"vae is a {type(module).__name__}, whose decoder can't be tuned: use method paste, colour fit, poisson or auto, "
            "or an image VAE (SD, SDXL, SD3, Flux, TAESD, Qwen-Image, Wan, Stable Cascade, HunyuanImage, HunyuanVideo, LTX)."
        )
    return tail


def video_tail(module: nn.Module, z: Tensor) -> Tail:
    """See `tail_of`. Raises ValueError for a decoder whose last stages don't draw a window of frames as they draw it among all."""
    tail = made_by(VIDEO_TAILS, module)
    if tail is None or any(getattr(part, "mode", "") == "upsample3d" for part in tail.modules.modules()):
        raise ValueError(
            f"vae is a {type(module).__name__}, whose decoder can't be tuned for videos, and samples has {z.shape[2]} latent frames: use method paste, "
            "colour fit, poisson or auto, or a VAE of Wan, Qwen-Image, HunyuanVideo or LTX."
        )
    return tail


def made_by(tails: dict[type, Maker], module: nn.Module) -> Tail | None:
    """What the row of a VAE's class makes, if it has one."""
    return next((make(module) for kind, make in tails.items() if isinstance(module, kind)), None)


def ldm_tail(module: nn.Module) -> Tail | None:
    """For the decoders of SD, SDXL, SD3, Flux and HunyuanImage, and for one frame of HunyuanVideo's."""
    decoder = module.decoder
    return tail_of_levels(decoder, levels_of(decoder)[-LEVELS - 1 :], picture_of) if type(decoder) in LDM else None


def hunyuan_video_tail(module: nn.Module) -> Tail | None:
    """For the decoders of HunyuanVideo and HunyuanVideo 1.5."""
    decoder = module.decoder
    if type(decoder) not in LDM or not isinstance(decoder.conv_out, carried.CarriedConv3d):
        return None
    levels = levels_of(decoder)
    adding = [i for i, level in enumerate(levels) if adds_frames(getattr(level, "upsample", None))]
    return tail_of_levels(decoder, levels[max([len(levels) - 2, *(i + 1 for i in adding)]) :], frames_of)


def levels_of(decoder: nn.Module) -> list[nn.Module]:
    """From the latent to the picture. The oldest decoder numbers them from the picture on."""
    return list(reversed(decoder.up) if isinstance(decoder, ldm.Decoder) else decoder.up)


def adds_frames(upsample: nn.Module | None) -> bool:
    """Whether what ends a level of a video's decoder makes more frames, too."""
    return getattr(upsample, "tus", False) or isinstance(getattr(upsample, "scale_factor", None), float)


def tail_of_levels(decoder: nn.Module, levels: list[nn.Module], finish: Callable[[Tensor], Tensor]) -> Tail | None:
    """The last levels of a decoder and what follows them, if no attention is in them and this ComfyUI tells how the last layer pads."""
    convolve = frame_convolution(decoder.conv_out)
    if convolve is None or any(len(getattr(level, "attn", [])) > 0 for level in levels):
        return None
    layers = [layer for level in levels for layer in [*level.block, getattr(level, "upsample", None)] if layer is not None]
    conv_out = decoder.conv_out
    last = Stage(lambda h: finish(convolve(functional.silu(decoder.norm_out(h)))), reach=reach_of(conv_out), past=past_of(conv_out))
    return Tail(layers[0], (*map(stage_of, layers), last), nn.ModuleList([*layers, decoder.norm_out, conv_out]))


def ltx_tail(module: nn.Module, finish: Callable[[Tensor], Tensor] = picture_of) -> Tail | None:
    """For the video VAE of LTX: its last block, which looks into the past and the future alike, and what makes a patch of pixels of each cell."""
    decoder = module.decoder
    block, out = decoder.up_blocks[-1], decoder.conv_out
    layers = [*getattr(block, "res_blocks", []), out]
    # A block that adds noise draws other noise at each call.
    noisy = any(getattr(layer, "inject_noise", False) for layer in layers)
    if decoder.causal or noisy or not isinstance(block, ltx.UNetMidBlock3D) or norms_of(nn.ModuleList(layers)):
        return None
    stages = [looking_ahead(layer, partial(ltx_residual, module, layer)) for layer in layers[:-1]]
    last = looking_ahead(out, lambda h: finish(ltx_last(module, h)), decoder.patch_size)
    return Tail(block, (*stages, last), nn.ModuleList(layers))


def looking_ahead(layer: nn.Module, run: Callable[[Tensor], Tensor], grow: int = 1) -> Stage:
    """A stage whose convolutions see as many later frames as earlier ones."""
    each_way = past_of(layer) // 2
    return Stage(run, grow, grow * reach_of(layer), each_way, each_way)


def ltx_residual(module: nn.Module, layer: nn.Module, h: Tensor) -> Tensor:
    """One layer of the last block of LTX's decoder."""
    time = embedded_time(module, module.decoder.up_blocks[-1].time_embedder, h)[:, 0] if module.timestep_conditioning else None
    return all_frames(layer, h, causal=False, timestep=time)


def ltx_last(module: nn.Module, h: Tensor) -> Tensor:
    """What follows the last block of LTX's decoder."""
    decoder = module.decoder
    h = decoder.conv_norm_out(h)
    if module.timestep_conditioning:
        table = decoder.last_scale_shift_table[None, ..., None, None, None].to(h)
        shift, scale = (table + embedded_time(module, decoder.last_time_embedder, h, 2)).unbind(1)
        h = h * (1 + scale) + shift
    return ltx.unpatchify(all_frames(decoder.conv_out, decoder.conv_act(h), causal=False), patch_size_hw=decoder.patch_size)


def embedded_time(module: nn.Module, embedder: nn.Module, h: Tensor, parts: int = 1) -> Tensor:
    """The noise level that LTX's decoder is told, as one of its embedders says it: (1, parts, C, 1, 1, 1)."""
    level = (module.decode_timestep * module.decoder.timestep_scale_multiplier).to(h).flatten()
    return embedder(timestep=level, resolution=None, aspect_ratio=None, batch_size=1, hidden_dtype=h.dtype).view(1, parts, -1, 1, 1, 1)


def stage_a_tail(module: nn.Module) -> Tail:
    """For Stable Cascade's last stage, which ends with a shuffle that doubles the size. It draws in 0..1."""
    return sequence_tail([*module.up_blocks, *module.out_block], signed)


def taesd_tail(module: nn.Module) -> Tail:
    """For the tiny autoencoders, whose decoder is one sequence."""
    return sequence_tail(list(module.taesd_decoder), signed)


def wan_tail(module: nn.Module, finish: Callable[[Tensor], Tensor] = picture_of, levels: int = LEVELS) -> Tail:
    """For the video VAE of Qwen-Image and Wan 2.1. levels: 1 for a video, since the doubling before the last adds frames."""
    return sequence_tail([*module.decoder.upsamples, *module.decoder.head], finish, levels)


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
# The decoders that are levels of blocks, each with what doubles the size at its end.
LDM = ldm.Decoder, hunyuan_image.Decoder, hunyuan_video.Decoder
TAILS: dict[type, Maker] = {
    autoencoder.AutoencodingEngine: ldm_tail,
    cascade.StageA: stage_a_tail,
    ltx.VideoVAE: ltx_tail,
    taesd.TAESD: taesd_tail,
    wan.WanVAE: wan_tail,
    wan22.WanVAE: wan22_tail,
}
VIDEO_TAILS: dict[type, Maker] = {
    autoencoder.AutoencodingEngine: hunyuan_video_tail,
    ltx.VideoVAE: partial(ltx_tail, finish=frames_of),
    wan.WanVAE: partial(wan_tail, finish=frames_of, levels=1),
    wan22.WanVAE: partial(wan22_tail, finish=frames_of),
}


def why_not_tuned(vae: comfy.sd.VAE, z: Tensor) -> str | None:
    """Why this VAE's decoder cannot be tuned for a latent, or None if it can."""
    try:
        tail_of(vae, z)
    except ValueError as error:
        return str(error)
    return None
