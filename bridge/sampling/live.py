"""The live preview while sampling: all candidates in one sheet, as far as they are drawn."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Sequence

import comfy.utils
import latent_preview
from comfy.model_patcher import ModelPatcher
from PIL import Image, ImageDraw, ImageEnhance, ImageFont
from torch import Tensor

# As ComfyUI's progress bar waits between two updates, in seconds.
INTERVAL = 0.1
GAP, EMPTY, INK = 2, (38, 38, 38), (255, 255, 255)
# How much of its brightness a candidate keeps that is out of the race.
DROPPED = 0.3
Preview = tuple[str, Image.Image, int]


class Sheet:
    """The latest picture of each of `count` candidates, in rows. Previews are as ComfyUI's previewer makes them, one a candidate."""

    def __init__(self, previewer: latent_preview.LatentPreviewer, count: int) -> None:
        self.previewer = previewer
        self.tiles: list[Image.Image | None] = [None] * count
        self.dropped: set[int] = set()
        self.due = 0.0

    def preview(self, numbers: Sequence[int], x0: Tensor, last: bool) -> Preview | None:
        """What a progress bar shows, or None less than INTERVAL after the one before, unless it is the last.

        numbers: the candidates in x0, (len(numbers), C, ..., h, w).
        """
        if time.monotonic() < self.due and not last:
            return None
        kind, size = "JPEG", latent_preview.MAX_PREVIEW_RESOLUTION
        for row, number in enumerate(numbers):
            made = self.previewer.decode_latent_to_preview_image(kind, x0[row : row + 1])
            # Some packs' previewers send their picture on a way of their own.
            if made is None:
                return None
            kind, self.tiles[number], size = made
        self.due = time.monotonic() + INTERVAL
        return kind, sheet(self.tiles, self.dropped, size), size


def sheet(tiles: Sequence[Image.Image | None], dropped: Collection[int], size: int) -> Image.Image:
    """The tiles side by side with their numbers, in a picture of `size` pixels at most. None is left empty, what was dropped is dark."""
    wide, high = next(tile.size for tile in tiles if tile is not None)
    columns = min(len(tiles), max(1, round(math.sqrt(len(tiles) * high / wide))))
    rows = math.ceil(len(tiles) / columns)
    scale = min(size / (columns * wide), size / (rows * high))
    width, height = (max(GAP + 1, int(side * scale)) for side in (wide, high))
    picture = Image.new("RGB", (columns * width - GAP, rows * height - GAP))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(max(9, min(width, height) // 8))
    for number, tile in enumerate(tiles):
        place = (number % columns * width, number // columns * height)
        if tile is not None:
            cell = ImageEnhance.Brightness(tile.convert("RGB").resize((width - GAP, height - GAP))).enhance(DROPPED if number in dropped else 1)
            picture.paste(cell, place)
        else:
            picture.paste(EMPTY, (*place, place[0] + width - GAP, place[1] + height - GAP))
        draw.text((place[0] + 3, place[1] + 1), str(number), INK, font, stroke_width=1, stroke_fill="black")
    return picture


class Progress:
    """ComfyUI's progress bar and live preview over all candidates. A step that is gone over again moves neither."""

    def __init__(self, model: ModelPatcher, steps: int, count: int) -> None:
        """steps: of one candidate."""
        self.steps, self.total = steps, max(steps, 1) * count
        self.done = [0] * count
        self.sheet = None
        if count == 1:
            self.show = latent_preview.prepare_callback(model, self.total)
        else:
            previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
            self.bar, self.sheet = comfy.utils.ProgressBar(self.total), Sheet(previewer, count) if previewer else None

    def of(self, chunk: Sequence[int]) -> Callable:
        """The callback of a run of these candidates."""

        def callback(step: int, x0: Tensor, x: Tensor, _: int) -> None:
            if all(self.done[i] > step for i in chunk):
                return
            for i in chunk:
                self.done[i] = max(self.done[i], min(step + 1, self.steps))
            if len(self.done) == 1:
                self.show(step, x0, x, self.total)
            else:
                self.bar.update_absolute(sum(self.done), self.total, self.sheet and self.sheet.preview(chunk, x0, step + 1 == self.steps))

        return callback

    def drop(self, candidates: Collection[int]) -> None:
        """These are out of the race, and their steps are done."""
        for i in candidates:
            self.done[i] = self.steps
        if self.sheet:
            self.sheet.dropped.update(candidates)
