"""The source pictures of the example workflows: scenes of the test split, the mask in their alpha channel (0 = edit)."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image, ImageDraw

from ..files import INPUT
from . import data

Draw = Callable[[ImageDraw.ImageDraw, int], None]

PLAIN = (1.0, (1.0, 1.0, 1.0))


def scene(background: str, seed: int, *items: tuple[str, int, int, int]) -> Image.Image:
    """A picture (128 x 128) of named objects, each (kind, x, y, side), on a named background."""
    placed = tuple(data.Item(data.KIND_NAMES.index(kind), x, y, side, 0.0, False, *PLAIN) for kind, x, y, side in items)
    return Image.fromarray(data.render(data.Plan(placed, data.BACKGROUNDS.index(background), (data.SPLITS["test"], seed))))


def panorama(background: str, seed: int, side: int, *items: tuple[str, int, int, int]) -> Image.Image:
    """A larger picture (side x side) of objects as in `scene`, on a background of which the model sees only a part at a time."""
    result = scene(background, seed).resize((side, side), Image.Resampling.BICUBIC)
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


def box(left: int, top: int, right: int, bottom: int, radius: int = 8) -> Draw:
    """A rounded box."""
    return lambda canvas, scale: canvas.rounded_rectangle([scale * v for v in (left, top, right, bottom)], scale * radius, fill=255)


def ellipse(left: int, top: int, right: int, bottom: int) -> Draw:
    """An ellipse in its box."""
    return lambda canvas, scale: canvas.ellipse([scale * v for v in (left, top, right, bottom)], fill=255)


def outline(kind: str, x: int, y: int, side: int) -> Draw:
    """An object as `scene` paints it, without its shadow."""
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


def pictures() -> dict[str, Image.Image]:
    """All of them by file name."""
    blob = [(52, 60), (66, 56), (74, 66), (66, 74), (54, 72), (60, 64)]
    panda, field = ("panda", 66, 72, 84), scene("meadow", 11)
    large = panorama("meadow", 11, 384, ("fox", 70, 250, 76), ("mushroom", 330, 318, 56), ("turtle", 210, 340, 64), ("butterfly", 120, 80, 40))
    return {
        "bld_demo_large.png": masked(large, box(232, 196, 300, 268)),
        "bld_demo_edit.png": masked(scene("meadow", 3, ("turtle", 22, 98, 40)), box(44, 16, 124, 114)),
        "bld_demo_background.png": masked(scene("beach", 5, panda), outline(*panda)),
        "bld_demo_scribble.png": masked(scribbled(scene("beach", 6), blob, 22, (205, 40, 40)), ellipse(26, 24, 104, 104)),
        "bld_demo_left.png": masked(field, box(6, 36, 60, 118)),
        "bld_demo_right.png": masked(field, box(68, 36, 122, 118)),
        "bld_demo_stroke.png": masked(scene("plain blue", 9), stroke([(64, 14), (64, 114)], 14)),
    }


def main() -> None:
    """Write them all."""
    INPUT.mkdir(exist_ok=True)
    for name, picture in pictures().items():
        picture.save(INPUT / name)


if __name__ == "__main__":
    main()
