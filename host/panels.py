"""Pictures side by side with their labels, as the help pages and the examples show them."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

GAP, LABEL = 8, 24
INK, PALE, RED, GREEN = "black", (150, 150, 150), (230, 60, 70), (30, 150, 60)


@dataclass(frozen=True)
class Panel:
    """One labeled picture. `frame` is the color of its outline; a `pale` picture is washed out."""

    label: str
    image: Image.Image
    frame: tuple[int, int, int] | None = None
    pale: bool = False


def sheet(panels: Sequence[Panel], columns: int, side: int) -> Image.Image:
    """The panels in rows of `columns`, each scaled to `side` x `side` screen pixels, on white."""
    rows = -(-len(panels) // columns)
    canvas = Image.new("RGB", (GAP + columns * (side + GAP), GAP + rows * (side + LABEL + GAP)), "white")
    for index, panel in enumerate(panels):
        left, top = GAP + index % columns * (side + GAP), GAP + index // columns * (side + LABEL + GAP)
        centered(canvas, panel.label, left + side // 2, top, PALE if panel.pale else INK, side)
        canvas.paste(drawn(panel, side), (left, top + LABEL))
    return canvas


def drawn(panel: Panel, side: int) -> Image.Image:
    """The picture of a panel at its size, with its frame."""
    image = panel.image.convert("RGB")
    image = image.resize((side, side), Image.Resampling.NEAREST if image.width < side else Image.Resampling.LANCZOS)
    if panel.pale:
        image = Image.blend(image, Image.new("RGB", image.size, "white"), 0.65)
    ImageDraw.Draw(image).rectangle((0, 0, side - 1, side - 1), outline=panel.frame or PALE, width=4 if panel.frame else 1)
    return image


def centered(canvas: Image.Image, text: str, middle: int, top: int, color: object, width: int) -> None:
    """Write one line around `middle`, in the largest of a few sizes that fits into `width`."""
    draw = ImageDraw.Draw(canvas)
    fonts = [ImageFont.load_default(size) for size in (17, 15, 13, 11)]
    font = next((font for font in fonts if draw.textlength(text, font) <= width), fonts[-1])
    draw.text((middle, top + LABEL // 2 - 2), text, fill=color, font=font, anchor="mm")


def lines(rows: Sequence[tuple[str, str]], width: int, size: int = 17) -> Image.Image:
    """Text on white, one row each: what stands at the left in black, a remark at the right in gray."""
    font, height = ImageFont.load_default(size), size + 11
    canvas = Image.new("RGB", (width, 2 * GAP + height * len(rows)), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (text, remark) in enumerate(rows):
        middle = GAP + height * index + height // 2
        draw.text((2 * GAP, middle), text, fill=INK, font=font, anchor="lm")
        draw.text((width - 2 * GAP, middle), remark, fill=(90, 90, 90), font=font, anchor="rm")
    return canvas


def below(*images: Image.Image) -> Image.Image:
    """The pictures one below the other, on white."""
    canvas = Image.new("RGB", (max(image.width for image in images), sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        canvas.paste(image, (0, top))
        top += image.height
    return canvas


def painted(image: Image.Image, mask: Image.Image) -> Image.Image:
    """The picture with its mask laid over it in red, as in the MaskEditor."""
    red = Image.blend(image.convert("RGB"), Image.new("RGB", image.size, RED), 0.55)
    return Image.composite(red, image.convert("RGB"), mask.convert("L"))


def changed(source: Image.Image, result: Image.Image) -> Image.Image:
    """How far each pixel is from the source's, 8 times amplified, as gray on black."""
    difference = ImageChops.difference(source.convert("RGB"), result.convert("RGB")).convert("L")
    return difference.point(lambda value: min(255, 8 * value))


def outlined(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """The picture with a red box drawn into it."""
    image = image.convert("RGB")
    ImageDraw.Draw(image).rectangle(box, outline=RED, width=1)
    return image


def enlarged(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """A cut-out of the picture."""
    return image.convert("RGB").crop(box)


def save(image: Image.Image, path: Path) -> None:
    """Write a JPG, or a PNG of few colors for what a screen shows, and say how large it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".png":
        image.convert("RGB").quantize(128, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(path, optimize=True)
    else:
        image.convert("RGB").save(path, quality=86, optimize=True)
    print(f"{path.name}: {image.width}x{image.height}, {path.stat().st_size / 1000:.0f} KB", flush=True)
