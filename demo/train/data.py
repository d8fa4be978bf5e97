"""Scenes and captions made by code: a scene is a pure function of (split, index).

``plan`` draws what is shown and where (no pixels), ``render`` paints it, ``caption`` words it.
Pictures are uint8 arrays of shape (256, 256, 3), RGB: flat, crisp illustrations. What an 8x autoencoder loses is small
and local: a fence, lettering on a sign, blades of grass, planks, a face in a picture on the wall.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..files import SPRITES
from .wording import Speaker

SIZE = 256

# name -> drawing of Fluent Emoji Flat
DRAWINGS: dict[str, str] = {
    "apple": "red-apple", "banana": "banana", "watermelon": "watermelon", "pineapple": "pineapple", "grapes": "grapes",
    "sunflower": "sunflower", "cactus": "cactus", "mushroom": "mushroom", "fox": "fox", "panda": "panda", "pig": "pig-face",
    "penguin": "penguin", "butterfly": "butterfly", "ladybug": "lady-beetle", "fish": "tropical-fish", "octopus": "octopus",
    "turtle": "turtle", "car": "sport-utility-vehicle", "rocket": "rocket", "balloon": "balloon", "pizza": "pizza",
    "donut": "doughnut", "gift": "wrapped-gift", "snowman": "snowman-without-snow",
}
# Long things, drawn along a curve of their own.
LONG: tuple[str, ...] = ("snake", "rainbow", "river", "road")
KIND_NAMES: tuple[str, ...] = (*DRAWINGS, *LONG)

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.27, 0.28), "orange": (0.97, 0.63, 0.27), "yellow": (0.99, 0.86, 0.42), "green": (0.40, 0.72, 0.45),
    "blue": (0.36, 0.60, 0.91), "purple": (0.62, 0.45, 0.80), "pink": (0.97, 0.71, 0.79), "white": (0.96, 0.96, 0.94),
    "black": (0.17, 0.18, 0.21), "gray": (0.66, 0.68, 0.71),
}
PATTERNS: tuple[str, ...] = ("plain", "striped", "dotted", "checkered")
PLACES: tuple[str, ...] = ("meadow", "beach", "night", "snow", "sea", "room")
BACKGROUNDS: tuple[str, ...] = tuple(f"{p} {c}" for p in PATTERNS for c in COLOURS) + PLACES

# Weights of squared errors, absolute errors and steps in the autoencoder's loss. There is no grain: edges count.
LOSS = (4.0, 1.0, 0.5)

# Disjoint seed spaces; "train" feeds VAE, UNet, text encoder and ranker, "judge" only the judges.
SPLITS: dict[str, int] = {"train": 1, "judge": 2, "calibrate": 3, "test": 4}


def held_out(kind: int, background: int) -> bool:
    """About one (kind, background) pair in ten is never trained: such scenes appear in the splits other than train."""
    return (kind * 17 + background * 29 + (kind * background) % 13) % 10 == 0


@dataclass(frozen=True)
class Item:
    """One object: kind index, centre and side in pixels, angle in degrees, mirrored or not, colour jitter, and two
    numbers in [0, 1) that shape a long thing."""

    kind: int
    x: float
    y: float
    side: int
    angle: float
    flip: bool
    gain: float
    form: tuple[float, float]


@dataclass(frozen=True)
class Plan:
    """What a scene shows; ``seed`` drives the background's own random numbers."""

    items: tuple[Item, ...]
    background: int
    seed: tuple[int, int]


def plan(split: str, index: int) -> Plan:
    """Draw the contents of scene ``index`` of ``split``."""
    seed = (SPLITS[split], index)
    rng = np.random.default_rng(seed)
    background = _draw_background(rng)
    count = int(rng.choice(4, p=(0.06, 0.74, 0.17, 0.03)))
    allowed = [k for k in range(len(KIND_NAMES)) if split != "train" or not held_out(k, background)]
    kinds = rng.choice(allowed, size=count, replace=False)
    return Plan(_place(kinds, rng), background, seed)


def alone(split: str, index: int, kind: int, background: int) -> Plan:
    """Scene ``index`` of ``split`` with one object of this kind on this background."""
    seed = (SPLITS[split], index)
    return Plan(_place(np.asarray([kind]), np.random.default_rng(seed)), background, seed)


