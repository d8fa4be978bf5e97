"""A trainable copy of the user's VAE. The user's own is only ever read."""

from __future__ import annotations

import copy

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import torch
from torch import nn

from ..comfy_internals import forget_size, host_state, use_plain_attention


def copy_in_float32(module: nn.Module) -> nn.Module:
    """The same module with float32 weights of its own and no trace of where ComfyUI had loaded it."""
    replaced: dict[int, object] = {id(p): nn.Parameter(p.detach().clone().float(), requires_grad=False) for p in module.parameters()}
    for part in module.modules():
        values = (part.__dict__[name] for name in host_state(part))
        # The interpreter shares plain values: replaced by identity, they would be replaced everywhere.
        replaced |= {id(value): None for value in values if not isinstance(value, int | float | str | tuple)}
    result = copy.deepcopy(module, replaced).float().eval()
    for part in result.modules():
        for name in host_state(part):
            del part.__dict__[name]
    return result


def trainable_copy(vae: comfy.sd.VAE) -> comfy.sd.VAE:
    """A copy of a VAE with float32 weights of its own. Call it under inference_mode(False).

    A plain ModelPatcher holds it: ComfyUI's dynamic one would compute with copies of the weights, which no gradient reaches.
    """
    tuned = copy.copy(vae)
    tuned.first_stage_model = copy_in_float32(vae.first_stage_model)
    use_plain_attention(tuned.first_stage_model)
    tuned.vae_dtype = torch.float32
    tuned.size = None
    tuned.patcher = comfy.model_patcher.ModelPatcher(tuned.first_stage_model, load_device=vae.patcher.load_device, offload_device=vae.patcher.offload_device)
    return tuned


def load_for_training(vae: comfy.sd.VAE, needed: int) -> None:
    """Loads the whole VAE on its device, with room for `needed` more bytes."""
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=needed, force_full_load=True)


def share_untuned(tuned: comfy.sd.VAE, vae: comfy.sd.VAE, own: nn.Module) -> None:
    """Replaces all weights but its `own` by the user's, which nobody writes to, if both lie on one device. That saves a second copy.

    A low-rank delta in ComfyUI's patches would be smaller still, but ComfyUI writes patches into the module that they patch.
    """
    kept, theirs = {id(weight) for weight in own.parameters()}, dict(vae.first_stage_model.named_parameters())
    for name, weight in list(tuned.first_stage_model.named_parameters()):
        if id(weight) not in kept and (weight.device, weight.dtype) == (theirs[name].device, theirs[name].dtype):
            comfy.utils.set_attr_param(tuned.first_stage_model, name, theirs[name].detach())


def give_back(tuned: comfy.sd.VAE, vae: comfy.sd.VAE) -> None:
    """Ends the training: the copy becomes as large and as fast as the user's VAE again, and ComfyUI counts it as that."""
    tuned.patcher.detach()
    tuned.first_stage_model.to(vae.vae_dtype)
    tuned.vae_dtype = vae.vae_dtype
    forget_size(tuned)
    load_for_training(tuned, 0)
