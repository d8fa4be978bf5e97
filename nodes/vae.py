"""What a fit needs of the user's VAE: a copy that can be trained, and its decoder's last stages. The user's own is only ever read."""

from __future__ import annotations

import copy
from collections.abc import Callable

import comfy.ldm.hunyuan_video.vae as hunyuan_image
import comfy.ldm.hunyuan_video.vae_refiner as hunyuan_video
import comfy.ldm.modules.diffusionmodules.model as ldm
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch
import torch.nn.functional as functional
from comfy.ldm.cascade.stage_a import StageA
from comfy.ldm.models.autoencoder import AutoencodingEngine
from comfy.ldm.wan import vae2_2 as wan22
from comfy.ldm.wan.vae import Resample, WanVAE
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn

from ..bld.reconstruction.tail import Stage, Tail, picture_of
from .checks import as_mask


def tail_of(vae: comfy.sd.VAE) -> Tail:
    """The last stages of the decoder, from a quarter of the picture's size on.

    Raises ValueError for a VAE that cannot be tuned, naming the methods that work.
    """
    module = vae.first_stage_model
    make = next((make for kind, make in TAILS.items() if isinstance(module, kind)), None)
    tail = make(module) if make is not None and vae.output_channels >= 3 else None
    if tail is None:
        raise ValueError(
            f"vae is a {type(module).__name__}, whose decoder cannot be tuned: use method paste, colour fit, poisson or auto, "
            "or an image VAE (SD, SDXL, SD3, Flux, TAESD, Qwen-Image, Wan, Stable Cascade, HunyuanImage, HunyuanVideo)."
        )
    return tail


def ldm_tail(module: AutoencodingEngine) -> Tail | None:
    """Of the decoders of SD, SDXL, SD3, Flux and HunyuanImage, and for one frame of HunyuanVideo's."""
    decoder = module.decoder
    if type(decoder) not in (ldm.Decoder, hunyuan_image.Decoder, hunyuan_video.Decoder):
        return None
    # The oldest numbers its levels from the picture on.
    levels = list(reversed(decoder.up) if isinstance(decoder, ldm.Decoder) else decoder.up)[-LEVELS - 1 :]
    if any(len(getattr(level, "attn", [])) > 0 for level in levels):
        return None
    layers = [layer for level in levels for layer in [*level.block, getattr(level, "upsample", None)] if layer is not None]
    last = Stage(
        lambda h: picture_of(ldm.conv_carry_causal_3d([functional.silu(decoder.norm_out(h))], decoder.conv_out)), reach=reach_of(decoder.conv_out)
    )
    return Tail(layers[0], (*map(stage_of, layers), last), nn.ModuleList([*layers, decoder.norm_out, decoder.conv_out]))


def stage_a_tail(module: StageA) -> Tail:
    """Of Stable Cascade's last stage, which ends with a shuffle that doubles the size; it draws in 0..1."""
    return sequence_tail([*module.up_blocks, *module.out_block], signed)


def taesd_tail(module: TAESD) -> Tail:
    """Of the tiny autoencoders, whose decoder is one sequence."""
    return sequence_tail(list(module.taesd_decoder), signed)


def wan_tail(module: WanVAE) -> Tail:
    """Of the video VAEs that Qwen-Image and Wan 2.1 use, for one frame."""
    return sequence_tail([*module.decoder.upsamples, *module.decoder.head], picture_of)


def wan22_tail(module: wan22.WanVAE) -> Tail:
    """Of the video VAE that Wan 2.2 uses, for one frame. It ends with a shuffle that doubles the size, so that one more doubling is a quarter."""
    doubling, last = module.decoder.upsamples[-2:]
    *blocks, resample = doubling.upsamples
    layers = [last, *module.decoder.head]
    first = Stage(doubling, 2, 2 * sum(map(reach_of, blocks)) + reach_of(resample))
    shuffle = Stage(lambda y: picture_of(wan22.unpatchify(y, patch_size=2)), 2)
    return Tail(doubling, (first, *map(stage_of, layers), shuffle), nn.ModuleList([doubling, *layers]))


def sequence_tail(layers: list[nn.Module], finish: Callable[[Tensor], Tensor]) -> Tail:
    """Of layers that follow each other, from one that doubles the size on."""
    last = layers[[i for i, layer in enumerate(layers) if isinstance(layer, DOUBLING)][-LEVELS] :]
    return Tail(last[0], (*map(stage_of, last), Stage(finish)), nn.ModuleList(last))


def stage_of(layer: nn.Module) -> Stage:
    """One layer by itself."""
    grow = 2 if isinstance(layer, DOUBLING) else 1
    return Stage(layer, grow, reach_of(layer) * (grow if isinstance(layer, SHUFFLING) else 1))


