"""A picture of a mask schedule over time."""

from __future__ import annotations

import math
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..bld.schedule import MaskSchedule
from .mask_picture import INK, as_image, over_picture, part_of

TILE = 160
GAP = 3
CAPTION = 22
COLUMNS = 8
GROUND = (50, 50, 54)


def _tile(stage: Tensor, thin: Tensor, picture: Tensor | None, caption: str) -> Image.Image:
    shown = over_picture(stage, TILE - 2 * GAP, picture, thin)
    tile = Image.new("RGB", (TILE, shown.height + 2 * GAP + CAPTION), GROUND)
    tile.paste(shown, ((TILE - shown.width) // 2, GAP))
    ImageDraw.Draw(tile).text((TILE // 2, tile.height - CAPTION // 2), caption, fill=INK, anchor="mm", font=ImageFont.load_default(13))
    return tile


def captions(schedule: MaskSchedule) -> list[str]:
    """The part of the schedule that each stage covers."""
    return [f"{start:.0%} to {end:.0%}" for start, end in pairwise([0.0, *schedule.ends, 1.0])]


def stages_over_time(schedule: MaskSchedule, image: Tensor | None = None) -> Tensor:
    """The masks of the first sample or frame with paint, wide to thin in rows of 8, each with the part of the schedule that it covers.

    image: IMAGE of the picture that the masks belong to, to be seen under them.

    Returns: an IMAGE, (1, H, W, 3) in 0..1. Raises ValueError for a picture of other proportions.
    """
    shown = int((schedule.thin > 0).flatten(1).any(1).float().argmax())
    picture = None if image is None else part_of(image, shown, schedule.thin.shape[-2:])
    tiles = [_tile(stage[shown], schedule.thin[shown], picture, caption) for stage, caption in zip(schedule.masks, captions(schedule), strict=True)]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (width * min(len(tiles), COLUMNS), height * math.ceil(len(tiles) / COLUMNS)), GROUND)
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % COLUMNS * width, index // COLUMNS * height))
    return as_image([sheet])
