"""Extract the sprites from Noto Color Emoji (OFL 1.1): ``python -m demo.small.drawings``. Needed only to change the list of kinds."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ..train.drawings import squared
from .data import KINDS, SIZE
from .files import SPRITES

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")


def draw(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """One emoji, cropped to what is visible and centred in a 128 x 128 RGBA square."""
    canvas = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(canvas).text((12, 12), character, font=font, embedded_color=True)
    return squared(canvas, SIZE, Image.Resampling.LANCZOS)


def extract(font_path: Path = FONT) -> None:
    """Write a picture for every kind."""
    font = ImageFont.truetype(str(font_path), 109)
    SPRITES.mkdir(parents=True, exist_ok=True)
    for name, character in KINDS.items():
        draw(character, font).save(SPRITES / f"{name.replace(' ', '_')}.png", optimize=True)


if __name__ == "__main__":
    extract()