def reach_of(layer: nn.Module) -> int:
    """How far a layer looks, in the cells that it convolves: half of each of its convolutions' kernels, a quarter where these double the size."""
    kernels = [(part.kernel_size[-1], part.transposed) for part in layer.modules() if isinstance(part, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d)]
    return sum(size // (4 if doubles else 2) for size, doubles in kernels)


# How often the tuned stages double the size.
LEVELS = 2
# What doubles the size; of these, what convolves first and then spreads the channels over the new cells.
DOUBLING = (ldm.Upsample, nn.Upsample, nn.ConvTranspose2d, nn.PixelShuffle, Resample, hunyuan_image.PixelUnshuffle2D, hunyuan_video.UpSmpl)
SHUFFLING = (hunyuan_image.PixelUnshuffle2D, hunyuan_video.UpSmpl)
TAILS = {AutoencodingEngine: ldm_tail, StageA: stage_a_tail, TAESD: taesd_tail, WanVAE: wan_tail, wan22.WanVAE: wan22_tail}


# What the host's memory management hangs on a module that it has loaded (_v, _v_weight, _pins, dynamic_vbars, ...): handles
# of the user's memory on the GPU, which a copy would free when it goes.
HOST_STATE = ("_v", "_pin", "_prefetch", "dynamic_")


def host_state(part: nn.Module) -> list[str]:
    """The names of what the host has hung on one module."""
    return [name for name in part.__dict__ if name.startswith(HOST_STATE)]


def cropped(m: Tensor, vae: comfy.sd.VAE) -> Tensor:
    """Masks of a picture, (B, H, W) in 0..1, as the VAE crops the picture when it encodes it."""
    return as_mask(vae.vae_encode_crop_pixels(m[..., None].expand(*m.shape, vae.output_channels))[..., 0])


def copy_in_float32(module: nn.Module) -> nn.Module:
    """The same module with weights of its own in float32 and no trace of where the host had loaded it."""
    replaced: dict[int, object] = {id(p): nn.Parameter(p.detach().clone().float(), requires_grad=False) for p in module.parameters()}
    for part in module.modules():
        values = (part.__dict__[name] for name in host_state(part))
        # Plain values are shared by the whole interpreter: replaced by identity, they would be replaced everywhere.
        replaced |= {id(value): None for value in values if not isinstance(value, int | float | str | tuple)}
    result = copy.deepcopy(module, replaced).float().eval()
    for part in result.modules():
        for name in host_state(part):
            del part.__dict__[name]
    return result


def trainable_copy(vae: comfy.sd.VAE) -> comfy.sd.VAE:
    """A VAE of its own, with weights of its own in float32, loaded whole on the VAE's device. Call it under inference_mode(False).

    A plain ModelPatcher holds it: the host's dynamic one would compute with copies of the weights, out of a gradient's reach.
    """
    tuned = copy.copy(vae)
    tuned.first_stage_model = copy_in_float32(vae.first_stage_model)
    for part in tuned.first_stage_model.modules():
        # What the host may choose instead holds a figure for every pair of cells at once, or as many as all free memory takes.
        if hasattr(part, "optimized_attention"):
            part.optimized_attention = ldm.pytorch_attention
    tuned.vae_dtype = torch.float32
    tuned.size = None
    tuned.patcher = comfy.model_patcher.ModelPatcher(tuned.first_stage_model, load_device=vae.patcher.load_device, offload_device=vae.patcher.offload_device)
    return tuned


def decode_of(vae: comfy.sd.VAE) -> Callable[[Tensor], Tensor]:
    """The decoder as bld wants it: (B, C, ..., h, w) -> (B, 3, H, W) in -1..1."""
    in_range = (lambda y: y) if vae.process_input(torch.zeros(1)) < 0 else signed
    return lambda z: in_range(picture_of(vae.first_stage_model.decode(z)))


def signed(y: Tensor) -> Tensor:
    """0..1 as -1..1."""
    return y.sub(0.5).mul(2)


def unsigned(y: Tensor) -> Tensor:
    """What a decoder drew, in -1..1 and a little beyond, in 0..1; in place."""
    return y.add_(1).div_(2).clamp_(0, 1)


def latents_of(vae: comfy.sd.VAE, pictures: Tensor) -> Tensor:
    """Each picture of (B, 3, H, W) in 0..1 encoded by itself, as `decode_of` decodes: where memory runs out, the fit steps down, not the host."""
    pixels = vae.process_input(vae.vae_encode_crop_pixels(pictures.movedim(1, -1)).movedim(-1, 1))
    with torch.no_grad():
        return torch.cat([vae.first_stage_model.encode(one.unsqueeze(2) if vae.latent_dim == 3 else one) for one in pixels.split(1)])


def load_for_training(vae: comfy.sd.VAE, needed: int) -> None:
    """Loads the whole VAE on its device, with room for `needed` bytes more."""
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed, force_full_load=True)


def share_untuned(tuned: comfy.sd.VAE, vae: comfy.sd.VAE, own: nn.Module) -> None:
    """All weights but its `own` become the user's, which nobody writes to, instead of a second copy of them, as far as both lie on one device.

    A delta of low rank in the host's patches would be smaller still, but these are written into the module that they patch.
    """
    kept, theirs = {id(weight) for weight in own.parameters()}, dict(vae.first_stage_model.named_parameters())
    for name, weight in list(tuned.first_stage_model.named_parameters()):
        if id(weight) not in kept and (weight.device, weight.dtype) == (theirs[name].device, theirs[name].dtype):
            comfy.utils.set_attr_param(tuned.first_stage_model, name, theirs[name].detach())


def give_back(tuned: comfy.sd.VAE, vae: comfy.sd.VAE) -> None:
    """Ends the training: the copy is as large and as fast again as the user's VAE."""
    tuned.first_stage_model.to(vae.vae_dtype)
    tuned.vae_dtype = vae.vae_dtype
    tuned.size = None
    tuned.patcher.size = 0
