"""How near drawn pictures come to real ones: as sharp, and as varied in what a judge sees in them."""

from __future__ import annotations

import numpy as np


def gradients(pictures: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Mean step between neighboring pixels inside each mask, in 8-bit levels: float (N,).

    pictures: uint8 (N, H, W, 3); masks: bool (N, H, W), of which a pixel counts if its right and its lower neighbor are in, too.
    """
    x = pictures.astype(np.float32)
    here, right, below = ((x[:, :-1, :-1], masks[:, :-1, :-1]), (x[:, :-1, 1:], masks[:, :-1, 1:]), (x[:, 1:, :-1], masks[:, 1:, :-1]))
    steps = (np.abs(right[0] - here[0]) + np.abs(below[0] - here[0])).mean(-1) / 2
    inside = here[1] & right[1] & below[1]
    return (steps * inside).sum((1, 2)) / inside.sum((1, 2))


def frechet(drawn: np.ndarray, real: np.ndarray) -> float:
    """Squared Fréchet distance between normal distributions fitted to two sets of features, (N, F) and (M, F).

    Each feature counts in units of its standard deviation over the real pictures, so that two judges' distances can be compared.
    """
    unit = real.std(0) + 1e-6
    (mean, spread), (mean_real, spread_real) = ((f.mean(0), np.cov(f, rowvar=False)) for f in (drawn / unit, real / unit))
    # The trace of the root of a product of two covariances: its eigenvalues are real and none is negative, but for rounding.
    cross = np.sqrt(np.linalg.eigvals(spread @ spread_real).real.clip(0)).sum()
    return float(((mean - mean_real) ** 2).sum() + np.trace(spread) + np.trace(spread_real) - 2 * cross)
