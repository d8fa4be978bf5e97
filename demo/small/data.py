"""Scenes and captions made by code: a scene is a pure function of (split, index).

``plan`` draws what is shown and where (no pixels), ``render`` paints it, ``caption`` words it.
Pictures are uint8 arrays of shape (128, 128, 3), RGB.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

from ..train.wording import Speaker
from .files import SPRITES

SIZE = 128

# name -> Noto Color Emoji code point. The list is data: more kinds are more rows (and another training).
KINDS: dict[str, str] = {
    "apple": "\U0001F34E", "banana": "\U0001F34C", "watermelon": "\U0001F349", "pineapple": "\U0001F34D",
    "grapes": "\U0001F347", "sunflower": "\U0001F33B", "cactus": "\U0001F335", "mushroom": "\U0001F344",
    "fox": "\U0001F98A", "panda": "\U0001F43C", "pig": "\U0001F437", "penguin": "\U0001F427",
    "butterfly": "\U0001F98B", "ladybug": "\U0001F41E", "fish": "\U0001F420", "octopus": "\U0001F419",
    "turtle": "\U0001F422", "car": "\U0001F699", "rocket": "\U0001F680", "balloon": "\U0001F388",
    "pizza": "\U0001F355", "donut": "\U0001F369", "gift": "\U0001F381", "snowman": "\u26C4",
}
KIND_NAMES: tuple[str, ...] = tuple(KINDS)

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.80, 0.16, 0.18), "orange": (0.95, 0.55, 0.15), "yellow": (0.96, 0.83, 0.25),
    "green": (0.22, 0.60, 0.30), "blue": (0.20, 0.42, 0.82), "purple": (0.52, 0.27, 0.70),
    "pink": (0.95, 0.60, 0.72), "white": (0.93, 0.93, 0.92), "black": (0.12, 0.12, 0.13),
    "gray": (0.55, 0.56, 0.58),
}
PATTERNS: tuple[str, ...] = ("plain", "gradient", "striped", "dotted", "checkered")
PLACES: tuple[str, ...] = ("meadow", "beach", "night", "snow", "sea")
BACKGROUNDS: tuple[str, ...] = tuple(f"{p} {c}" for p in PATTERNS for c in COLOURS) + PLACES

# Weights of squared errors, absolute errors and steps in the autoencoder's loss. Mostly squared: absolute errors spend themselves on the grain, which no
# weights can keep.
LOSS = (8.0, 0.5, 0.25)

# Disjoint seed spaces; "train" feeds VAE, UNet, text encoder and ranker, "judge" only the judge.
SPLITS: dict[str, int] = {"train": 1, "judge": 2, "calibrate": 3, "test": 4}


def held_out(kind: int, background: int) -> bool:
    """About one (kind, background) pair in ten is never trained: such scenes appear in the splits other than train."""
    return (kind * 17 + background * 29 + (kind * background) % 13) % 10 == 0


@dataclass(frozen=True)
class Item:
    """One object: kind index, centre and side in pixels, angle in degrees, mirrored or not, colour jitter."""

    kind: int
    x: float
    y: float
    side: int
    angle: float
    flip: bool
    gain: float
    hue: tuple[float, float, float]


@dataclass(frozen=True)
class Plan:
    """What a scene shows; ``seed`` drives the background's and the grain's own random numbers."""

    items: tuple[Item, ...]
    background: int
    seed: tuple[int, int]


def plan(split: str, index: int) -> Plan:
    """Draw the contents of scene ``index`` of ``split``."""
    seed = (SPLITS[split], index)
    rng = np.random.default_rng(seed)
    background = _draw_background(rng)
    count = int(rng.choice(4, p=(0.07, 0.72, 0.18, 0.03)))
    allowed = [k for k in range(len(KIND_NAMES)) if split != "train" or not held_out(k, background)]
    kinds = rng.choice(allowed, size=count, replace=False)
    return Plan(_place(kinds, rng), background, seed)


def alone(split: str, index: int, kind: int, background: int) -> Plan:
    """Scene ``index`` of ``split`` with one object of this kind on this background."""
    seed = (SPLITS[split], index)
    return Plan(_place(np.asarray([kind]), np.random.default_rng(seed)), background, seed)


def _draw_background(rng: np.random.Generator) -> int:
    if rng.random() < 0.35:
        return len(BACKGROUNDS) - 1 - int(rng.integers(len(PLACES)))
    return int(rng.integers(len(BACKGROUNDS) - len(PLACES)))


def _place(kinds: np.ndarray, rng: np.random.Generator) -> tuple[Item, ...]:
    """Put the objects inside the frame, apart from each other (the least overlapping of some tries)."""
    low, high = {0: (0, 0), 1: (64, 112), 2: (52, 68), 3: (46, 56)}[len(kinds)]
    items: list[Item] = []
    for kind in kinds:
        side = int(rng.integers(low, high + 1))
        tries = rng.uniform(side / 2 + 2, SIZE - side / 2 - 2, size=(24, 2))
        x, y = min(tries, key=lambda c: max((_overlap(c, side, i) for i in items), default=0.0))
        items.append(Item(int(kind), float(x), float(y), side, float(rng.uniform(-9, 9)), bool(rng.random() < 0.5),
                          float(rng.uniform(0.92, 1.06)), tuple(float(v) for v in rng.uniform(0.96, 1.04, 3))))
    return tuple(items)


def _overlap(centre: np.ndarray, side: int, other: Item) -> float:
    """Shared area of two squares over the smaller one's area."""
    reach = (side + other.side) / 2
    dx = min(max(0.0, reach - abs(centre[0] - other.x)), side, other.side)
    dy = min(max(0.0, reach - abs(centre[1] - other.y)), side, other.side)
    return dx * dy / min(side, other.side) ** 2


