"""Stage 6: write the weights that the node loads, from whatever stages are trained so far."""

from __future__ import annotations

import json

import numpy as np
import torch
from safetensors.torch import save_file

from ..files import WEIGHTS
from . import common, unet, vae


def train(settings: common.Settings) -> None:
    """Write the weights that the node loads (fp16) from ``vae.pt`` and ``unet.pt``."""
    autoencoder = vae.load_trained(settings)
    factors, bias = latent_rgb(autoencoder, settings)
    sizes = {"unet": unet.UNET, "text": unet.TEXT, "vae": vae.CONFIG, "latent_rgb": factors, "latent_rgb_bias": bias}
    tensors = {f"vae.{k}": v for k, v in autoencoder.state_dict().items()} | _pair(settings)
    half = {k: (v.half() if v.is_floating_point() else v).contiguous().cpu() for k, v in tensors.items()}
    WEIGHTS.parent.mkdir(parents=True, exist_ok=True)
    part = WEIGHTS.with_suffix(".part")
    save_file(half, part, {"format": "pt", "bld_demo": json.dumps(sizes)})
    part.replace(WEIGHTS)
    print(f"{WEIGHTS.name}: {WEIGHTS.stat().st_size / 1e6:.1f} MB")


def _pair(settings: common.Settings) -> dict[str, torch.Tensor]:
    """The averaged UNet and text encoder, named as the loader wants them."""
    state = common.load(settings.work / "unet.pt")
    if state is None:
        raise FileNotFoundError("train the UNet first: python -m demo.train unet")
    out = {"text.token_ids": torch.tensor(state["ids"], dtype=torch.int32)}
    for key, value in state["ema"]["shadow"].items():
        if key.startswith("unet."):
            out[key] = value
        elif key == "text.table.weight":
            out["text.token_rows"] = value
        else:
            out["text." + key.removeprefix("text.model.")] = value
    return out


@torch.no_grad()
def latent_rgb(model: torch.nn.Module, settings: common.Settings) -> tuple[list[list[float]], list[float]]:
    """Least-squares map from latents to small RGB in [-1, 1], for the host's previews: (4, 3) and (3,)."""
    x = common.to_tensor(common.pool(settings.work, 64))
    z, _ = vae.encode(model, x.to(settings.device))
    colour = torch.nn.functional.avg_pool2d(x, 8).permute(0, 2, 3, 1).reshape(-1, 3)
    values = (z * 0.18215).permute(0, 2, 3, 1).reshape(-1, 4).cpu()
    solution = np.linalg.lstsq(torch.cat([values, torch.ones(len(values), 1)], 1).numpy(), colour.numpy(), rcond=None)[0]
    return [[round(float(v), 4) for v in row] for row in solution[:4]], [round(float(v), 4) for v in solution[4]]
