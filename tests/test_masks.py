"""Masks against independent references: scipy, PIL, numpy and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from blended_latent_diffusion.bld import masks

SIZES = [((64, 64), (8, 8)), ((96, 160), (6, 10)), ((100, 70), (12, 8)), ((61, 33), (7, 5))]


def random_mask(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed)) > 0.7).float()


def stroke(size: int, width: int, offset: int, kind: str) -> torch.Tensor:
    """A (1, size, size) mask with one stroke of `width` pixels."""
    y, x = np.mgrid[:size, :size]
    match kind:
        case "horizontal":
            painted = (y >= offset) & (y < offset + width)
        case "vertical":
            painted = (x >= offset) & (x < offset + width)
        case "diagonal":
            painted = (x - y >= offset - size // 2) & (x - y < offset - size // 2 + width)
        case "curved":
            painted = np.abs(np.hypot(x - offset, y) - size / 2) < width / 2
    return torch.from_numpy(painted.astype(np.float32))[None]


@pytest.mark.parametrize("size, cells", SIZES)
def test_max_is_the_largest_pixel_of_each_cell(size, cells):
    mask = torch.rand(2, *size, generator=torch.Generator().manual_seed(1))
    small = masks.resize(mask, cells, "max")
    for row in range(cells[0]):
        for column in range(cells[1]):
            rows = slice(row * size[0] // cells[0], math.ceil((row + 1) * size[0] / cells[0]))
            columns = slice(column * size[1] // cells[1], math.ceil((column + 1) * size[1] / cells[1]))
            assert torch.equal(small[:, row, column], mask[:, rows, columns].amax((1, 2)))


@pytest.mark.parametrize("size, cells", SIZES)
def test_area_is_the_painted_share_of_each_cell(size, cells):
    """Reference: blow every pixel up until a cell is a whole number of them, then average."""
    mask = random_mask(*size)
    fine = mask.repeat_interleave(cells[0], 1).repeat_interleave(cells[1], 2)
    expected = fine.reshape(2, cells[0], size[0], cells[1], size[1]).double().mean((2, 4))
    assert torch.allclose(masks.resize(mask, cells, "area").double(), expected, atol=1e-6)


def test_coverage_switches_on_at_its_threshold():
    mask = torch.zeros(1, 16, 16)
    mask[0, :4, :8] = 1
    mask[0, :1, 8:] = 1
    assert masks.resize(mask, (2, 2), "coverage", 0.5)[0].tolist() == [[1, 0], [0, 0]]
    assert masks.resize(mask, (2, 2), "coverage", 0.1)[0].tolist() == [[1, 1], [0, 0]]
    assert masks.resize(mask, (2, 2), "coverage", 0.0)[0].tolist() == [[1, 1], [0, 0]], "an unpainted cell is never masked"


@pytest.mark.parametrize("size, cells", SIZES)
def test_bilinear_is_the_hosts_own_resize_bit_for_bit(size, cells):
    import comfy.utils

    mask = random_mask(*size)
    expected = comfy.utils.reshape_mask(mask, (2, 1, *cells))[:, 0]
    assert torch.equal(masks.resize(mask, cells, "bilinear"), expected)


@pytest.mark.parametrize("size, cells", SIZES)
def test_nearest_is_pils_nearest_bit_for_bit(size, cells):
    mask = random_mask(*size)
    expected = [np.asarray(Image.fromarray(one.numpy()).resize(cells[::-1], Image.Resampling.NEAREST)) for one in mask]
    assert np.array_equal(masks.resize(mask, cells, "nearest").numpy(), expected)


@pytest.mark.parametrize("kind", ["horizontal", "vertical", "diagonal", "curved"])
@pytest.mark.parametrize("ratio", [8, 16])
def test_max_keeps_every_thin_stroke(kind, ratio):
    size, cells = 6 * ratio + 3, (6, 6)
    for width in (1, 2, 4):
        for offset in range(size - width):
            mask = stroke(size, width, offset, kind)
            if mask.any():
                assert masks.dropped(mask, masks.resize(mask, cells, "max")) == (0, 0), (width, offset)


def test_dropped_counts_pixels_and_strokes_that_nearest_loses():
    mask = torch.zeros(1, 64, 64)
    mask[0, 0, :] = 1  # a row that no cell's centre touches
    mask[0, 36, 10:36] = 1  # a row of centres, whose last four pixels end before the centre of their cell
    assert masks.dropped(mask, masks.resize(mask, (8, 8), "nearest")) == (64 + 4, 1)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24))), st.integers(0, 13))
def test_square_dilation_is_scipys_bit_for_bit(mask, radius):
    kernel = 2 * radius + 1
    expected = scipy.ndimage.binary_dilation(mask, np.ones((kernel, kernel)))
    assert np.array_equal(masks.dilate(torch.from_numpy(mask).float()[None], kernel)[0].numpy() > 0, expected)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 24), st.integers(1, 24))), st.integers(0, 13))
def test_disk_dilation_is_scipys_bit_for_bit(mask, radius):
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    expected = scipy.ndimage.binary_dilation(mask, x**2 + y**2 <= radius**2)
    assert np.array_equal(masks.dilate(torch.from_numpy(mask).float()[None], 2 * radius + 1, "disk")[0].numpy() > 0, expected)


def test_dilation_of_a_soft_mask_is_scipys_grey_dilation():
    mask = torch.rand(1, 20, 17, generator=torch.Generator().manual_seed(3))
    expected = scipy.ndimage.grey_dilation(mask[0].numpy(), footprint=np.ones((5, 5)), mode="constant", cval=0)
    assert np.array_equal(masks.dilate(mask, 5)[0].numpy(), expected)


def test_a_soft_edge_falls_linearly_and_only_outside():
    mask = torch.zeros(1, 1, 9)
    mask[0, 0, 4] = 1
    assert torch.allclose(masks.soften(mask, 3)[0, 0], torch.tensor([0, 1, 2, 3, 4, 3, 2, 1, 0]) / 4)


@pytest.mark.parametrize("kernel", [0, -1, 4])
def test_a_kernel_without_a_centre_is_refused(kernel):
    with pytest.raises(ValueError, match=f"kernel was {kernel}"):
        masks.dilate(torch.zeros(1, 4, 4), kernel)


def test_upsampling_works_too():
    """A pixel-space model has a latent as large as the picture; some masks are smaller than the latent."""
    mask = random_mask(8, 8)
    assert torch.equal(masks.resize(mask, (8, 8), "max"), mask)
    assert torch.equal(masks.resize(mask, (16, 16), "max"), F.interpolate(mask[:, None], scale_factor=2)[:, 0])
