"""What the browser shows of a ranking: every candidate with its figures and two pictures, best first."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor

from ...bld import ranking
from ..previews import save_previews
from ..sampling.dropped import Dropped
from ..sampling.dropped import why as why_dropped

# The longer side, in pixels: of a tile, also on a fine screen, and of a picture that is looked at closely.
TILE, LARGE = 384, 2048


def gallery(
    pictures: list[Tensor],
    names: list[str],
    scores: Tensor,
    figures: Mapping[str, Tensor],
    weights: Mapping[str, float],
    seeds: list[int | None],
    min_score: float,
    picks: list[int],
    dropped: list[Dropped],
) -> list[dict]:
    """The candidates, best first, as JSON can hold them; last those that pruning has dropped, of which there is no picture.

    Args:
        pictures: (H, W, C) each, in 0..1; names: of their contents.
        scores: (N,); figures: (N,) each, whose sum with these weights the score is.
        seeds: of the candidates, as far as they are known.
        picks: of the user, in their order.
        dropped: by pruning.
    """
    best = int(ranking.order(scores)[0])
    tiles, larges = save_previews(pictures, TILE, names=names), save_previews(pictures, LARGE, 92, names)

    def candidate(index: int) -> dict:
        score = float(scores[index])
        return {
            "index": index,
            "score": number(score),
            # As text: JSON's numbers end at 2^53 in a browser, seeds at 2^64.
            "seed": None if seeds[index] is None else str(seeds[index]),
            "parts": [{"name": name, "value": number(values[index]), "weight": weights[name]} for name, values in figures.items()],
            "out": why_out(score, min_score if index != best else ranking.NO_MIN_SCORE),
            "picked": picks.index(index) if index in picks else None,
            "size": [pictures[index].shape[1], pictures[index].shape[0]],
            "tile": tiles[index],
            "large": larges[index],
        }

    ranked = [candidate(index) for index in ranking.order(scores).tolist()]
    latest_first = sorted(dropped, key=lambda one: (one["share"], one["score"]), reverse=True)
    return ranked + [{"seed": str(one["seed"]), "score": None, "parts": [], "out": why_dropped(one), "tile": None} for one in latest_first]


def number(value: float | Tensor) -> float | None:
    """A number as JSON can hold it: None for NaN."""
    return None if math.isnan(value) else float(value)


def why_out(score: float, min_score: float) -> str:
    """Why a candidate doesn't count; empty if it does."""
    if math.isnan(score):
        return "It contains NaN or infinite values."
    return f"Its score is below min_score {min_score:g}." if score < min_score else ""
