"""Stage 1: the autoencoder (the host's AutoencoderKL, 8x, 4 channels)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..files import WEIGHTS
from . import common, data, graft

CONFIG = {"double_z": True, "z_channels": 4, "resolution": data.SIZE, "in_channels": 3, "out_ch": 3, "ch": 64,
          "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0}
CROP = data.SIZE // 2
KL_WEIGHT = 3e-5
FACTOR = 0.18215
PEAK = 6e-4
# As many pixels a step as a whole picture of 256 x 256.
BATCH = (256 // CROP) ** 2


def build() -> torch.nn.Module:
    """An untrained AutoencoderKL of the host."""
    from comfy.ldm.models.autoencoder import AutoencoderKL

    return AutoencoderKL(embed_dim=4, ddconfig=CONFIG)


def start_from(model: torch.nn.Module, path: Path) -> None:
    """Take over an exported autoencoder, with latents of unit scale."""
    model.load_state_dict(graft.load(path, "vae"))
    model.quant_conv.weight.data[:4] *= FACTOR
    model.quant_conv.bias.data[:4] *= FACTOR
    model.quant_conv.bias.data[4:] += 2 * math.log(FACTOR)
    model.post_quant_conv.weight.data /= FACTOR


def encode(model: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures (B, 3, H, W) in [-1, 1] to mean and log-variance, each (B, 4, H/8, W/8)."""
    mean, logvar = model.quant_conv(model.encoder(x)).float().chunk(2, 1)
    return mean, logvar.clamp(-30, 20)


def decode(model: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
    """Latents (B, 4, h, w) to pictures (B, 3, 8h, 8w) in about [-1, 1]."""
    return model.decoder(model.post_quant_conv(z))


def loss_of(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Error of a sampled reconstruction, with a tiny KL."""
    mean, logvar = encode(model, x)
    y = decode(model, mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)).float()
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    return difference(y, x) + KL_WEIGHT * kl


def difference(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Squared and absolute errors, and the absolute errors of the steps between neighboring pixels, weighed as the scenes need it."""
    squared, absolute, edges = data.LOSS
    error = y - x
    steps = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return squared * F.mse_loss(y, x) + absolute * error.abs().mean() + edges * steps


def _crops(pool: np.ndarray, plans: list[data.Plan], rng: np.random.Generator, batch: int) -> np.ndarray:
    """Crops, of half of the picture's side, three in four of them near an object, half of them mirrored: uint8 (batch, CROP, CROP, 3)."""
    out = np.empty((batch, CROP, CROP, 3), np.uint8)
    for k in range(batch):
        i, corner = rng.integers(len(pool)), rng.integers(0, data.SIZE - CROP + 1, 2)
        if plans[i].items and rng.random() < 0.75:
            item = plans[i].items[int(rng.integers(len(plans[i].items)))]
            near = np.asarray([item.y, item.x]) - CROP / 2 + rng.uniform(-0.4, 0.4, 2) * item.side
            corner = np.clip(near.astype(int), 0, data.SIZE - CROP)
        crop = pool[i, corner[0]:corner[0] + CROP, corner[1]:corner[1] + CROP]
        out[k] = crop[:, ::-1] if rng.random() < 0.5 else crop
    return out


@torch.no_grad()
def measure(model: torch.nn.Module, pixels: np.ndarray, device: torch.device) -> tuple[float, np.ndarray]:
    """PSNR in dB of whole pictures, and the latents (N, 4, h, w)."""
    model.eval()
    scores, latents = [], []
    for part in np.array_split(pixels, max(1, len(pixels) // 16)):
        x = common.to_tensor(part, device)
        mean, _ = encode(model, x)
        scores.append(common.psnr(decode(model, mean), x))
        latents.append(mean.cpu().numpy())
    model.train()
    return float(np.mean(scores)), np.concatenate(latents)


def train(settings: common.Settings) -> None:
    """Train for the settings' minutes, resuming from ``vae.pt``."""
    common.prepare(settings.threads, 11)
    path = settings.work / "vae.pt"
    model, held = build(), common.pictures("test", 0, 16)
    common.initialise(model)
    if settings.start:
        start_from(model, settings.start)
    model.to(settings.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=1e-4)
    ema = common.Ema(model, 0.998)
    state = None if settings.fresh else common.load(path, settings.device)
    step, spent = 0, 0.0
    if state:
        model.load_state_dict(state["model"]), optimiser.load_state_dict(state["optimiser"]), ema.restore(state["ema"])
        step, spent = state["step"], state["spent"]
    count = settings.count or 2500
    pool, plans = common.pool(settings.work, count), [data.plan("train", i) for i in range(count)]
    rng, clock = np.random.default_rng((11, step)), common.Clock(settings.minutes, spent)
    while clock.progress() < 1:
        x = common.to_tensor(_crops(pool, plans, rng, settings.batch or BATCH), settings.device)
        with common.autocast(settings.device):
            loss = loss_of(model, x)
        common.descend(optimiser, loss, common.cosine(clock.progress(), step, settings.rate or PEAK), 1.0)
        ema.update(model)
        step += 1
        if step % 100 == 0:
            _report(model, ema, optimiser, held, step, clock, float(loss.detach()), path, settings.device)
    _report(model, ema, optimiser, held, step, clock, float(loss.detach()), path, settings.device)


def _report(model, ema, optimiser, held, step, clock, loss, path, device) -> None:
    """Measure the averaged weights on held-out scenes and write the checkpoint."""
    best = build().to(device)
    best.load_state_dict(ema.shadow)
    score, latents = measure(best, held, device)
    print(f"vae step {step} {clock.spent() / 60:.1f} min loss {loss:.4f} held-out {score:.2f} dB "
          f"latent std {latents.std((0, 2, 3)).round(2)}", flush=True)
    common.save(path, {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "ema": ema.state(),
                       "step": step, "spent": clock.spent()})


def load_trained(settings: common.Settings) -> torch.nn.Module:
    """The averaged weights of ``vae.pt`` or, where there is none, those of the embedded model; and of ``decoder.pt``. Frozen, with latents of
    unit scale after SD's factor.
    """
    state, model = common.load(settings.work / "vae.pt"), build()
    if state:
        model.load_state_dict(state["ema"]["shadow"])
        rescale(model, common.pool(settings.work, 48))
    else:
        model.load_state_dict(graft.load(WEIGHTS, "vae"))
    polished = common.load(settings.work / "decoder.pt")
    if polished:
        model.load_state_dict(polished["part"], strict=False)
    return model.to(settings.device).eval().requires_grad_(False)


@torch.no_grad()
def rescale(model: torch.nn.Module, pixels: np.ndarray, factor: float = FACTOR) -> None:
    """Fold a per-channel shift and scale into the 1x1 convolutions: factor * z has mean 0 and deviation 1."""
    device = next(model.parameters()).device
    z = torch.cat([encode(model, common.to_tensor(part, device))[0].cpu() for part in np.array_split(pixels, len(pixels) // 8)])
    mean, scale = z.mean((0, 2, 3)), 1 / (factor * z.std((0, 2, 3)))
    quant, post = model.quant_conv, model.post_quant_conv
    quant.bias[:4] = (quant.bias[:4] - mean) * scale
    quant.weight[:4] *= scale.view(4, 1, 1, 1)
    quant.bias[4:] += 2 * scale.log()
    # z_old = z_new / scale + mean, before the 1x1 convolution that leads into the decoder
    post.bias += post.weight[:, :, 0, 0] @ mean
    post.weight /= scale.view(1, 4, 1, 1)
