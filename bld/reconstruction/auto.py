"""The cheapest method that is good enough: each is tried in turn, and what it gives is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..metrics import background_psnr, seam


@dataclass(frozen=True)
class Trial:
    """A method, what it gave, and the worst figures over the batch."""

    method: str
    picture: Tensor
    background: float
    seam: float
    met: bool


def cheapest(methods: Sequence[tuple[str, Callable[[], Tensor]]], x: Tensor, m: Tensor, least_psnr: float, most_seam: float) -> list[Trial]:
    """Tries methods, cheapest first, until one meets both targets.

    Args:
        methods: their names, and what makes their pictures, (B, 3, H, W) in 0..1.
        x: (B or 1, 3, H, W) in 0..1, the source. m: (B or 1, H, W) in 0..1.
        least_psnr: in dB, of the unmasked area. most_seam: in levels of 255, see `metrics.seam`.

    Returns: what was tried, in order; the last met the targets, or none did.
    """
    trials: list[Trial] = []
    for method, make in methods:
        picture = make()
        worst = worst_of(picture, x, m)
        met = not worst[0] < least_psnr and not worst[1] > most_seam
        trials.append(Trial(method, picture, *worst, met))
        if met:
            break
    return trials


def best_of(trials: Sequence[Trial]) -> Trial:
    """The one that met the targets; else the one with the smallest seam."""
    return min(trials, key=lambda trial: (not trial.met, trial.seam if not math.isnan(trial.seam) else math.inf))


def worst_of(picture: Tensor, x: Tensor, m: Tensor) -> tuple[float, float]:
    """The lowest background PSNR and the largest seam over a batch; NaN where there is nothing to measure."""
    each = [tuple(t[i % len(t)][None].cpu() for t in (picture, x, m)) for i in range(len(picture))]
    backgrounds = [level for level in (background_psnr(*one) for one in each) if not math.isnan(level)]
    seams = [size for size in (seam(*one) for one in each) if not math.isnan(size)]
    return min(backgrounds, default=math.nan), max(seams, default=math.nan)