def _draw_background(rng: np.random.Generator) -> int:
    if rng.random() < 0.55:
        return len(BACKGROUNDS) - 1 - int(rng.integers(len(PLACES)))
    return int(rng.integers(len(BACKGROUNDS) - len(PLACES)))


def _place(kinds: np.ndarray, rng: np.random.Generator) -> tuple[Item, ...]:
    """Put the objects inside the frame, apart from each other (the least overlapping of some tries)."""
    low, high = {0: (0, 0), 1: (120, 200), 2: (100, 132), 3: (84, 108)}[len(kinds)]
    items: list[Item] = []
    for kind in kinds:
        side = int(rng.integers(low, high + 1) * (1.2 if KIND_NAMES[kind] in LONG else 1))
        tries = rng.uniform(side / 2 + 4, SIZE - side / 2 - 4, size=(24, 2))
        x, y = min(tries, key=lambda c: max((_overlap(c, side, i) for i in items), default=0.0))
        turn = 9.0 if KIND_NAMES[kind] in DRAWINGS or KIND_NAMES[kind] == "rainbow" else 180.0
        items.append(Item(int(kind), float(x), float(y), side, float(rng.uniform(-turn, turn)), bool(rng.random() < 0.5),
                          float(rng.uniform(0.95, 1.03)), (float(rng.random()), float(rng.random()))))
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


# ---------------------------------------------------------------- objects

@cache
def sprite(kind: int) -> Image.Image:
    """The 256 x 256 RGBA drawing of a kind."""
    return Image.open(SPRITES / f"{KIND_NAMES[kind]}.png").convert("RGBA")


def layer(item: Item) -> Image.Image:
    """The object alone where it stands in the picture: RGBA 256 x 256."""
    art = sprite(item.kind) if KIND_NAMES[item.kind] in DRAWINGS else _long(item)
    art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if item.flip else art
    art = art.resize((item.side, item.side), Image.Resampling.LANCZOS)
    art = art.rotate(item.angle, Image.Resampling.BICUBIC, expand=True)
    out = Image.new("RGBA", (SIZE, SIZE))
    out.paste(art, (round(item.x - art.width / 2), round(item.y - art.height / 2)))
    return out


def _long(item: Item) -> Image.Image:
    """A long thing, RGBA 512 x 512, inside the circle that any turn keeps in the square; the rainbow stands in the square."""
    side, (bend, width) = 2 * SIZE, item.form
    art = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(art)
    name = KIND_NAMES[item.kind]
    if name == "rainbow":
        _rainbow(pen, side, 0.045 + 0.02 * width)
        return art
    t = np.linspace(-1, 1, 161)
    path = np.stack([side / 2 + t * side * 0.42, side / 2 + np.sin(t * np.pi * (0.5 + 0.75 * bend) + 2 * np.pi * width) * side * 0.17], 1)
    broad = side * (0.055 + 0.025 * width) * 150 / item.side
    {"snake": _snake, "river": _river, "road": _road}[name](pen, path, broad)
    return art


def _rainbow(pen: ImageDraw.ImageDraw, side: int, band: float) -> None:
    """Six bands of half a ring."""
    for i, colour in enumerate(("#f8312f", "#ff822d", "#fcd53f", "#00d26a", "#3f5fff", "#8d65c5")):
        radius = side * (0.5 - i * band)
        pen.pieslice((side / 2 - radius, side * 0.75 - radius, side / 2 + radius, side * 0.75 + radius), 180, 360, colour)
    radius = side * (0.5 - 6 * band)
    pen.ellipse((side / 2 - radius, side * 0.75 - radius, side / 2 + radius, side * 0.75 + radius), (0, 0, 0, 0))


def _band(pen: ImageDraw.ImageDraw, path: np.ndarray, widths: np.ndarray, colour: str) -> None:
    """A round brush drawn along a path."""
    for (x, y), w in zip(path, widths, strict=True):
        pen.ellipse((x - w, y - w, x + w, y + w), colour)


