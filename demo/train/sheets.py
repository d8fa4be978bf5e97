"""Sample sheets for the eye: ``demo/samples/*.jpg`` from the exported weights."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..files import SAMPLES
from . import common, data, sampling
from .wording import article

EDITS = ("a fox", "a sunflower", "a panda", "an apple", "a rocket", "a turtle")


def grid(pictures: list[np.ndarray], columns: int) -> Image.Image:
    """Rows of pictures with a thin white gap."""
    rows, step = -(-len(pictures) // columns), data.SIZE + 4
    sheet = Image.new("RGB", (columns * step + 4, rows * step + 4), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (4 + i % columns * step, 4 + i // columns * step))
    return sheet


def _write(name: str, sheet: Image.Image) -> None:
    SAMPLES.mkdir(parents=True, exist_ok=True)
    sheet.save(SAMPLES / f"{name}.jpg", quality=88)
    print(f"samples/{name}.jpg")


def generation(model: object, clip: object, vae: object, seed: int = 1) -> Image.Image:
    """Each kind once, on a background of its own."""
    rng, prompts = np.random.default_rng(seed), []
    for kind in data.KIND_NAMES:
        background = data._draw_background(rng)
        prompts.append(f"{article(kind)} {data.background_words(background, rng)}")
    return grid(list(sampling.decode(vae, sampling.sample(model, clip, prompts, seed))), 8)


def edits(model: object, clip: object, vae: object, seed: int = 2, count: int = 4) -> Image.Image:
    """Rows of: the source with its box, then six edits inside the box by the host's noise mask."""
    pictures = []
    for row in range(count):
        rng = np.random.default_rng((seed, row))
        source, mask = data.render(data.plan("test", 900 + row)), box_mask(rng)
        latent = sampling.encode(vae, source[None]).repeat(len(EDITS), 1, 1, 1)
        small = sampling.latent_mask(mask[None]).repeat(len(EDITS), 1, 1, 1)
        out = sampling.decode(vae, sampling.sample(model, clip, list(EDITS), seed + row, latent, small))
        pictures += [_outlined(source, mask), *out]
    return grid(pictures, 1 + len(EDITS))


def box_mask(rng: np.random.Generator, low: float = 17 / 32, high: float = 27 / 32) -> np.ndarray:
    """A random box whose sides lie between two shares of the picture's, bool (H, W)."""
    height, width = rng.integers(int(low * data.SIZE), int(high * data.SIZE) + 1, 2)
    top, left = rng.integers(0, data.SIZE - height + 1), rng.integers(0, data.SIZE - width + 1)
    mask = np.zeros((data.SIZE, data.SIZE), bool)
    mask[top:top + height, left:left + width] = True
    return mask


def _outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
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
    model, clip, vae = loader.load()
    _write("reconstruction", reconstruction(vae))
    _write("generation", generation(model, clip, vae))
    _write("edits", edits(model, clip, vae))
