"""An edit of a small place in a large picture: cut out what the edit needs to see, and put the result back."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import torch
from torch import Tensor

from ..bld import masks, reconstruction
from ..bld.windows import Window, scaled, window_around
from .checks import as_mask, as_picture, check_batch


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
    m = as_mask(mask)
    (height, width), painted = image.shape[1:3], m.shape[-2:]
    if painted != (height, width):
        raise ValueError(f"mask is {painted[1]}x{painted[0]}, but image is {width}x{height}: connect the mask of this picture.")
    check_batch(len(m), len(image), "mask", "image")
    if not (m > 0).any():
        raise ValueError("mask is empty: paint the area to edit.")
    window = window_around(m, context, multiple, side)
    inside = m[window.place].clone()
    crop = scaled(as_picture(image[:, window.rows.slice, window.columns.slice]), window.crop)
    return crop.movedim(1, -1).to(image.dtype), masks.resize(inside, window.crop, "max"), Place(image, window, inside), report_of(window, image)


def report_of(window: Window, image: Tensor) -> str:
    """A window in words."""
    rows, columns = window.rows, window.columns
    told = f"{columns.length}x{rows.length} at {columns.start}, {rows.start} of {image.shape[2]}x{image.shape[1]}"
    return f"{told}, scaled to {columns.crop}x{rows.crop}." if window.is_scaled else f"{told}."


def put_back(edited: Tensor, place: Place, method: str, settings: dict, image: Tensor | None) -> Tensor:
    """The edited crops, an IMAGE, joined to the picture that they were cut from, or to `image` in its place: an IMAGE, (B, H, W, 3).

    method: a key of `reconstruction.IN_PIXELS`, which works in the window; settings: its own. Where the mask is 0 every pixel is the picture's.
    Raises ValueError for crops of another shape, and for an image of another size.
    """
    whole = place.image if image is None else image
    if whole.shape[1:3] != place.image.shape[1:3]:
        (height, width), (old_height, old_width) = whole.shape[1:3], place.image.shape[1:3]
        raise ValueError(f"image is {width}x{height}, but the crop was cut from {old_width}x{old_height}: connect a picture of that size.")
    check_shape(edited, place.window)
    check_batch(len(whole), len(edited), "image", "edited")
    check_batch(len(place.mask), len(edited), "the mask of where", "edited")
    window = place.window
    part = as_picture(whole[:, window.rows.slice, window.columns.slice])
    crops = scaled(as_picture(edited, "edited").to(part.device), (window.rows.length, window.columns.length))
    stop = comfy.model_management.throw_exception_if_processing_interrupted
    joined, _ = reconstruction.IN_PIXELS[method](crops, part, place.mask.to(part), 1, stop, **settings)
    inside = place.mask.to(part.device)[..., None] > 0
    result = whole[..., :3].expand(len(edited), -1, -1, -1).clone()
    seen = result[:, window.rows.slice, window.columns.slice]
    seen.copy_(torch.where(inside, joined.movedim(1, -1).to(seen.dtype), seen))
    return result


def check_shape(edited: Tensor, window: Window) -> None:
    """Raises ValueError for crops whose sides are not in the proportion of the window's crop, give or take a pixel."""
    (height, width), (rows, columns) = edited.shape[1:3], window.crop
    if abs(height * columns - width * rows) > max(height, width) + max(rows, columns):
        raise ValueError(f"edited is {width}x{height}, but the crop was {columns}x{rows}: connect the edit of this crop.")
