"""How the benchmarks compare drawn pictures with real ones."""

from __future__ import annotations

import numpy as np
import pytest

from bench._likeness import frechet, gradients


def test_sharpness_is_the_mean_step_inside_the_mask():
    picture = np.zeros((1, 8, 8, 3), np.uint8)
    picture[:, :, 4:] = 90
    left, right = np.zeros((1, 8, 8), bool), np.zeros((1, 8, 8), bool)
    left[:, :, :4] = right[:, :, 2:6] = True
    assert gradients(picture, left)[0] == 0
    # Of three steps to the right one is an edge, of as many down none.
    assert gradients(picture, right)[0] == pytest.approx(90 / 3 / 2)


def test_a_blurred_picture_is_less_sharp():
    sharp = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.uint8)
    blurred = ((sharp.astype(int) + np.roll(sharp, 1, 1) + np.roll(sharp, 1, 2)) // 3).astype(np.uint8)
    everywhere = np.ones((1, 32, 32), bool)
    assert gradients(blurred, everywhere) < 0.8 * gradients(sharp, everywhere)


def test_the_distance_is_that_of_normal_distributions_in_units_of_the_real_ones():
    real = np.random.default_rng(0).standard_normal((4000, 5)) @ np.random.default_rng(1).standard_normal((5, 5))
    unit = real.std(0)
    assert frechet(real, real) == pytest.approx(0, abs=1e-6)
    assert frechet(real + 2 * unit, real) == pytest.approx(5 * 2**2, rel=1e-3)
    # Twice as wide: (2 - 1)^2 for each of five unit variances.
    assert frechet(2 * (real - real.mean(0)) + real.mean(0), real) == pytest.approx(5, rel=1e-3)
