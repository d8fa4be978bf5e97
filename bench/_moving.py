"""A moving scene of the small model's kind: an object crosses a background, the light changes, and an edit follows a moving mask."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from demo.small import data


@dataclass(frozen=True)
class Moving:
    """A video (T, 128, 128, 3), a mask of each frame (T, 128, 128), and the frames' latents with another object in the mask, (T, 4, 16, 16)."""

    image: Tensor
    mask: Tensor
    latent: dict[str, Tensor]


def moving(vae: Any, frames: int, index: int = 0, light: float = 0.3, grain: float = 0.01, radius: int = 28) -> Moving:
    """An edit of scene `index`, whose light falls by `light` and comes back. grain: of each frame, beside that of the scene. radius: of the mask."""
    scene = data.plan("test", index)
    one = data.alone("test", index, index % len(data.KINDS), scene.background).items[0]
    other = data.alone("test", index, (index + 7) % len(data.KINDS), scene.background).items[0]
    noise = np.random.default_rng(index)
    pictures, edits, masks = [], [], []
    for t in np.linspace(0, 1, frames):
        here, there = replace(one, x=30 + 20 * t, y=96.0, side=40), replace(other, x=70 + 16 * t, y=52.0, side=48)
        tone = 1 - light * np.sin(np.pi * t)
        both = [data.render(replace(scene, items=items)) / 255 * tone for items in ((here,), (here, there))]
        both = [np.clip(picture + grain * noise.standard_normal(picture.shape), 0, 1) for picture in both]
        v, u = np.mgrid[0:128, 0:128]
        masks.append((u - there.x) ** 2 + (v - there.y) ** 2 < radius**2)
        pictures.append(both[0])
        edits.append(both[1])
    image, edit, mask = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in (pictures, edits, masks))
    with torch.inference_mode():
        cells = torch.nn.functional.max_pool2d(mask[:, None], 8)
        z = torch.lerp(vae.encode(image), vae.encode(edit), cells)
    return Moving(image, mask, {"samples": z})
