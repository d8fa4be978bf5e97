"""Stage 3b: train the decoder alone on whole pictures; the latents, and so the UNet, stay valid, and both can train at once."""

from __future__ import annotations

import numpy as np
import torch

from . import common, unet, vae

PEAK = 3e-4
# Noise on the latents, in their own deviations: a sampler's latents are not the encoder's to the last digit.
JITTER = 0.05


def train(settings: common.Settings) -> None:
    """Train decoder and post_quant_conv for the settings' minutes, resuming from ``decoder.pt``, which ``vae`` then loads."""
    common.prepare(settings.threads, 31)
    model, path = vae.load_trained(settings), settings.work / "decoder.pt"
    held, state = common.pictures("test", 0, 16), None if settings.fresh else common.load(path, settings.device)
    part = torch.nn.ModuleDict({"decoder": model.decoder, "post_quant_conv": model.post_quant_conv})
    part.train().requires_grad_(True)
    optimiser = torch.optim.AdamW(part.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=1e-4)
    ema, step, spent = common.Ema(part, 0.998), 0, 0.0
    if state:
        part.load_state_dict(state["live"]), optimiser.load_state_dict(state["optimiser"]), ema.restore(state["ema"])
        step, spent = state["step"], state["spent"]
    clock, rng = common.Clock(settings.minutes, spent), np.random.default_rng((31, step))
    latents, pixels = _scenes(settings)
    print(f"decoder step {step}: {vae.measure(model, held, settings.device)[0]:.2f} dB", flush=True)
    while clock.progress() < 1:
        chosen = np.sort(rng.choice(len(latents), settings.batch or 2, replace=False))
        z = torch.from_numpy(latents[chosen].astype(np.float32)).to(settings.device)
        x = common.to_tensor(pixels[chosen], settings.device)
        with common.autocast(settings.device):
            y = vae.decode(model, (z + JITTER * torch.randn_like(z)) / vae.FACTOR).float()
        loss = vae.difference(y, x)
        common.descend(optimiser, loss, common.cosine(clock.progress(), step, PEAK, 50), 1.0)
        ema.update(part)
        step += 1
        if step % 100 == 0:
            _save(settings, part, optimiser, ema, step, clock)
            latents, pixels = _scenes(settings)
        if step % 300 == 0:
            _report(settings, held, step, clock)
    _save(settings, part, optimiser, ema, step, clock)
    _report(settings, held, step, clock)


def _scenes(settings: common.Settings) -> tuple[np.ndarray, np.ndarray]:
    """The latents there are so far and the pictures that they came from."""
    latents, _ = unet.scenes(settings)
    return latents, common.pool(settings.work, len(latents))


def _save(settings, part, optimiser, ema, step, clock) -> None:
    common.save(settings.work / "decoder.pt", {"part": ema.shadow, "live": part.state_dict(), "optimiser": optimiser.state_dict(),
                                               "ema": ema.state(), "step": step, "spent": clock.spent()})


def _report(settings: common.Settings, held: np.ndarray, step: int, clock: common.Clock) -> None:
    """Measure the averaged weights, as they were saved, on held-out scenes."""
    score, _ = vae.measure(vae.load_trained(settings), held, settings.device)
    print(f"decoder step {step} {clock.spent() / 60:.1f} min held-out {score:.2f} dB", flush=True)
