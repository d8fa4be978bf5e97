"""Poisson cloning against a direct sparse solve of the whole equation."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blended_latent_diffusion.bld.metrics import seam
from blended_latent_diffusion.bld.reconstruction import poisson


def direct(x_hat: np.ndarray, x: np.ndarray, region: np.ndarray) -> np.ndarray:
    """Pixel by pixel, one row of the equation each, as the paper writes it: (C, H, W) -> (C, H, W)."""
    height, width = region.shape
    matrix, right = scipy.sparse.lil_array((region.size, region.size)), np.zeros((region.size, len(x)))
    for i, j in np.ndindex(height, width):
        row = i * width + j
        matrix[row, row] = 1
        right[row] = x[:, i, j]
        if not region[i, j]:
            continue
        neighbours = [(k, n) for k, n in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)) if 0 <= k < height and 0 <= n < width]
        matrix[row, row] = len(neighbours)
        right[row] = sum(x_hat[:, i, j] - x_hat[:, k, n] for k, n in neighbours)
        for k, n in neighbours:
            matrix[row, k * width + n] = -1
    return scipy.sparse.linalg.spsolve(matrix.tocsc(), right).reshape(height, width, -1).transpose(2, 0, 1)


def pictures(seed: int, *shape: int) -> torch.Tensor:
    """Textured, in 0.25..0.75, so that a clone rarely leaves 0..1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.25


def region_of(name: str, height: int = 48, width: int = 40) -> torch.Tensor:
    m = torch.zeros(1, height, width)
    match name:
        case "inside":
            m[:, 8:36, 6:30] = 1
        case "frame's edge":
            m[:, :20, 15:] = 1
        case "all but a pixel":
            m += 1
            m[:, 5, 7] = 0
        case "regions and holes":
            m[:, 2:30, 2:30] = 1
            m[:, 10:20, 10:20] = 0
            m[:, 14, 14] = 1
            m[:, 40:, :8] = 1
        case "stroke":
            m[:, range(40), range(40)] = 1
    return m


@pytest.mark.parametrize("name", ["inside", "frame's edge", "all but a pixel", "regions and holes", "stroke"])
def test_it_is_the_direct_solution(name):
    m, x, x_hat = region_of(name), pictures(0, 1, 3, 48, 40), pictures(1, 1, 3, 48, 40)
    expected = direct(x_hat[0].double().numpy(), x[0].double().numpy(), m[0].numpy() > 0)
    assert abs(poisson(x_hat, x, m)[0].numpy() - expected.clip(0, 1)).max() < 1e-4


@given(region=hnp.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_it_is_the_direct_solution_for_any_mask(region, seed):
    x, x_hat = pictures(seed, 1, 2, *region.shape), pictures(seed + 10, 1, 2, *region.shape)
    expected = x_hat[0].numpy() if region.all() else direct(x_hat[0].double().numpy(), x[0].double().numpy(), region).clip(0, 1)
    assert abs(poisson(x_hat, x, torch.from_numpy(region)[None].float())[0].numpy() - expected).max() < 1e-4


def test_it_is_the_direct_solution_on_several_grids():
    """Large enough for two coarser grids, with a rough mask and boundary values that do not average out."""
    side = 160
    ramp = torch.linspace(0, 0.4, side)
    x, x_hat = pictures(0, 1, 1, side, side) * 0.5 + ramp, pictures(1, 1, 1, side, side)
    v, u = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    m = ((v - 70) ** 2 + (u - 90) ** 2 < 60**2 + 900 * torch.sin(v / 2.0) * torch.cos(u / 3.0)).float()[None]
    expected = direct(x_hat[0].double().numpy(), x[0].double().numpy(), m[0].numpy() > 0)
    assert abs(poisson(x_hat, x, m)[0].numpy() - expected.clip(0, 1)).max() < 1e-3


def test_the_number_of_iterations_does_not_grow_with_the_picture():
    counts = []
    for side in (64, 512):
        m, calls = torch.zeros(1, side, side), []
        m[:, side // 4 :, side // 4 : -side // 4] = 1
        poisson(pictures(1, 1, 1, side, side), pictures(0, 1, 1, side, side), m, on_iteration=lambda: calls.append(1))  # noqa: B023
        counts.append(len(calls))
    assert counts[1] <= counts[0] + 8 and counts[1] < 20


def test_the_background_is_exact_and_no_seam_is_left():
    m, x = region_of("inside"), torch.full((1, 3, 48, 40), 0.4)
    x_hat = x + 0.2
    clone = poisson(x_hat, x, m)
    assert torch.equal(clone[:, :, m[0] == 0], x[:, :, m[0] == 0])
    assert seam(x_hat * m[:, None] + x * (1 - m[:, None]), x, m) > 40 and seam(clone, x, m) < 0.1


def test_a_mask_that_leaves_nothing_out_keeps_the_edit_and_one_that_is_empty_the_source():
    x, x_hat = pictures(0, 1, 3, 9, 7), pictures(1, 1, 3, 9, 7)
    assert torch.equal(poisson(x_hat, x, torch.ones(1, 9, 7)), x_hat)
    assert torch.equal(poisson(x_hat, x, torch.zeros(1, 9, 7)), x)


def test_a_soft_mask_mixes_the_clone_with_the_source():
    m, x, x_hat = region_of("inside"), pictures(0, 1, 3, 48, 40), pictures(1, 1, 3, 48, 40)
    clone = poisson(x_hat, x, m)
    assert torch.allclose(poisson(x_hat, x, m * 0.25), x + 0.25 * (clone - x), atol=1e-5)


@pytest.mark.parametrize("sources", [1, 2])
@pytest.mark.parametrize("masks", [1, 2])
def test_a_batch_is_its_pictures_one_by_one(sources, masks):
    x_hat, x = pictures(1, 2, 3, 48, 40), pictures(0, sources, 3, 48, 40)
    m = torch.cat([region_of("inside"), region_of("frame's edge")])[:masks]
    alone = [poisson(x_hat[i : i + 1], x[i % sources][None], m[i % masks][None]) for i in range(2)]
    assert torch.allclose(poisson(x_hat, x, m), torch.cat(alone), atol=1e-6)


def test_what_is_raised_at_an_iteration_ends_it_and_the_pictures_are_untouched():
    m, x, x_hat = region_of("inside"), pictures(0, 1, 3, 48, 40), pictures(1, 1, 3, 48, 40)
    before = x_hat.clone()

    def cancel():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        poisson(x_hat, x, m, on_iteration=cancel)
    assert torch.equal(x_hat, before)


def test_nan_is_refused_where_it_is_read_and_harmless_elsewhere():
    x, x_hat, m = pictures(0, 1, 3, 48, 40), pictures(1, 1, 3, 48, 40), region_of("frame's edge")
    x_hat[0, 0, 0, 0] = float("nan")
    assert torch.isfinite(poisson(x_hat, x, m)).all()
    x_hat[0, 0, 0, 14] = float("nan")
    with pytest.raises(ValueError, match="contain NaN or infinite values around the mask: check the nodes that made them"):
        poisson(x_hat, x, m)
