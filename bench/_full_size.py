"""Models as large as those that people use, with random weights, and a whole edit by one of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import comfy.ops
import comfy.sd
import numpy as np
import torch
from comfy.ldm.flux.model import Flux
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.mmdit import OpenAISignatureMMDITWrapper
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from bench import _nodes
from bench._cases import Case as Edit
from bench._cases import mask_of
from bench.reconstruction import OURS, PHOTOS, Case, box, photo
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from demo.train import sampling

UNET = {"image_size": 32, "use_checkpoint": False, "use_spatial_transformer": True, "legacy": False, "in_channels": 4, "out_channels": 4, "model_channels": 320,
        "num_head_channels": 64}  # fmt: skip
DECODER = {"double_z": True, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [],
           "dropout": 0.0}  # fmt: skip
PARTS = "drawing", "decoding", "ranking", "reconstruction"
# Below one, so that half precision does not overflow however many blocks add up.
GAIN = 0.3
# So that a random decoder does all its steps: a target that none reaches, and a rate at which none diverges.
ALL_STEPS = OURS | {"background_target": 200.0, "learning_rate": 1e-7}


@dataclass(frozen=True)
class Kind:
    """A model and its VAE.

    Attributes:
        network: the host's class of the diffusion model, and the sizes that the host reads from a checkpoint.
        side: of its pictures, in pixels.
        prompt, pooled: shapes of what its text encoders give.
        channels: of its latents.
        cfg: the guidance that it is used with.
    """

    network: type
    sizes: dict[str, Any]
    side: int
    prompt: tuple[int, int]
    pooled: int
    channels: int = 16
    cfg: float = sampling.CFG


KINDS = {
    "SD1.5": Kind(UNetModel, UNET | {
        "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_middle": 1,
        "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768, "use_linear_in_transformer": False,
    }, 512, (77, 768), 1280, channels=4),
    "SDXL": Kind(UNetModel, UNET | {
        "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
        "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3, "context_dim": 2048, "use_linear_in_transformer": True, "num_classes": "sequential",
        "adm_in_channels": 2816,
    }, 1024, (77, 2048), 1280, channels=4),
    "SD3.5-medium": Kind(OpenAISignatureMMDITWrapper, {
        "input_size": None, "in_channels": 16, "out_channels": 16, "depth": 24, "adm_in_channels": 2048, "num_patches": 384**2, "pos_embed_max_size": 384,
        "qk_norm": "rms", "x_block_self_attn_layers": list(range(13)),
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 1536}},
    }, 1024, (154, 4096), 2048),
    "Flux-schnell": Kind(Flux, {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "patch_size": 2, "vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072,
        "mlp_ratio": 4.0, "num_heads": 24, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56], "theta": 10000, "qkv_bias": True,
        "guidance_embed": False, "txt_ids_dims": [],
    }, 1024, (256, 4096), 768, cfg=1.0),
}  # fmt: skip


class Shapes(comfy.ops.disable_weight_init):
    """The host's layers, with weights that have shapes also under dynamic VRAM, where the host's own wait for those of a file."""

    class Linear(comfy.ops.disable_weight_init.Linear):
        _load_from_state_dict = nn.Linear._load_from_state_dict


def random_weights(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """A checkpoint for the module: norms as they start, the others so that no signal grows. Weights of the same shape share their memory."""
    generator = torch.Generator().manual_seed(0)

    @cache
    def draw(shape: torch.Size, start: float) -> Tensor:
        if len(shape) < 2:
            return torch.full(shape, start, dtype=dtype)
        return torch.empty(shape, dtype=dtype).normal_(0, GAIN / math.sqrt(math.prod(shape[1:])), generator=generator)

    return {name: draw(weight.shape, float(name.endswith(("weight", "scale")))) for name, weight in module.state_dict().items()}


def shapes_of(kind: Kind) -> nn.Module:
    """The diffusion model without its weights."""
    return kind.network(**kind.sizes, device="meta", operations=Shapes)


def diffusion_model(weights: dict[str, Tensor], **options: Any) -> Any:
    """MODEL, as the host's loader makes it of a checkpoint, with options of the loader."""
    return comfy.sd.load_diffusion_model_state_dict(weights, model_options=options)


def vae_weights(channels: int) -> dict[str, Tensor]:
    """A checkpoint of the VAE of SD1.5 and SDXL, 4 channels, or of SD3 and Flux, 16 channels, whose latents go through no more convolution."""
    module = AutoencoderKL(embed_dim=channels, ddconfig=DECODER | {"z_channels": channels})
    return {name: weight for name, weight in random_weights(module, torch.float32).items() if channels == 4 or "quant_conv" not in name}


def host_vae(weights: dict[str, Tensor], dtype: torch.dtype | None = None) -> comfy.sd.VAE:
    """VAE, as the host recognizes it; in the precision that the host chooses, unless one is given."""
    return comfy.sd.VAE(sd=dict(weights), dtype=dtype)


def random_prompt(kind: Kind, seed: int) -> list:
    """A CONDITIONING of the shape that the model's text encoders give."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, *kind.prompt, generator=generator), {"pooled_output": torch.randn(1, kind.pooled, generator=generator)}]]


def edit_of(size: int, share: float) -> Edit:
    """An edit of a photograph, under a square mask of this share of it."""
    source, mask = (photo(PHOTOS[0], size)[0] * 255).byte().numpy(), box(size, share)[0].bool().numpy()
    return Edit(source, mask, 0, 0, "a red ball", np.zeros(0, bool))


def by_the_node(vae: comfy.sd.VAE, one: Case, steps: int) -> str:
    """Decoder Finetune Reconstruct, and what its report says of the fit."""
    report = DecoderFinetuneReconstruct.execute({"samples": one.z}, vae, one.source, one.mask, ALL_STEPS | {"iterations": steps}).args[2]
    return " ".join(report.splitlines()[2:])


def edit(
    tools: _nodes.Tools, case: Edit, prompts: list[list], settings: dict[str, Any], candidates: int, scope: str, prune: bool,
    reconstruct: Callable[[Case], str], part: Callable[[str], AbstractContextManager]
) -> str:  # fmt: skip
    """One edit, from the source to the reconstructed picture, each part inside part(its name); what there is to say.

    settings: of Blended Latent KSampler, and under `shrinking` those of Progressive Mask Dilate beside its defaults.
    """
    with part("drawing"):
        latent, mask, given = _nodes.source_of(tools, case), mask_of(case), dict(settings)
        schedule = _nodes.schedule_of(case, latent, **given.pop("shrinking", {}))
        pruning = _nodes.prunings(tools, case, {"": {}})[""] if prune else None
        positive, negative = prompts
        latent = BlendedLatentKSampler.execute(
            tools.model, 0, positive=positive, negative=negative, latent_image=latent, candidates=candidates, mask_schedule=schedule, pruning=pruning,
            **given
        ).args[0]  # fmt: skip
    with part("decoding"):
        pictures = tools.vae.decode(latent["samples"])
    with part("ranking"):
        best = _nodes.best_of(tools, case, latent, pictures, scope)
    with part("reconstruction"):
        said = reconstruct(Case(torch.from_numpy(case.source).float()[None] / 255, mask, best["samples"]))
    return f"{len(pictures)} of {candidates} finished; {said}"