def _snake(pen: ImageDraw.ImageDraw, path: np.ndarray, broad: float) -> None:
    """A tapered body with yellow spots, and a head with eyes and a forked tongue at the end of the path."""
    grow = np.clip(np.arange(len(path)) / 50, 0.25, 1)
    head, ahead = path[-1], path[-1] - path[-6]
    ahead = ahead / np.hypot(*ahead)
    across = np.asarray([-ahead[1], ahead[0]])
    tip = head + ahead * broad * 2.1
    for side in (-0.4, 0.4):
        pen.line([tuple(head), tuple(tip), tuple(tip + (ahead + side * 1.6 * across) * broad * 0.5)], "#f8312f", round(broad * 0.28), "curve")
    _band(pen, path, grow * broad, "#00d26a")
    for spot in path[24:140:16]:
        pen.ellipse((*(spot - broad * 0.45), *(spot + broad * 0.45)), "#fcd53f")
    pen.ellipse((*(head - broad * 1.35), *(head + broad * 1.35)), "#00d26a")
    for side in (-0.65, 0.65):
        eye = head + (0.35 * ahead + side * across) * broad
        pen.ellipse((*(eye - broad * 0.3), *(eye + broad * 0.3)), "#1c1c1c")


def _river(pen: ImageDraw.ImageDraw, path: np.ndarray, broad: float) -> None:
    """Blue water with pale banks and broken white lines."""
    _band(pen, path, np.full(len(path), broad * 1.5), "#b5e3ff")
    _band(pen, path, np.full(len(path), broad * 1.25), "#2a9df4")
    for start in range(8, 150, 26):
        pen.line([tuple(p) for p in path[start:start + 13]], "white", round(broad * 0.3), "curve")


def _road(pen: ImageDraw.ImageDraw, path: np.ndarray, broad: float) -> None:
    """Gray asphalt with white edges and a broken middle line."""
    _band(pen, path, np.full(len(path), broad * 1.5), "#f4f4f4")
    _band(pen, path, np.full(len(path), broad * 1.25), "#5a5f6b")
    for start in range(4, 154, 20):
        pen.line([tuple(p) for p in path[start:start + 9]], "#fcd53f", round(broad * 0.3), "curve")


# ---------------------------------------------------------------- pictures

def render(scene: Plan) -> np.ndarray:
    """Paint a scene: uint8 (256, 256, 3)."""
    rng = np.random.default_rng((*scene.seed, 7))
    picture = background(BACKGROUNDS[scene.background], rng).reduce(2)
    for item in scene.items:
        art = layer(item)
        picture.paste(art.convert("RGB").point(lambda v, g=item.gain: min(255, round(v * g))), mask=art.getchannel("A"))
    return np.asarray(picture)


def background(name: str, rng: np.random.Generator) -> Image.Image:
    """An RGB picture of 512 x 512, twice as large as a scene, so that to reduce it makes its edges smooth."""
    large = Image.new("RGB", (2 * SIZE, 2 * SIZE))
    if name in PLACES:
        _PAINTERS[name](Brush(large, rng))
    else:
        pattern, colour = name.split(" ")
        _pattern(Brush(large, rng), pattern, np.clip(np.asarray(COLOURS[colour]) + rng.uniform(-0.03, 0.03, 3), 0, 1))
    return large


def _tone(colour: np.ndarray | tuple[float, ...], shade: float = 0.0) -> tuple[int, int, int]:
    """A colour in [0, 1] as bytes, lighter (``shade`` > 0) or darker."""
    c = np.asarray(colour, float)
    c = c + (1 - c) * shade if shade > 0 else c * (1 + shade)
    return tuple(int(v) for v in np.clip(c, 0, 1) * 255 + 0.5)


