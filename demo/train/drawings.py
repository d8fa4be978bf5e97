"""Draw the sprites from Fluent Emoji Flat (MIT): ``python -m demo.train.drawings package/icons.json``, after ``pip install resvg_py`` and
``npm pack @iconify-json/fluent-emoji-flat``. Needed only to change the list of kinds.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from PIL import Image

from ..files import SPRITES
from .data import DRAWINGS, SIZE


def draw(body: str, size: int) -> Image.Image:
    """One drawing of a ``size`` square canvas, cropped to what is visible and centred in a 256 x 256 RGBA square."""
    import resvg_py

    side = 4 * SIZE
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size} {size}" width="{side}" height="{side}">{body}</svg>'
    canvas = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    return squared(canvas, SIZE, Image.Resampling.BOX)


def squared(canvas: Image.Image, side: int, resampling: Image.Resampling) -> Image.Image:
    """What is visible of an RGBA picture, centred in a square of ``side`` pixels."""
    glyph = canvas.crop(canvas.getbbox())
    scale = side / max(glyph.size)
    glyph = glyph.resize([max(1, round(v * scale)) for v in glyph.size], resampling)
    square = Image.new("RGBA", (side, side))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return square


def extract(icons: Path) -> None:
    """Write a picture for every kind that is a drawing."""
    known = json.loads(icons.read_text())
    SPRITES.mkdir(parents=True, exist_ok=True)
    for name, drawing in DRAWINGS.items():
        draw(known["icons"][drawing]["body"], known["width"]).save(SPRITES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    extract(Path(sys.argv[1]))
