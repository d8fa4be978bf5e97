"""Build MODEL, CLIP and VAE of the demo model from the host's own classes.

One safetensors file holds the weights (``unet.``, ``text.``, ``vae.``) and, as JSON in its metadata, every size.
The token table is stored compactly: the rows of the tokens that captions use, and one row for all others.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch

from .files import OPEN_CLIP, WEIGHTS

__all__ = ["OPEN_CLIP", "WEIGHTS", "load"]
VOCABULARY = 49408

State = dict[str, torch.Tensor]


class DemoSD15(comfy.supported_models.SD15):
    """Stable Diffusion 1.5 for the host in every respect but size: eps prediction, SD's noise schedule and factor."""

    unet_config: dict[str, Any] = {}
    unet_extra_config: dict[str, Any] = {}


def load(path: Path = WEIGHTS) -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE, as CheckpointLoaderSimple would give them for an SD1.5 checkpoint."""
    state, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    sizes = json.loads(metadata["bld_demo"])
    return (load_model(_part(state, "unet."), sizes), load_clip(_part(state, "text."), sizes),
            load_vae(_part(state, "vae."), sizes))


def _part(state: State, prefix: str) -> State:
    return {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}


def load_model(state: State, sizes: dict[str, Any]) -> comfy.model_patcher.ModelPatcher:
    """The UNet with the host's sampling objects around it."""
    config = DemoSD15(sizes["unet"])
    device, offload = management.get_torch_device(), management.unet_offload_device()
    parameters = comfy.utils.calculate_parameters(state)
    dtype = management.unet_dtype(model_params=parameters, supported_dtypes=list(config.supported_inference_dtypes),
                                  weight_dtype=torch.float16)
    cast = management.unet_manual_cast(dtype, device, config.supported_inference_dtypes)
    config.set_inference_dtype(dtype, cast)
    config.latent_format.latent_rgb_factors = sizes["latent_rgb"]
    config.latent_format.latent_rgb_factors_bias = sizes["latent_rgb_bias"]
    # The latents are not SD's, so its TAESD must not be used for previews.
    config.latent_format.taesd_decoder_name = None
    model = config.get_model(state, device=management.unet_inital_load_device(parameters, dtype))
    patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=offload)
    model.load_model_weights(dict(state), "", assign=patcher.is_dynamic())
    return patcher


def load_clip(state: State, sizes: dict[str, Any]) -> comfy.sd.CLIP:
    """The text encoder behind the host's CLIP tokenizer."""
    width = sizes["text"]["hidden_size"]
    weights = {f"clip_l.transformer.text_model.{k}": v for k, v in state.items() if not k.startswith("token_")}
    weights["clip_l.transformer.text_model.embeddings.token_embedding.weight"] = full_table(state)
    weights["clip_l.transformer.text_projection.weight"] = torch.eye(width)
    target = comfy.supported_models_base.ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    tokenizer = partial(comfy.sd1_clip.SDTokenizer, embedding_size=width)
    return comfy.sd.CLIP(target, tokenizer_data={"clip_l_tokenizer_class": tokenizer}, state_dict=weights,
                         parameters=comfy.utils.calculate_parameters(weights),
                         model_options={"clip_l_model_config": dict(sizes["text"])})


def full_table(state: State) -> torch.Tensor:
    """The token table (49408, width): row 0 of ``token_rows`` for every token that was never trained."""
    rows = state["token_rows"]
    table = rows[0].repeat(VOCABULARY, 1)
    table[state["token_ids"].long()] = rows[1:]
    return table


def load_vae(state: State, sizes: dict[str, Any]) -> comfy.sd.VAE:
    """The autoencoder: the host's AutoencoderKL, 8x, 4 channels."""
    vae = comfy.sd.VAE(sd=state, config={"params": {"embed_dim": 4, "ddconfig": dict(sizes["vae"])}})
    vae.throw_exception_if_invalid()
    return vae
