"""Stage 2: encode a pool of scenes once, so that no encoder runs in the UNet's training loop."""

from __future__ import annotations

import numpy as np
import torch

from . import common, vae

CHUNK = 500


@torch.no_grad()
def train(settings: common.Settings) -> None:
    """Write ``latents.npy``: float16 (N, C, h, w) of training scenes 0 .. N, already times SD's 0.18215."""
    common.prepare(settings.threads, 0)
    path, model = settings.work / "latents.npy", vae.load_trained(settings)
    done = [np.load(path)] if path.exists() and not settings.fresh else []
    count, target = sum(map(len, done)), settings.count or 12000
    while count < target:
        pixels, part = common.pool(settings.work, min(count + CHUNK, target))[count:], []
        for chunk in np.array_split(pixels, max(1, len(pixels) // (settings.batch or 16))):
            with common.autocast(settings.device):
                mean, _ = vae.encode(model, common.to_tensor(chunk, settings.device))
            part.append((mean.float() * vae.FACTOR).cpu().numpy().astype(np.float16))
        done.append(np.concatenate(part))
        count += len(pixels)
        np.save(path.with_suffix(".part.npy"), np.concatenate(done))
        path.with_suffix(".part.npy").replace(path)
        print(f"latents {count}/{target} std {done[-1].astype(np.float32).std((0, 2, 3)).round(2)}", flush=True)
