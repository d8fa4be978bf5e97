"""An edit of a small place in a large picture: cut out what the edit needs to see, and put the result back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import comfy.model_management
import torch
from torch import Tensor

from ..bld import masks, reconstruction
from ..bld.reconstruction.decoder import repeated
from ..bld.windows import Window, scaled, window_around
from .checks import as_mask, as_picture, check_batch, check_shape, check_total, frames_of

# What VAE Encode makes both sides a multiple of.
FACTORS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Place:
    """Where a crop comes from, as it travels from node to node: the whole IMAGE, the window in it, and the mask in the window, (B, h, w)."""

    image: Tensor
    window: Window
    mask: Tensor


def cut_out(image: Tensor, mask: Tensor, context: float, multiple: int, side: int) -> tuple[Tensor, Tensor, Place, str]:
    """The window around the mask as IMAGE and MASK at the crop's size, the place, and a report.

    context, multiple, side: as in `window_around`. Only the window is read, so the picture's size costs next to nothing.
    Raises ValueError for an empty mask, and for one that does not belong to the image.
    """
    check_shape(image)
    m = as_mask(mask)
    (height, width), painted = image.shape[1:3], m.shape[-2:]
    if painted != (height, width):
        raise ValueError(f"mask is {painted[1]}x{painted[0]}, but image is {width}x{height}: connect the mask of this picture.")
    check_batch(len(m), len(image), "mask", "image")
    if not (m > 0).any():
        raise ValueError("mask is empty: paint the area to edit.")
    window = window_around(m, context, multiple, side)
    (rows, columns), count = window.crop, len(image)
    check_total(count * 3 * rows * columns, f"size is {side}, which makes {count} crops of {columns}x{rows},")
    inside = m[window.place].clone()
    crop = scaled(as_picture(image[:, window.rows.slice, window.columns.slice]), window.crop)
    return crop.movedim(1, -1).to(kind_of(image)), masks.resize(inside, window.crop, "max"), Place(image, window, inside), report_of(window, image)


def report_of(window: Window, image: Tensor) -> str:
    """A window in words."""
    rows, columns = window.rows, window.columns
    told = f"{columns.length}x{rows.length} at {columns.start}, {rows.start} of {image.shape[2]}x{image.shape[1]}"
    return f"{told}, scaled to {columns.crop}x{rows.crop}." if window.is_scaled else f"{told}."


def kind_of(image: Tensor) -> torch.dtype:
    """The type of numbers of the pictures that are made from an IMAGE: its own, unless it can't hold what lies between 0 and 1."""
    return image.dtype if image.is_floating_point() else torch.float32


def put_back(edited: Tensor, place: Place, method: str, settings: dict, image: Tensor | None, frames: int = 1) -> Tensor:
    """The edited crops, an IMAGE, joined to the picture that they were cut from, or to `image` in its place: an IMAGE, (B, H, W, 3).

    method: a key of `reconstruction.IN_PIXELS`, which works in the window; settings: its own. Where the mask is 0 every pixel is the picture's.
    frames: of each video in `edited`, 1 for pictures, 0 for one video of all; the picture and the mask may be the frames of one video for all of them.
    Raises ValueError for crops of another shape, and for an image of another size.
    """
    whole, name = (place.image, "the image of where") if image is None else (image, "image")
    check_shape(edited, "edited")
    check_shape(whole, name)
    if whole.shape[1:3] != place.image.shape[1:3]:
        (height, width), (old_height, old_width) = whole.shape[1:3], place.image.shape[1:3]
        raise ValueError(f"image is {width}x{height}, but the crop was cut from {old_width}x{old_height}: connect a picture of that size.")
    check_crop(edited, place.window)
    frames = frames_of(frames, len(edited), "edited")
    check_batch(len(whole), len(edited), name, "edited", frames)
    check_batch(len(place.mask), len(edited), "the mask of where", "edited", frames)
    check_total(len(edited) * 3 * math.prod(whole.shape[1:3]), f"edited has {len(edited)} in its batch, which makes pictures")
    window = place.window
    part = as_picture(whole[:, window.rows.slice, window.columns.slice], name).clamp(0, 1)
    crops = scaled(as_picture(edited, "edited").to(part.device).clamp(0, 1), (window.rows.length, window.columns.length))
    m = place.mask.to(part)
    stop = comfy.model_management.throw_exception_if_processing_interrupted
    # A paste takes the pixels as they are: a soft mask has blended them already.
    joined, _ = reconstruction.IN_PIXELS[method](crops, part, (m > 0).to(part) if method == "paste" else m, frames, stop, **settings)
    result = repeated(whole[..., :3], len(edited)).to(kind_of(whole))
    for i, one in enumerate(result[:, window.rows.slice, window.columns.slice]):
        one.copy_(torch.where(m[i % len(m), ..., None] > 0, joined[i].movedim(0, -1).to(one.dtype), one))
    return result


def check_crop(edited: Tensor, window: Window) -> None:
    """Raises ValueError for crops that lack what VAE Encode cut off, or whose sides are not in the proportion of the window's crop, give or take a pixel."""
    (height, width), (rows, columns) = edited.shape[1:3], window.crop
    if (height, width) != (rows, columns) and any((height, width) == (rows // one * one, columns // one * one) for one in FACTORS):
        raise ValueError(
            f"edited is {width}x{height}, but the crop was {columns}x{rows}, of which VAE Encode has cut off the rest: raise multiple of Edit Cut Out to 64."
        )
    if abs(height * columns - width * rows) > max(height, width) + max(rows, columns):
        raise ValueError(f"edited is {width}x{height}, but the crop was {columns}x{rows}: connect the edit of this crop.")
