"""The cheapest method that meets both targets, of made-up methods whose figures are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blended_latent_diffusion.bld.reconstruction import best_of, cheapest

LEVEL = 1 / 255
X = torch.full((1, 3, 32, 32), 0.5)
M = torch.zeros(1, 32, 32)
M[:, 8:24, 8:24] = 1


def off(background: float, seam: float) -> Tensor:
    """So many levels off outside the mask, and a step of so many at its edge."""
    return X + (background + seam * M[:, None]) * LEVEL


def tried(least_psnr: float, most_seam: float, **pictures: Tensor) -> tuple[list[str], str, bool]:
    trials = cheapest([(name, lambda picture=picture: picture) for name, picture in pictures.items()], X, M, least_psnr, most_seam)
    best = best_of(trials)
    return [one.method for one in trials], best.method, best.met


def test_it_stops_at_the_first_that_meets_both():
    some = {"a": off(10, 0), "b": off(0, 10), "c": off(0, 1), "d": off(0, 0)}
    assert tried(40, 2, **some) == (["a", "b", "c"], "c", True)
    assert tried(0, 2, **some) == (["a"], "a", True), "10 levels off are 28 dB"
    assert tried(40, 20, **some) == (["a", "b"], "b", True)


def test_where_none_does_it_takes_the_smallest_seam():
    assert tried(40, 2, a=off(0, 10), b=off(0, 4), c=off(0, 6)) == (["a", "b", "c"], "b", False)


@pytest.mark.parametrize("worse", [off(10, 0), off(0, 10)], ids=["background", "seam"])
def test_of_a_batch_the_worst_counts(worse):
    good = off(0, 0)
    assert tried(40, 2, a=torch.cat([good, worse]), b=torch.cat([worse, good]), c=torch.cat([good, good])) == (["a", "b", "c"], "c", True)