class Brush:
    """Draws on a 512 x 512 canvas in the units of the 256 x 256 picture."""

    def __init__(self, canvas: Image.Image, rng: np.random.Generator) -> None:
        self.canvas, self.pen, self.rng = canvas, ImageDraw.Draw(canvas), rng

    def oval(self, x: float, y: float, rx: float, ry: float, colour: tuple[int, ...]) -> None:
        self.pen.ellipse((2 * (x - rx), 2 * (y - ry), 2 * (x + rx), 2 * (y + ry)), colour)

    def rect(self, left: float, top: float, right: float, bottom: float, colour: tuple[int, ...]) -> None:
        self.pen.rectangle((2 * left, 2 * top, 2 * right - 1, 2 * bottom - 1), colour)

    def line(self, points: list[tuple[float, float]], colour: tuple[int, ...], width: float) -> None:
        self.pen.line([(2 * x, 2 * y) for x, y in points], colour, max(1, round(2 * width)))

    def shape(self, points: list[tuple[float, float]], colour: tuple[int, ...]) -> None:
        self.pen.polygon([(2 * x, 2 * y) for x, y in points], colour)

    def sky(self, top: tuple[float, ...], bottom: tuple[float, ...]) -> None:
        """A vertical gradient with slightly moved tones over all of the picture."""
        ramp = np.linspace(0, 1, 2 * SIZE)[:, None]
        tones = np.asarray([top, bottom]) + self.rng.uniform(-0.02, 0.02, (2, 3))
        rows = np.clip((tones[0] * (1 - ramp) + tones[1] * ramp) * 255 + 0.5, 0, 255).astype(np.uint8)
        self.canvas.paste(Image.fromarray(np.broadcast_to(rows[:, None], (2 * SIZE, 2 * SIZE, 3)).copy()))

    def hill(self, height: float, swing: float, colour: tuple[int, ...]) -> Callable[[float], float]:
        """Ground below a gently waved line; the line's y at an x."""
        length, phase = self.rng.uniform(40, 80), self.rng.uniform(0, 6)

        def line(x: float) -> float:
            return height + swing * float(np.sin(x / length + phase))

        self.shape([(0, SIZE), *((x, line(x)) for x in range(0, SIZE + 8, 8)), (SIZE, SIZE)], colour)
        return line

    def cloud(self, x: float, y: float, size: float, colour: tuple[int, ...]) -> None:
        for dx, dy, r in ((-0.9, 0.15, 0.45), (-0.3, -0.2, 0.6), (0.4, -0.05, 0.5), (0.95, 0.2, 0.38)):
            self.oval(x + dx * size, y + dy * size, r * size, r * size * 0.85, colour)
        self.rect(x - 0.95 * size, y + 0.2 * size, x + size, y + 0.53 * size, colour)

    def somewhere(self, low: float, high: float) -> tuple[float, float]:
        """An x anywhere, a y between two heights."""
        return float(self.rng.uniform(0, SIZE)), float(self.rng.uniform(low, high))

    def often(self, chance: float) -> bool:
        return bool(self.rng.random() < chance)


# ---------------------------------------------------------------- small things

@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _fence(brush: Brush, y: float) -> None:
    """White palings over a part of the picture's width."""
    left = float(brush.rng.uniform(-40, 120))
    right = left + float(brush.rng.uniform(80, 180))
    white = (247, 245, 240)
    for rail in (y - 15, y - 7):
        brush.line([(left, rail), (right, rail)], white, 2)
    for x in np.arange(left, right, 9):
        brush.shape([(x, y), (x, y - 19), (x + 2.2, y - 22), (x + 4.4, y - 19), (x + 4.4, y)], white)


def _sign(brush: Brush, x: float, y: float) -> None:
    """A wooden sign on a post, with a line of small lettering."""
    letters = "".join(brush.rng.choice(list("ABCDEFHKLMNOPRSTUVXZ"), int(brush.rng.integers(3, 6))))
    brush.rect(x - 2, y - 26, x + 2, y, (120, 82, 52))
    brush.rect(x - 24, y - 44, x + 24, y - 24, (196, 150, 98))
    brush.pen.text((2 * x, 2 * (y - 34)), letters, (74, 48, 30), _font(26), "mm")


def _blades(brush: Brush, low: float, colour: tuple[int, ...], count: int) -> None:
    """Tufts of three thin blades of grass."""
    for _ in range(count):
        x, y = brush.somewhere(low, SIZE)
        for lean in (-3, 0, 3):
            brush.line([(x, y), (x + lean, y - 7)], colour, 1)


def _flowers(brush: Brush, low: float, count: int) -> None:
    for _ in range(count):
        x, y = brush.somewhere(low, SIZE)
        petal = _tone(COLOURS[("white", "pink", "yellow")[int(brush.rng.integers(3))]])
        for angle in np.arange(5) * 2 * np.pi / 5:
            brush.oval(x + 2.4 * np.cos(angle), y + 2.4 * np.sin(angle), 1.7, 1.7, petal)
        brush.oval(x, y, 1.4, 1.4, (240, 150, 50))


def _pine(brush: Brush, x: float, y: float, size: float, colour: tuple[int, ...]) -> None:
    for level in range(3):
        half, base = size * (0.34 - 0.08 * level), y - size * 0.27 * level
        brush.shape([(x - half, base), (x + half, base), (x, base - size * 0.46)], colour)


