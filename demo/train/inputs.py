"""The source pictures of the example workflows: scenes of the test split, the mask in their alpha channel (0 = edit)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from ..files import INPUT
from . import data

Draw = Callable[[ImageDraw.ImageDraw, int], None]


def scene(background: str, seed: int, *items: tuple[str, int, int, int]) -> Image.Image:
    """A picture (256 x 256) of named objects, each (kind, x, y, side), on a named background."""
    placed = tuple(data.Item(data.KIND_NAMES.index(kind), x, y, side, 0.0, False, 1.0, (0.5, 0.5)) for kind, x, y, side in items)
    return Image.fromarray(data.render(data.Plan(placed, data.BACKGROUNDS.index(background), (data.SPLITS["test"], seed))))


def panorama(background: str, seed: int, side: int, *items: tuple[str, int, int, int]) -> Image.Image:
    """A larger picture (side x side) of objects as in `scene`, on a background of which the model sees only a part at a time."""
    result = data.background(background, np.random.default_rng((data.SPLITS["test"], seed, 7))).resize((side, side), Image.Resampling.LANCZOS)
    for kind, x, y, size in items:
        drawn = data.sprite(data.KIND_NAMES.index(kind)).resize((size, size), Image.Resampling.LANCZOS)
        result.paste(drawn, (x - size // 2, y - size // 2), drawn)
    return result


def masked(picture: Image.Image, draw: Draw) -> Image.Image:
    """The picture with a mask in its alpha channel, drawn at four times the size; LoadImage reads 1 - alpha as the mask."""
    mask = Image.new("L", [4 * side for side in picture.size])
    draw(ImageDraw.Draw(mask), 4)
    mask = mask.resize(picture.size, Image.Resampling.BOX).point(lambda value: 255 * (value >= 128))
    result = picture.convert("RGBA")
    result.putalpha(Image.eval(mask, lambda value: 255 - value))
    return result


def box(left: int, top: int, right: int, bottom: int, radius: int = 16) -> Draw:
    """A rounded box."""
    return lambda canvas, scale: canvas.rounded_rectangle([scale * v for v in (left, top, right, bottom)], scale * radius, fill=255)


def ellipse(left: int, top: int, right: int, bottom: int) -> Draw:
    """An ellipse in its box."""
    return lambda canvas, scale: canvas.ellipse([scale * v for v in (left, top, right, bottom)], fill=255)


def outline(kind: str, x: int, y: int, side: int) -> Draw:
    """An object as `scene` paints it."""
    alpha = data.sprite(data.KIND_NAMES.index(kind)).getchannel("A")
    return lambda canvas, scale: canvas.bitmap((scale * (x - side / 2), scale * (y - side / 2)), alpha.resize((scale * side, scale * side)), fill=255)


def stroke(points: list[tuple[int, int]], width: int) -> Draw:
    """A brush stroke of a width in pixels with round ends."""

    def draw(canvas: ImageDraw.ImageDraw, scale: int) -> None:
        path = [(scale * x, scale * y) for x, y in points]
        canvas.line(path, fill=255, width=scale * width, joint="curve")
        for x, y in path:
            canvas.ellipse([x - scale * width / 2, y - scale * width / 2, x + scale * width / 2, y + scale * width / 2], fill=255)

    return draw


def scribbled(picture: Image.Image, points: list[tuple[int, int]], width: int, colour: tuple[int, int, int]) -> Image.Image:
    """The picture with a rough stroke painted in."""
    ink = masked(Image.new("RGB", picture.size, colour), stroke(points, width))
    return Image.composite(picture, Image.new("RGB", picture.size, colour), ink.getchannel("A"))


def arc(left: int, top: int, right: int, bottom: int) -> list[tuple[int, int]]:
    """The points of the upper half of an ellipse in its box."""
    x, y, reach, height = (left + right) / 2, bottom, (right - left) / 2, bottom - top
    return [(round(x - reach * np.cos(angle)), round(y - height * np.sin(angle))) for angle in np.linspace(0, np.pi, 33)]


def pictures() -> dict[str, Image.Image]:
    """All of them by file name."""
    blob = [(104, 120), (132, 112), (148, 132), (132, 148), (108, 144), (120, 128)]
    panda, field = ("panda", 132, 144, 168), scene("meadow", 27)
    large = panorama("meadow", 11, 768, ("fox", 130, 440, 140), ("mushroom", 190, 650, 104), ("turtle", 636, 640, 120), ("butterfly", 240, 160, 80))
    return {
        "bld_demo_large.png": masked(large, box(330, 500, 500, 700)),
        "bld_demo_edit.png": masked(scene("meadow", 3, ("turtle", 46, 196, 80)), box(96, 28, 280, 228)),
        "bld_demo_background.png": masked(scene("beach", 5, panda), outline(*panda[:3], 164)),
        "bld_demo_scribble.png": masked(scribbled(scene("beach", 6), blob, 44, (205, 40, 40)), ellipse(52, 48, 208, 208)),
        "bld_demo_left.png": masked(field, box(12, 64, 120, 240)),
        "bld_demo_right.png": masked(field, box(136, 64, 244, 240)),
        "bld_demo_stroke.png": masked(scene("meadow", 48), stroke(arc(36, 50, 220, 150), 24)),
    }


def main() -> None:
    """Write them all."""
    INPUT.mkdir(exist_ok=True)
    for name, picture in pictures().items():
        picture.save(INPUT / name)


if __name__ == "__main__":
    main()