def box(item: Item) -> tuple[int, int, int, int]:
    """The object's square (left, top, right, bottom), clipped to the frame."""
    half = item.side / 2
    return (max(0, int(item.x - half)), max(0, int(item.y - half)),
            min(SIZE, int(item.x + half) + 1), min(SIZE, int(item.y + half) + 1))


# ---------------------------------------------------------------- pixels

@cache
def sprite(kind: int) -> Image.Image:
    """The 128 x 128 RGBA sprite of a kind."""
    return Image.open(SPRITES / f"{KIND_NAMES[kind].replace(' ', '_')}.png").convert("RGBA")


def layer(item: Item) -> Image.Image:
    """The object alone where it stands in the picture: RGBA 128 x 128."""
    art = sprite(item.kind)
    art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if item.flip else art
    art = art.resize((item.side, item.side), Image.Resampling.LANCZOS).rotate(item.angle, Image.Resampling.BICUBIC)
    out = Image.new("RGBA", (SIZE, SIZE))
    out.paste(art, (round(item.x - item.side / 2), round(item.y - item.side / 2)))
    return out


def render(scene: Plan) -> np.ndarray:
    """Paint a scene: uint8 (128, 128, 3)."""
    rng = np.random.default_rng((*scene.seed, 7))
    picture = _background(BACKGROUNDS[scene.background], rng)
    for item in scene.items:
        picture = _paste(picture, item)
    picture = picture + _texture(rng)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _paste(picture: np.ndarray, item: Item) -> np.ndarray:
    """Lay one sprite with a soft shadow over the picture."""
    art = layer(item)
    shadow = Image.new("L", (SIZE, SIZE))
    shadow.paste(art.getchannel("A"), (2, 3))
    dark = np.asarray(shadow.filter(ImageFilter.GaussianBlur(3)), np.float32)[..., None] / 255 * 0.35
    pixels = np.asarray(art, np.float32) / 255
    colour = np.clip(pixels[..., :3] * item.gain * np.asarray(item.hue, np.float32), 0, 1)
    return picture * (1 - dark) * (1 - pixels[..., 3:]) + colour * pixels[..., 3:]


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Fine weave and grain, (128, 128, 3): detail of one or two pixels, which an 8x autoencoder loses."""
    y, x = _grid()
    period, angle = rng.uniform(2.2, 3.6), rng.uniform(0, np.pi)
    weave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / period) * rng.uniform(0.0, 0.03)
    grain = rng.standard_normal((SIZE, SIZE), dtype=np.float32) * rng.uniform(0.008, 0.028)
    return (weave + grain)[..., None]


def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    return y, x


def _background(name: str, rng: np.random.Generator) -> np.ndarray:
    """Float picture (128, 128, 3) in about [0, 1] of a named background."""
    if name in PLACES:
        return _PAINTERS[name](rng)
    pattern, colour = name.split(" ")
    first = np.clip(np.asarray(COLOURS[colour]) + rng.uniform(-0.05, 0.05, 3), 0, 1)
    second = _shade(first, rng)
    blend = _pattern(pattern, rng)[..., None]
    return (first * (1 - blend) + second * blend).astype(np.float32)


def _shade(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A second tone of a colour: lighter, or darker for a light one."""
    amount = rng.uniform(0.28, 0.45)
    if colour.mean() > 0.62:
        return colour * (1 - amount * 0.7)
    return colour + (1 - colour) * amount


def _pattern(pattern: str, rng: np.random.Generator) -> np.ndarray:
    """Weights (128, 128) of the second tone."""
    y, x = _grid()
    angle = rng.uniform(0, 2 * np.pi)
    if pattern == "plain":
        return np.full((SIZE, SIZE), 0.0, np.float32)
    if pattern == "gradient":
        along = (x - SIZE / 2) * np.cos(angle) + (y - SIZE / 2) * np.sin(angle)
        return np.clip(along / SIZE + 0.5, 0, 1) * 1.3
    if pattern == "striped":
        angle = np.pi / 4 * rng.integers(4)
        wave = np.sin(2 * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / rng.uniform(18, 30) + angle)
        return np.clip(wave * 6 + 0.5, 0, 1)
    step = rng.uniform(18, 28)
    u, v = (x + rng.uniform(0, step)) / step, (y + rng.uniform(0, step)) / step
    if pattern == "dotted":
        distance = np.hypot(u % 1 - 0.5, v % 1 - 0.5)
        return np.clip((rng.uniform(0.22, 0.32) - distance) * step + 0.5, 0, 1)
    return ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)


