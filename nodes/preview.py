"""Small pictures of a mask schedule, for the node that makes it."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..bld.schedule import MaskSchedule

TILE = 160
CAPTION = 22


def _tile(mask: Tensor, caption: str) -> Image.Image:
    picture = Image.fromarray((mask.clamp(0, 1).cpu().numpy() * 255).astype(np.uint8))
    scale = TILE / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.NEAREST)
    tile = Image.new("L", (TILE, TILE + CAPTION), 40)
    tile.paste(picture, ((TILE - picture.width) // 2, (TILE - picture.height) // 2))
    ImageDraw.Draw(tile).text((TILE // 2, TILE + CAPTION // 2), caption, fill=230, anchor="mm", font=ImageFont.load_default(13))
    return tile


def stages_over_time(schedule: MaskSchedule) -> Tensor:
    """The first sample's masks side by side, wide to thin, each with the part of the schedule it covers.

    Returns: an IMAGE, (1, H, W, 3) in 0..1.
    """
    ends = torch.tensor([0.0, *schedule.shares]).cumsum(0)
    captions = [f"{start:.0%} to {end:.0%}" for start, end in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    strip = np.concatenate([np.asarray(_tile(stage[0], caption)) for stage, caption in zip(schedule.masks, captions, strict=True)], axis=1)
    return torch.from_numpy(strip).float().div(255)[None, ..., None].expand(-1, -1, -1, 3)