def _portrait(brush: Brush, x: float, y: float) -> None:
    """A framed face on the wall."""
    brush.rect(x - 22, y - 26, x + 22, y + 26, (150, 104, 62))
    brush.rect(x - 18, y - 22, x + 18, y + 22, (238, 232, 214))
    brush.oval(x, y, 11, 13, (242, 200, 164))
    brush.pen.pieslice((2 * (x - 12), 2 * (y - 16), 2 * (x + 12), 2 * (y + 6)), 180, 360, (84, 56, 40))
    for dx in (-4.5, 4.5):
        brush.oval(x + dx, y + 1, 1.3, 1.6, (40, 34, 34))
    brush.pen.arc((2 * (x - 5), 2 * y, 2 * (x + 5), 2 * (y + 8)), 20, 160, (150, 60, 60), 2)


# ---------------------------------------------------------------- backgrounds

def _pattern(brush: Brush, pattern: str, colour: np.ndarray) -> None:
    rng, first = brush.rng, _tone(colour)
    second = _tone(colour, -0.13 if colour.mean() > 0.6 else 0.2)
    brush.rect(0, 0, SIZE, SIZE, first)
    if pattern == "striped":
        step, slope = float(rng.uniform(22, 34)), int(rng.integers(-1, 2))
        for x in np.arange(-SIZE + rng.uniform(0, step), 2 * SIZE, 2 * step):
            brush.shape([(x, 0), (x + step, 0), (x + step + slope * SIZE, SIZE), (x + slope * SIZE, SIZE)], second)
    elif pattern == "dotted":
        step, radius = float(rng.uniform(30, 44)), float(rng.uniform(0.2, 0.3))
        for row, y in enumerate(np.arange(rng.uniform(-step, 0), SIZE + step, step)):
            for x in np.arange(row % 2 * step / 2 - step, SIZE + step, step):
                brush.oval(x, y, radius * step, radius * step, second)
    elif pattern == "checkered":
        step, dx, dy = float(rng.uniform(26, 40)), rng.uniform(0, 40), rng.uniform(0, 40)
        for i in range(-2, int(SIZE / step) + 3):
            for j in range(-2, int(SIZE / step) + 3):
                if (i + j) % 2:
                    brush.rect(i * step + dx, j * step + dy, (i + 1) * step + dx, (j + 1) * step + dy, second)


def _meadow(brush: Brush) -> None:
    brush.sky((0.42, 0.74, 0.97), (0.80, 0.93, 0.99))
    for _ in range(int(brush.rng.integers(1, 4))):
        brush.cloud(*brush.somewhere(18, 90), float(brush.rng.uniform(16, 30)), (255, 255, 255))
    height = float(brush.rng.uniform(0.48, 0.66)) * SIZE
    brush.hill(height - 22, 14, _tone((0.55, 0.80, 0.45)))
    brush.hill(height, 8, _tone((0.42, 0.72, 0.33)))
    if brush.often(0.5):
        _fence(brush, height + 20)
    if brush.often(0.3):
        _sign(brush, float(brush.rng.uniform(30, 226)), height + 34)
    _blades(brush, height + 22, _tone((0.27, 0.56, 0.22)), 12)
    _flowers(brush, height + 26, int(brush.rng.integers(0, 9)))


def _beach(brush: Brush) -> None:
    brush.sky((0.45, 0.78, 0.98), (0.86, 0.95, 0.98))
    brush.oval(float(brush.rng.uniform(24, 232)), float(brush.rng.uniform(24, 52)), 16, 16, (255, 222, 92))
    top = float(brush.rng.uniform(0.30, 0.42)) * SIZE
    brush.rect(0, top, SIZE, SIZE, _tone((0.16, 0.60, 0.82)))
    for _ in range(9):
        x, y = brush.somewhere(top + 6, top + 50)
        brush.line([(x, y), (x + float(brush.rng.uniform(12, 34)), y)], (206, 236, 246), 1)
    shore = top + float(brush.rng.uniform(40, 70))
    brush.hill(shore - 5, 4, (240, 250, 252))
    brush.hill(shore, 4, _tone((0.96, 0.86, 0.64)))
    if brush.often(0.35):
        _sign(brush, float(brush.rng.uniform(30, 226)), shore + 30)
    for _ in range(22):
        brush.oval(*brush.somewhere(shore + 12, SIZE), 1.1, 0.8, _tone((0.82, 0.68, 0.44)))