def _vertical(top: tuple[float, ...], bottom: tuple[float, ...], rng: np.random.Generator) -> np.ndarray:
    """A top-to-bottom gradient (128, 128, 3) with slightly moved tones."""
    ramp = np.linspace(0, 1, SIZE, dtype=np.float32)[:, None, None]
    tones = np.asarray([top, bottom], np.float32) + rng.uniform(-0.03, 0.03, (2, 3)).astype(np.float32)
    return np.broadcast_to(tones[0] * (1 - ramp) + tones[1] * ramp, (SIZE, SIZE, 3)).copy()


def _smooth_noise(rng: np.random.Generator, cells: tuple[int, int]) -> np.ndarray:
    """Noise (128, 128) in [-1, 1] with features of about 128 / cells pixels."""
    small = Image.fromarray(rng.uniform(-1, 1, cells).astype(np.float32))
    return np.asarray(small.resize((SIZE, SIZE), Image.Resampling.BICUBIC))


def _ground(rng: np.random.Generator, low: float = 0.45, high: float = 0.65) -> np.ndarray:
    """Weights (128, 128) of the ground below a gently curved horizon."""
    y, x = _grid()
    height = rng.uniform(low, high) * SIZE + 5 * np.sin(x / rng.uniform(16, 40) + rng.uniform(0, 6))
    return np.clip(y - height, 0, 1)


def _over(sky: np.ndarray, ground: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return sky * (1 - weight[..., None]) + ground * weight[..., None]


def _meadow(rng: np.random.Generator) -> np.ndarray:
    sky = _vertical((0.38, 0.66, 0.95), (0.80, 0.91, 0.98), rng)
    clouds = np.clip(_smooth_noise(rng, (9, 5)) * 1.6 - 0.3, 0, 0.8)
    sky = sky * (1 - clouds[..., None]) + clouds[..., None]
    grass = _vertical((0.45, 0.74, 0.28), (0.22, 0.52, 0.16), rng) + 0.09 * _smooth_noise(rng, (24, 90))[..., None]
    return _over(sky, grass, _ground(rng))


def _beach(rng: np.random.Generator) -> np.ndarray:
    sky = _vertical((0.45, 0.75, 0.96), (0.85, 0.94, 0.97), rng)
    sea = _vertical((0.10, 0.48, 0.72), (0.25, 0.72, 0.80), rng) + 0.05 * _smooth_noise(rng, (50, 10))[..., None]
    sand = _vertical((0.93, 0.83, 0.62), (0.86, 0.72, 0.48), rng) + 0.06 * _smooth_noise(rng, (80, 80))[..., None]
    picture = _over(sky, sea, np.clip(_grid()[0] - rng.uniform(0.25, 0.38) * SIZE, 0, 1))
    return _over(picture, sand, _ground(rng, 0.5, 0.62))


def _night(rng: np.random.Generator) -> np.ndarray:
    sky = _vertical((0.03, 0.04, 0.15), (0.13, 0.13, 0.36), rng)
    y, x = _grid()
    for _ in range(int(rng.integers(25, 50))):
        cx, cy, radius = rng.uniform(0, SIZE), rng.uniform(0, SIZE), rng.uniform(0.5, 1.3)
        sky += (0.9 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2))[..., None]
    return sky


def _snow(rng: np.random.Generator) -> np.ndarray:
    sky = _vertical((0.60, 0.70, 0.82), (0.82, 0.88, 0.93), rng)
    field = _vertical((0.97, 0.98, 1.0), (0.84, 0.89, 0.96), rng) + 0.03 * _smooth_noise(rng, (12, 12))[..., None]
    picture = _over(sky, field, _ground(rng))
    y, x = _grid()
    for _ in range(int(rng.integers(25, 45))):
        cx, cy, radius = rng.uniform(0, SIZE), rng.uniform(0, SIZE), rng.uniform(0.8, 1.8)
        weight = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2)[..., None]
        picture = picture * (1 - weight) + weight
    return picture


def _sea(rng: np.random.Generator) -> np.ndarray:
    water = _vertical((0.18, 0.60, 0.80), (0.04, 0.26, 0.52), rng)
    y, x = _grid()
    waves = np.sin(y / rng.uniform(2.2, 3.4) + 2.0 * _smooth_noise(rng, (8, 8))) * 0.06
    foam = np.clip(_smooth_noise(rng, (50, 14)) - 0.55, 0, 1) * 0.7
    return water + (waves + foam)[..., None]


_PAINTERS = {"meadow": _meadow, "beach": _beach, "night": _night, "snow": _snow, "sea": _sea}


# ---------------------------------------------------------------- words

_speaker = Speaker(KIND_NAMES, BACKGROUNDS, SIZE, small=72, large=96, middle=9)
caption, background_words = _speaker.caption, _speaker.background_words
