"""A copy of the user's VAE that can be trained: the user's own is only ever read."""

from __future__ import annotations

import copy

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import torch
from torch import Tensor, nn


def decoder_of(vae: comfy.sd.VAE) -> nn.Module:
    """The decoder's module. Raises ValueError for a VAE that cannot be tuned, naming the method that works."""
    module = vae.first_stage_model
    decoder = getattr(module, "decoder", None) or getattr(module, "taesd_decoder", None)
    if vae.latent_dim != 2 or not isinstance(decoder, nn.Module):
        raise ValueError(
            f"vae is a {type(module).__name__}, whose decoder cannot be tuned: use method paste, or an image VAE (SD, SDXL, SD3, Flux, TAESD)."
        )
    return decoder


# What the host's memory management hangs on a module that it has loaded (_v, _v_weight, _pins, dynamic_vbars, ...): handles
# of the user's memory on the GPU, which a copy would free when it goes.
HOST_STATE = ("_v", "_pin", "_prefetch", "dynamic_")


def host_state(part: nn.Module) -> list[str]:
    """The names of what the host has hung on one module."""
    return [name for name in part.__dict__ if name.startswith(HOST_STATE)]


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
    tuned.vae_dtype = torch.float32
    tuned.size = None
    tuned.patcher = comfy.model_patcher.ModelPatcher(
        tuned.first_stage_model, load_device=vae.patcher.load_device, offload_device=vae.patcher.offload_device
    )
    return tuned


def load_for_training(vae: comfy.sd.VAE, z: Tensor) -> None:
    """Loads the whole VAE on its device, with room for a forward and a backward pass of decoding z."""
    needed = 4 * vae.memory_used_decode(z.shape, torch.float32) + 3 * vae.model_size()
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed, force_full_load=True)


def give_back(tuned: comfy.sd.VAE, vae: comfy.sd.VAE) -> None:
    """Ends the training: the copy is as large and as fast again as the user's VAE."""
    tuned.first_stage_model.to(vae.vae_dtype)
    tuned.vae_dtype = vae.vae_dtype
    tuned.size = None
    tuned.patcher.size = 0