def _night(brush: Brush) -> None:
    brush.sky((0.07, 0.08, 0.24), (0.20, 0.20, 0.46))
    for _ in range(int(brush.rng.integers(22, 40))):
        (x, y), r = brush.somewhere(0, 200), float(brush.rng.uniform(1.0, 2.4))
        brush.shape([(x, y - r), (x + r / 3, y), (x, y + r), (x - r / 3, y)], (255, 247, 214))
        brush.shape([(x - r, y), (x, y - r / 3), (x + r, y), (x, y + r / 3)], (255, 247, 214))
    if brush.often(0.6):
        x, y = brush.somewhere(28, 70)
        brush.oval(x, y, 17, 17, (250, 238, 190))
        brush.oval(x + 5, y - 4, 4, 4, (228, 212, 160))
    height = float(brush.rng.uniform(0.74, 0.86)) * SIZE
    line = brush.hill(height, 10, (26, 30, 64))
    for x in brush.rng.uniform(0, SIZE, int(brush.rng.integers(2, 6))):
        _pine(brush, x, line(x) + 4, float(brush.rng.uniform(22, 40)), (18, 22, 50))


def _snow(brush: Brush) -> None:
    brush.sky((0.62, 0.76, 0.90), (0.86, 0.92, 0.97))
    height = float(brush.rng.uniform(0.5, 0.64)) * SIZE
    line = brush.hill(height - 16, 12, _tone((0.83, 0.89, 0.96)))
    for x in brush.rng.uniform(0, SIZE, int(brush.rng.integers(3, 8))):
        _pine(brush, x, line(x) + 6, float(brush.rng.uniform(24, 46)), _tone((0.30, 0.52, 0.48)))
    brush.hill(height, 8, (250, 252, 255))
    if brush.often(0.3):
        _fence(brush, height + 24)
    for _ in range(40):
        r = float(brush.rng.uniform(0.9, 1.9))
        brush.oval(*brush.somewhere(0, SIZE), r, r, (255, 255, 255))


def _sea(brush: Brush) -> None:
    brush.rect(0, 0, SIZE, SIZE, _tone((0.33, 0.72, 0.90)))
    for i, y in enumerate(range(30, 290, int(brush.rng.integers(44, 60)))):
        brush.hill(y, 7, _tone((0.27 - 0.05 * i, 0.66 - 0.07 * i, 0.87 - 0.06 * i)))
    for _ in range(14):
        x, y = brush.somewhere(4, SIZE - 4)
        brush.pen.arc((2 * x - 14, 2 * y - 8, 2 * x + 14, 2 * y + 8), 200, 340, (222, 244, 252), 3)


def _room(brush: Brush) -> None:
    wall = np.clip(np.asarray(COLOURS[("yellow", "green", "blue", "pink", "gray")[int(brush.rng.integers(5))]]) * 0.5 + 0.48, 0, 1)
    brush.rect(0, 0, SIZE, SIZE, _tone(wall))
    floor = float(brush.rng.uniform(0.62, 0.76)) * SIZE
    for x in np.arange(brush.rng.uniform(0, 16), SIZE, 16):
        brush.line([(x, 0), (x, floor)], _tone(wall, -0.08), 1)
    if brush.often(0.75):
        _portrait(brush, float(brush.rng.uniform(32, 224)), float(brush.rng.uniform(42, 84)))
    brush.rect(0, floor, SIZE, SIZE, (204, 156, 108))
    for row, y in enumerate(np.arange(floor, SIZE, 15)):
        brush.line([(0, y), (SIZE, y)], (168, 122, 80), 1)
        for x in np.arange(row % 2 * 36, SIZE, 72):
            brush.line([(x, y), (x, y + 15)], (168, 122, 80), 1)
    brush.rect(0, floor - 6, SIZE, floor, (250, 248, 242))


_PAINTERS: dict[str, Callable[[Brush], None]] = {
    "meadow": _meadow, "beach": _beach, "night": _night, "snow": _snow, "sea": _sea, "room": _room}


# ---------------------------------------------------------------- words

_speaker = Speaker(KIND_NAMES, BACKGROUNDS, SIZE, small=132, large=170, middle=18)
caption, background_words = _speaker.caption, _speaker.background_words
