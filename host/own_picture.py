"""A picture of the user's, made ready for the demo: a mask in its alpha channel, at the size that the demo model takes."""
from __future__ import annotations

from pathlib import Path

from PIL import Image

from host import HostError, printable


def own_picture(image: Path | None, mask: Path | None, size: tuple[int, int]) -> Image.Image:
    """An RGBA picture of this size (width, height) whose alpha is 0 where the mask is white, as LoadImage reads it.

    What is cut away lies as far from the mask as the picture allows. Raises HostError.
    """
    if image is None or mask is None:
        raise HostError("--image and --mask belong together: name a picture, and a mask of its size that is white where the picture may change.")
    picture, painted = _read(image, "RGB"), _read(mask, "L")
    if painted.size != picture.size:
        raise HostError(f"{mask.name} is {size_of(painted)}, but {image.name} is {size_of(picture)}: make the mask as large as the picture.")
    window = _window(picture.size, _painted(painted), size)
    if _painted(painted.crop([round(v) for v in window])) is None:
        raise HostError(f"{mask.name} is black: paint white where {image.name} may change.")
    result = picture.resize(size, Image.Resampling.LANCZOS, window)
    result.putalpha(painted.resize(size, Image.Resampling.BILINEAR, window).point(lambda value: 255 * (value < 128)))
    if picture.size != size:
        print(f"  {printable(image.name)} is {size_of(picture)}: cropped and scaled to {size_of(result)}, which the demo model takes", flush=True)
    return result


def _read(path: Path, mode: str) -> Image.Image:
    try:
        return Image.open(path).convert(mode)
    except OSError as error:
        raise HostError(f"Cannot read a picture from {path}: {error}") from None


def size_of(picture: Image.Image) -> str:
    """The size in words: 640x480."""
    return f"{picture.width}x{picture.height}"


def _painted(mask: Image.Image) -> tuple[int, int, int, int] | None:
    """The box around what is white."""
    return mask.point(lambda value: 255 * (value >= 128)).getbbox()


def _window(whole: tuple[int, int], around: tuple[int, int, int, int] | None, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest part of a picture with the shape of `size`, as near as possible to centered on a box in it."""
    scale = min(w / s for w, s in zip(whole, size, strict=True))
    left, top, right, bottom = around or (0, 0, *whole)
    corner = [min(max(0.0, (low + high - scale * side) / 2), full - scale * side)
              for low, high, side, full in ((left, right, size[0], whole[0]), (top, bottom, size[1], whole[1]))]
    return (*corner, *(c + scale * s for c, s in zip(corner, size, strict=True)))
