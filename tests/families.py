"""Tiny models of the families that ComfyUI samples: the host's own classes, random weights and made-up prompts.

Only the sizes are ours. Noise schedules, latent formats, extra conditions and the way from a LATENT to a prediction are the host's.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import comfy.latent_formats
import comfy.ldm.chroma_radiance.model
import comfy.model_base
import comfy.model_management as management
import comfy.model_patcher
import comfy.supported_models as host
import torch
from torch import Tensor

from conftest import skip_without

TOKENS, WIDTH, POOLED = 6, 16, 8
Sizes = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """How to build a tiny model of one family.

    Attributes:
        config: the host's class of the family; None if this host is too old to have it.
        sizes: what the host would read from a checkpoint, made small.
        latent: (channels, ..., height, width) of a latent that the model takes.
        prompt: what its text encoder gives beside the tokens, by name the shape.
        fixed: instead of the sizes that the host's class adds by itself.
        clean: outside the mask the model is shown the source as it is (its `scale_latent_inpaint`).
    """

    config: type | None
    sizes: Sizes
    latent: tuple[int, ...]
    prompt: dict[str, tuple[int, ...]] = field(default_factory=dict)
    fixed: Sizes | None = None
    clean: bool = False


@dataclass(frozen=True)
class Loaded:
    """A tiny model with a source and prompts for it."""

    model: Any
    latent: dict[str, Any]
    positive: list[Any]
    negative: list[Any]


class VPrediction(host.SD20):
    """SD 2.1: the host tells it from 2.0 by the spread of one weight of the checkpoint."""

    def model_type(self, state_dict: Sizes, prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION


UNET = {
    "image_size": 32, "use_checkpoint": False, "use_spatial_transformer": True, "legacy": False, "adm_in_channels": None,
    "in_channels": 4, "out_channels": 4, "model_channels": 32, "channel_mult": [1, 2], "num_res_blocks": [1, 1],
    "transformer_depth": [0, 1], "transformer_depth_output": [1, 1, 0, 0], "transformer_depth_middle": 1, "context_dim": WIDTH,
    "use_linear_in_transformer": True, "use_temporal_resblock": False, "use_temporal_attention": False,
}  # fmt: skip
HEADS = {"num_heads": 2, "num_head_channels": -1}
# SDXL's pooled prompt and six sizes of 256 numbers each.
SDXL = UNET | {"num_classes": "sequential", "adm_in_channels": POOLED + 6 * 256}
DIT = {
    "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": POOLED, "context_in_dim": WIDTH, "hidden_size": 32, "num_heads": 2,
    "mlp_ratio": 2.0, "depth": 1, "depth_single_blocks": 1, "axes_dim": [4, 6, 6], "theta": 10000, "qkv_bias": True,
}  # fmt: skip
FLUX = DIT | {"image_model": "flux", "guidance_embed": True, "txt_ids_dims": []}
FLUX2 = FLUX | {
    "image_model": "flux2", "in_channels": 128, "out_channels": 128, "patch_size": 1, "vec_in_dim": None, "axes_dim": [4, 4, 4, 4], "theta": 2000,
    "qkv_bias": False, "global_modulation": True, "mlp_silu_act": True, "ops_bias": False, "txt_ids_dims": [3],
}  # fmt: skip
CHROMA = DIT | {
    "image_model": "chroma", "in_channels": 64, "out_channels": 64, "vec_in_dim": None, "txt_ids_dims": [], "in_dim": 64, "out_dim": 32,
    "hidden_dim": 16, "n_layers": 1,
}  # fmt: skip
RADIANCE = CHROMA | {
    "image_model": "chroma_radiance", "in_channels": 3, "out_channels": 3, "patch_size": 8, "nerf_hidden_size": 8, "nerf_mlp_ratio": 2,
    "nerf_depth": 1, "nerf_max_freqs": 4, "nerf_tile_size": 0, "nerf_final_head_type": "linear", "nerf_embedder_dtype": torch.float32,
    "use_x0": False,
}  # fmt: skip
if "use_sequential_txt_ids" in inspect.signature(comfy.ldm.chroma_radiance.model.ChromaRadianceParams).parameters:
    RADIANCE["use_sequential_txt_ids"] = False
HUNYUAN = DIT | {
    "image_model": "hunyuan_video", "patch_size": [1, 2, 2], "theta": 256, "guidance_embed": True, "byt5": False, "meanflow": False,
    "use_cond_type_embedding": False, "vision_in_dim": None, "meanflow_sum": False,
}  # fmt: skip
WAN = {
    "image_model": "wan2.1", "model_type": "t2v", "dim": 32, "ffn_dim": 64, "freq_dim": 16, "text_dim": WIDTH, "num_heads": 2, "num_layers": 1,
    "in_dim": 16, "out_dim": 16,
}  # fmt: skip
QWEN = {
    "image_model": "qwen_image", "in_channels": 64, "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2,
    "joint_attention_dim": WIDTH, "axes_dims_rope": (4, 6, 6),
}  # fmt: skip
SD3 = {
    "input_size": None, "in_channels": 16, "depth": 1, "num_blocks": 2, "mlp_ratio": 2.0, "adm_in_channels": POOLED, "num_patches": 256,
    "pos_embed_max_size": 16, "pos_embed_scaling_factor": None, "qk_norm": "rms",
    "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": WIDTH, "out_features": 64}},
}  # fmt: skip
LUMINA = {
    "image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 48, "cap_feat_dim": WIDTH, "n_layers": 1, "n_refiner_layers": 1,
    "n_heads": 2, "n_kv_heads": 2, "axes_dims": [8, 8, 8], "axes_lens": [64, 64, 64], "multiple_of": 16, "ffn_dim_multiplier": 1.0,
    "qk_norm": True,
}  # fmt: skip
PIXEL_Z = LUMINA | {
    "image_model": "zimage_pixel", "in_channels": 3, "patch_size": 8, "decoder_hidden_size": 16, "decoder_num_res_blocks": 1,
    "decoder_max_freqs": 4, "decoder_in_channels": 192,
}  # fmt: skip
COSMOS = {
    "image_model": "cosmos_predict2", "max_img_h": 32, "max_img_w": 32, "max_frames": 16, "in_channels": 16, "out_channels": 16,
    "patch_spatial": 2, "patch_temporal": 1, "model_channels": 64, "num_blocks": 1, "num_heads": 2, "crossattn_emb_channels": WIDTH,
    "pos_emb_cls": "rope3d", "use_adaln_lora": True, "adaln_lora_dim": 8,
}  # fmt: skip
COSMOS1 = COSMOS | {
    "image_model": "cosmos", "block_x_format": "THWBD", "affline_emb_norm": True, "extra_per_block_abs_pos_emb": True,
    "extra_per_block_abs_pos_emb_type": "learnable",
}  # fmt: skip
LTXV = {"image_model": "ltxv", "num_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2, "cross_attention_dim": 32, "caption_channels": WIDTH}
PIXART = {
    "image_model": "pixart_sigma", "input_size": 16, "hidden_size": 48, "depth": 1, "num_heads": 2, "caption_channels": WIDTH,
    "pe_interpolation": 1, "model_max_length": TOKENS, "micro_condition": False,
}  # fmt: skip
AURA = {"dim": 32, "n_layers": 2, "n_double_layers": 1, "n_heads": 2, "global_conddim": 32, "cond_seq_dim": WIDTH, "max_seq": 256}
HIDREAM = {
    "image_model": "hidream", "patch_size": 2, "in_channels": 16, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16,
    "num_attention_heads": 2, "caption_channels": [WIDTH, WIDTH], "text_emb_dim": POOLED, "axes_dims_rope": [8, 4, 4],
    "max_resolution": [32, 32], "llama_layers": [0, 1],
}  # fmt: skip
COGVIDEO = {
    "image_model": "cogvideox", "num_attention_heads": 2, "attention_head_dim": 16, "time_embed_dim": 32, "text_embed_dim": WIDTH, "num_layers": 1,
    "use_rotary_positional_embeddings": True, "max_text_seq_length": TOKENS,
}  # fmt: skip
KANDINSKY = {
    "image_model": "kandinsky5", "in_text_dim": WIDTH, "in_text_dim2": POOLED, "time_dim": 32, "model_dim": 32, "ff_dim": 64, "visual_embed_dim": 132,
    "num_text_blocks": 1, "num_visual_blocks": 1, "axes_dims": (4, 6, 6),
}  # fmt: skip
PIXELDIT = {
    "image_model": "pixeldit_t2i", "num_groups": 2, "hidden_size": 32, "pixel_hidden_size": 8, "pixel_attn_hidden_size": 32, "pixel_num_groups": 2,
    "patch_depth": 1, "pixel_depth": 1, "patch_size": 8, "txt_embed_dim": WIDTH, "txt_max_length": TOKENS,
}  # fmt: skip

POOL = {"pooled_output": (1, POOLED)}
FAMILIES = {
    "SD1.5": Family(host.SD15, UNET, (4, 12, 16), fixed=HEADS),
    "SD1.5 inpaint": Family(host.SD15, UNET | {"in_channels": 9}, (4, 12, 16), fixed=HEADS),
    "SD2.1 v": Family(VPrediction, UNET, (4, 12, 16), fixed=HEADS),
    "SDXL": Family(host.SDXL, SDXL, (4, 12, 16), POOL, fixed=HEADS),
    "SD3": Family(host.SD3, SD3, (16, 12, 16), POOL),
    "Flux": Family(host.Flux, FLUX, (16, 12, 16), POOL),
    "Flux schnell": Family(host.FluxSchnell, FLUX | {"guidance_embed": False}, (16, 12, 16), POOL),
    "Flux fill": Family(host.FluxInpaint, FLUX | {"in_channels": 96}, (16, 12, 16), POOL),
    "Flux.2": Family(host.Flux2, FLUX2, (128, 6, 8)),
    "Qwen-Image": Family(host.QwenImage, QWEN, (16, 1, 12, 16)),
    "Wan 2.1": Family(host.WAN21_T2V, WAN, (16, 3, 8, 10)),
    "Wan 2.2 5B": Family(host.WAN22_T2V, WAN | {"in_dim": 48, "out_dim": 48}, (48, 3, 8, 10)),
    "Chroma": Family(host.Chroma, CHROMA, (16, 12, 16)),
    "Chroma Radiance": Family(host.ChromaRadiance, RADIANCE, (3, 48, 64)),
    "Z-Image pixel": Family(host.ZImagePixelSpace, PIXEL_Z, (3, 48, 64)),
    "PixelDiT": Family(getattr(host, "PixelDiTT2I", None), PIXELDIT, (3, 48, 64)),
    "Lumina 2": Family(host.Lumina2, LUMINA, (16, 12, 16)),
    "HunyuanVideo": Family(host.HunyuanVideo, HUNYUAN, (16, 3, 8, 10), POOL, clean=True),
    "LTX-Video": Family(host.LTXV, LTXV, (128, 3, 8, 10), {"attention_mask": (1, TOKENS)}, clean=True),
    "CogVideoX": Family(getattr(host, "CogVideoX_T2V", None), COGVIDEO, (16, 3, 8, 10)),
    "Kandinsky 5": Family(host.Kandinsky5, KANDINSKY, (16, 3, 8, 10), POOL),
    "Cosmos": Family(host.CosmosT2V, COSMOS1, (16, 3, 8, 10), clean=True),
    "Cosmos Predict2": Family(host.CosmosT2IPredict2, COSMOS, (16, 1, 12, 16)),
    "PixArt Sigma": Family(host.PixArtSigma, PIXART, (4, 32, 40)),
    "AuraFlow": Family(host.AuraFlow, AURA, (4, 12, 16)),
    "HiDream": Family(host.HiDream, HIDREAM, (16, 12, 16), POOL | {"conditioning_llama3": (1, 2, TOKENS, WIDTH)}),
}


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


@cache
def load(name: str) -> Loaded:
    """The model of FAMILIES[name], two sources for it and a prompt for and one against."""
    family = FAMILIES[name]
    if family.config is None:
        skip_without(name)
    generator = torch.Generator().manual_seed(len(name))
    model = build(family, generator)
    source = model.model.process_latent_out(normal(generator, 2, *family.latent))
    positive, negative = prompt(family, generator), prompt(family, generator)
    return Loaded(model, {"samples": source}, positive, negative)


def build(family: Family, generator: torch.Generator) -> comfy.model_patcher.ModelPatcher:
    """The model as the host's loaders would give it, on the device there is, in float32."""
    config = family.config(family.sizes)
    config.unet_config |= family.fixed or {}
    config.set_inference_dtype(torch.float32, None)
    device = management.get_torch_device()
    model = config.get_model({}, device=management.unet_offload_device())
    patcher = comfy.model_patcher.CoreModelPatcher(model, load_device=device, offload_device=management.unet_offload_device())
    weights = {key: random_weight(key, value, generator) for key, value in model.diffusion_model.state_dict().items()}
    model.diffusion_model.load_state_dict(weights, assign=patcher.is_dynamic())
    return patcher


def random_weight(name: str, weight: Tensor, generator: torch.Generator) -> Tensor:
    """Of about unit gain, so that a signal passes all layers; the host leaves weights uninitialised."""
    if not weight.is_floating_point():
        return weight
    spread = normal(generator, *weight.shape).to(weight)
    if weight.ndim < 2:
        return spread * 0.1 + float(name.endswith(("weight", "scale")))
    return spread / math.sqrt(math.prod(weight.shape[1:]))


def prompt(family: Family, generator: torch.Generator) -> list[Any]:
    """A CONDITIONING of the shape that the family's text encoder gives, all of which give a pooled prompt or None."""
    options: Sizes = {"pooled_output": None} | {key: normal(generator, *shape) for key, shape in family.prompt.items()}
    if "attention_mask" in options:
        options["attention_mask"] = torch.ones(family.prompt["attention_mask"], dtype=torch.long)
    return [[normal(generator, 1, TOKENS, WIDTH), options]]
