"""Pictures from the exported model through the host's own sampler; many prompts in one batch."""

from __future__ import annotations

import numpy as np
import torch

from . import data

STEPS, CFG, SAMPLER, SCHEDULER = 30, 4.0, "ddim", "normal"
Conditioning = list


def conditioning(clip: object, prompts: list[str]) -> Conditioning:
    """One host conditioning that carries a prompt per batch item: (B, 77, width)."""
    return [[torch.cat([clip.encode_from_tokens(clip.tokenize(p)) for p in prompts]), {}]]


@torch.inference_mode()
def sample(model: object, clip: object, prompts: list[str], seed: int, latent: torch.Tensor | None = None,
           mask: torch.Tensor | None = None, steps: int = STEPS, cfg: float = CFG) -> torch.Tensor:
    """Latents (B, C, h, w), one per prompt; with ``mask`` (B, 1, h, w) only its ones are changed."""
    import comfy.sample

    start = torch.zeros(len(prompts), 4, data.SIZE // 8, data.SIZE // 8) if latent is None else latent
    noise = torch.randn(start.shape, generator=torch.Generator().manual_seed(seed))
    return comfy.sample.sample(model, noise, steps, cfg, SAMPLER, SCHEDULER, conditioning(clip, prompts),
                               conditioning(clip, [""] * len(prompts)), start, noise_mask=mask, disable_pbar=True,
                               seed=seed)


@torch.inference_mode()
def decode(vae: object, latents: torch.Tensor) -> np.ndarray:
    """uint8 pictures (B, H, W, 3)."""
    return (vae.decode(latents).clamp(0, 1).cpu().numpy() * 255 + 0.5).astype(np.uint8)


@torch.inference_mode()
def encode(vae: object, pixels: np.ndarray) -> torch.Tensor:
    """Latents (B, C, h, w) of uint8 pictures."""
    return vae.encode(torch.from_numpy(pixels).float() / 255)


def latent_mask(mask: np.ndarray) -> torch.Tensor:
    """Boolean masks (B, H, W) to latent size (B, 1, h, w): one where any pixel of the cell is masked."""
    return torch.nn.functional.max_pool2d(torch.from_numpy(mask).float()[:, None], 8)
