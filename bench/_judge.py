"""Whether an edit shows the object: the word of the stroke judge (demo/train/stroke_judge.py), its own error, and what shares of it are worth."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats
import torch

from bench._cases import WIDTHS, Case
from demo.train import stroke_judge

Referee = tuple[stroke_judge.StrokeJudge, dict[int, float]]


def judged(referee: Referee, cases: list[Case], pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each case's kind shows in its mask, and the share of absent kinds that seem to: bool (N,), float (N,)."""
    threshold = np.asarray([referee[1][c.width] for c in cases])[:, None]
    with torch.autocast("cpu", enabled=False):
        seen = stroke_judge.shares(referee[0], pictures, np.stack([c.mask for c in cases])) > threshold
    absent = np.stack([c.absent for c in cases])
    return seen[np.arange(len(cases)), [c.kind for c in cases]], (seen & absent).sum(1) / absent.sum(1)


def shown(referee: Referee, case: Case, pictures: torch.Tensor) -> np.ndarray:
    """Whether the judge sees the case's kind in the mask of each picture (N, H, W, 3) in 0..1: bool (N,)."""
    pixels = (pictures.float().clamp(0, 1).cpu().numpy() * 255 + 0.5).astype(np.uint8)
    return judged(referee, [case] * len(pixels), pixels)[0]


def own_error(vae: Any, referee: Referee, count: int) -> dict[int, dict[str, float]]:
    """The judge on ideal edits of held-out scenes, by width of the stroke: how often it misses a kind that covers half of the painted
    area, and how often it claims one that is not there."""
    with torch.autocast("cpu", enabled=False):
        apart = stroke_judge.examples(vae, "test", stroke_judge.FIRST, count, WIDTHS)
        seen = stroke_judge.shares(referee[0], apart.pixels[apart.row], apart.masks)
    return {w: stroke_judge.error(seen[apart.width == w], apart.shown[apart.width == w], referee[1][w]) for w in WIDTHS}


def interval(hit: np.ndarray) -> str:
    """A rate's 95 % interval (Wilson)."""
    low, high = scipy.stats.binomtest(int(hit.sum()), len(hit)).proportion_ci(method="wilson")
    return f"{low:.0%} to {high:.0%}"


def against(hit: np.ndarray, baseline: np.ndarray) -> str:
    """A paired comparison with the baseline: exact McNemar test."""
    won, lost = int((hit & ~baseline).sum()), int((~hit & baseline).sum())
    return f"+{won} -{lost}, p {scipy.stats.binomtest(won, won + lost).pvalue if won + lost else 1:.1g}"
