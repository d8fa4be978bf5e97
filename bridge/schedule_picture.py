"""A picture of a mask schedule over time."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..bld.schedule import MaskSchedule

TILE = 160
GAP = 3
CAPTION = 22
COLUMNS = 8


def _tile(mask: Tensor, caption: str) -> Image.Image:
    picture = Image.fromarray((mask.clamp(0, 1).cpu().numpy() * 255).astype(np.uint8))
    scale = (TILE - 2 * GAP) / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.NEAREST)
    tile = Image.new("L", (TILE, picture.height + 2 * GAP + CAPTION), 70)
    tile.paste(picture, ((TILE - picture.width) // 2, GAP))
    ImageDraw.Draw(tile).text((TILE // 2, tile.height - CAPTION // 2), caption, fill=230, anchor="mm", font=ImageFont.load_default(13))
    return tile


def captions(schedule: MaskSchedule) -> list[str]:
    """The part of the schedule that each stage covers."""
    return [f"{start:.0%} to {end:.0%}" for start, end in pairwise([0.0, *schedule.ends, 1.0])]


def stages_over_time(schedule: MaskSchedule) -> Tensor:
    """The masks of the first sample or frame with paint, wide to thin in rows of 8, each with the part of the schedule that it covers.

    Returns: an IMAGE, (1, H, W, 3) in 0..1.
    """
    shown = int((schedule.thin > 0).flatten(1).any(1).float().argmax())
    tiles = [_tile(stage[shown], caption) for stage, caption in zip(schedule.masks, captions(schedule), strict=True)]
    width, height = tiles[0].size
    sheet = Image.new("L", (width * min(len(tiles), COLUMNS), height * math.ceil(len(tiles) / COLUMNS)), 70)
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % COLUMNS * width, index // COLUMNS * height))
    return torch.from_numpy(np.array(sheet)).float().div(255)[None, ..., None].expand(-1, -1, -1, 3)
