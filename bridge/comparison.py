"""Before and after in the browser: the pictures that a node's display lays over each other, and the figures beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor

from ..bld.edges import Region
from ..bld.masks import dilate
from ..bld.metrics import EditFigures, figures, flicker, seam_map
from .previews import save_previews

# No 8-bit picture gets there without being the source: one pixel of 4096x4096, one level off, is at 120 dB.
MOST_DB = 150.0
AMPLIFY = 16
OUTLINE = (1.0, 0.8, 0.0)
# Of a batch, so many are shown: each costs five files and the figures of two pictures.
SHOWN = 8
# Larger pictures are scaled down to so many pixels on the longer side.
LONGEST, QUALITY = 2048, 92
# A seam of so many levels has the strongest color.
STRONG_SEAM = 16.0
NO_SEAM, STRONG = (0.1, 0.8, 0.35), (1.0, 0.1, 0.15)


def comparison(
    x_hat: Tensor, x: Tensor, m: Tensor, decode: Tensor | None = None, known: Sequence[dict] = (), frames: int = 1, **more: object
) -> dict[str, list]:
    """The `ui` output for the display of js/compare.js.

    Args:
        x_hat: (B, 3, H, W) in 0..1, the edited pictures.
        x: (B or 1, 3, H, W), the source.
        m: (B or 1, H, W).
        decode: (B, 3, H, W), what a plain decode gives, if there is one.
        known: the figures of each x_hat as in the JSON of Edit Report, where they are measured already.
        frames: of each video, 1 for pictures.
        more: what else the display says: `method`, `seconds`, `report`.

    Returns: under "comparison" one dict: `count` of the batch, and of its first SHOWN `pictures`, or of as many frames from first to
    last, the `number`, and `files` and `figures` (as in the JSON of Edit Report) by the name of the layer.
    """
    pictures = []
    for i in shown_of(len(x_hat), frames):
        result, source, mask = (t[i % len(t)][None].cpu().float() for t in (x_hat, x, m))
        edits = {} if decode is None else {"decode": decode[i][None].cpu().float()}
        measured = {name: rounded(measure(one, source, mask)) for name, one in edits.items()}
        measured["result"] = known[i] if known else rounded(measure(result, source, mask))
        layers = {name: one[0].movedim(0, -1) for name, one in {"source": source, **edits, "result": result}.items()}
        layers |= {"error": error_map(result, source, mask), "seam": seam_picture(result, source, mask)}
        files = dict(zip(layers, save_previews(list(layers.values()), LONGEST, QUALITY), strict=True))
        pictures.append({"number": i + 1, "files": files, "figures": measured})
    return {"comparison": [{"count": len(x_hat), "pictures": pictures, **more}]}


def shown_of(count: int, frames: int) -> list[int]:
    """Which of a batch the browser shows: the first pictures, which may be the best, or of videos, frames from the first to the last."""
    most = min(count, SHOWN)
    return list(range(most)) if frames == 1 else [(count - 1) * i // (most - 1) for i in range(most)]


def measure(x_hat: Tensor, x: Tensor, m: Tensor) -> EditFigures:
    """The figures with dB no higher than MOST_DB, of pictures as they are saved, in 0..1. Arguments as for `bld.metrics.figures`."""
    found = asdict(figures(x_hat.clamp(0, 1), x.clamp(0, 1), m))
    return EditFigures(**{name: min(value, MOST_DB) if value == math.inf else value for name, value in found.items()})


def flickers_of(x_hat: Tensor, x: Tensor, m: Tensor, frames: int) -> list[float]:
    """The flicker of each frame of videos, NaN for the first of each and for pictures. x and m: one, those of one video, or one each."""
    if frames == 1:
        return [math.nan] * len(x_hat)
    starts = range(0, len(x_hat), frames)
    return [value for i in starts for value in flicker(x_hat[i : i + frames], *(t[i % len(t) :][:frames] for t in (x, m)))]


def most_of(values: Sequence[float]) -> float:
    """The largest value that is not NaN; NaN if there is none."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)


def rounded(one: EditFigures, **more: float) -> dict[str, float | None]:
    """The figures by name, and more, rounded to four digits. None means that there was nothing to measure."""
    return {name: None if math.isnan(value) else round(value, 4) for name, value in (asdict(one) | more).items()}


def error_map(x_hat: Tensor, x: Tensor, m: Tensor) -> Tensor:
    """The background's error, amplified AMPLIFY times, with the mask's outline. The masked area shows the source in dark gray.

    x_hat, x: (1, 3, H, W). m: (1, H, W). Returns: (H, W, 3) in 0..1.
    """
    outside = (m == 0).float()
    width = 1 + max(m.shape[-2:]) // 1024
    outline = ((m > 0) & (dilate(outside, 2 * width + 1) > 0))[0, ..., None]
    error = ((x_hat - x).abs() * AMPLIFY).clamp(0, 1)
    picture = torch.where(outside[:, None] > 0, error, x.mean(1, keepdim=True).clamp(0, 1) / 4)[0].movedim(0, -1)
    return torch.where(outline, torch.tensor(OUTLINE), picture)


def seam_picture(x_hat: Tensor, x: Tensor, m: Tensor) -> Tensor:
    """The mask's edge over the edited picture in gray: green where there is no seam, the redder the more it shows.

    x_hat, x: (1, 3, H, W). m: (1, H, W). Returns: (H, W, 3) in 0..1.
    """
    weight, levels = seam_map(x_hat, x, m)
    reach = 1 + max(m.shape[-2:]) // 512
    edge = Region(weight[:, 0]).nearby(reach)[0, ..., None] > 0
    share = F.max_pool2d(levels * (weight > 0), 2 * reach + 1, 1, reach)[0, 0, ..., None].div(STRONG_SEAM).clamp(max=1)
    color = torch.tensor(NO_SEAM) + share * (torch.tensor(STRONG) - torch.tensor(NO_SEAM))
    gray = x_hat.mean(1)[0, ..., None].mul(0.6).expand(-1, -1, 3)
    return torch.where(edge, color, gray)
