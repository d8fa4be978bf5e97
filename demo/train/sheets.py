"""Sheets for the eye, in ``demo/samples``. Those of generated and edited pictures are drawn by ``python run.py bench look``."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..files import SAMPLES
from . import common, data, sampling


def grid(pictures: list[np.ndarray], columns: int) -> Image.Image:
    """Rows of pictures with a thin white gap."""
    rows, step = -(-len(pictures) // columns), data.SIZE + 4
    sheet = Image.new("RGB", (columns * step + 4, rows * step + 4), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (4 + i % columns * step, 4 + i // columns * step))
    return sheet


def write(name: str, sheet: Image.Image) -> None:
    """Save a sheet among the samples."""
    SAMPLES.mkdir(parents=True, exist_ok=True)
    sheet.save(SAMPLES / f"{name}.jpg", quality=88)
    print(f"samples/{name}.jpg")


def box_mask(rng: np.random.Generator, low: float = 17 / 32, high: float = 27 / 32) -> np.ndarray:
    """A random box whose sides lie between two shares of the picture's, bool (H, W)."""
    height, width = rng.integers(int(low * data.SIZE), int(high * data.SIZE) + 1, 2)
    top, left = rng.integers(0, data.SIZE - height + 1), rng.integers(0, data.SIZE - width + 1)
    mask = np.zeros((data.SIZE, data.SIZE), bool)
    mask[top:top + height, left:left + width] = True
    return mask


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the edge of the mask in red."""
    inner = mask.copy()
    inner[1:-1, 1:-1] = mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    out = picture.copy()
    out[mask & ~inner] = (255, 0, 0)
    return out


def reconstruction(vae: object, count: int = 8) -> Image.Image:
    """Held-out scenes above what the autoencoder makes of them."""
    source = common.pictures("test", 40, count)
    return grid([*source, *sampling.decode(vae, sampling.encode(vae, source))], count)


def train(settings: common.Settings) -> None:
    """Write all sheets."""
    from .. import loader

    common.prepare(settings.threads, 0)
    *_, vae = loader.load()
    write("reconstruction", reconstruction(vae))
