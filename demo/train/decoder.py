"""Stage 3b, optional: polish the decoder alone on whole pictures; the latents, and so the UNet, stay valid."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from . import common, vae

PEAK = 4e-4
JITTER = 0.03


def train(settings: common.Settings) -> None:
    """Train decoder and post_quant_conv for the settings' minutes; write ``decoder.pt``, which ``vae`` then loads."""
    common.prepare(settings.threads, 31)
    model, path = vae.load_trained(settings), settings.work / "decoder.pt"
    latents = np.load(settings.work / "latents.npy", mmap_mode="r")[:settings.count or 3000]
    pixels, held = common.pictures("train", 0, len(latents)), common.pictures("test", 0, 48)
    part = torch.nn.ModuleDict({"decoder": model.decoder, "post_quant_conv": model.post_quant_conv})
    part.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(part.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=1e-4)
    ema, clock, rng, step = common.Ema(part, 0.99), common.Clock(settings.minutes), np.random.default_rng(31), 0
    print(f"decoder before: {vae.measure(model, held, settings.device)[0]:.2f} dB", flush=True)
    while clock.progress() < 1:
        chosen = np.sort(rng.choice(len(latents), settings.batch or 6, replace=False))
        z = torch.from_numpy(latents[chosen].astype(np.float32)).to(settings.device)
        x = common.to_tensor(pixels[chosen], settings.device)
        for group in optimiser.param_groups:
            group["lr"] = common.cosine(clock.progress(), step, PEAK, 30)
        with common.autocast(settings.device):
            y = vae.decode(model, (z + JITTER * torch.randn_like(z)) / 0.18215).float()
        loss = 8 * F.mse_loss(y, x) + F.l1_loss(y, x) + 0.3 * vae.gradient_loss(y, x)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        optimiser.step()
        ema.update(part)
        step += 1
    part.load_state_dict(ema.shadow)
    common.save(path, {"part": part.state_dict()})
    print(f"decoder after {step} steps: {vae.measure(model, held, settings.device)[0]:.2f} dB", flush=True)
