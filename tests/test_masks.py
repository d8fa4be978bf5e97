"""Masks against independent references: scipy, PIL, numpy and plain loops."""

from __future__ import annotations

import copy
import math

import comfy.sd
import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from bench import strokes
from blended_latent_diffusion.bld import masks
from conftest import Edit

SIZES = [((64, 64), (8, 8)), ((96, 160), (6, 10)), ((100, 70), (12, 8)), ((61, 33), (7, 5))]


def random_mask(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return (torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed)) > 0.7).float()


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


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.75])
@pytest.mark.parametrize("ratio", [8, 10, 16])
def test_coverage_moves_a_straight_edge_by_the_painted_share(ratio, threshold):
    edges = torch.arange(1, ratio + 1)
    painted = (torch.arange(6 * ratio) < 3 * ratio + edges[:, None]).float()[:, None].expand(-1, 6 * ratio, -1)
    on = [3 + (edge >= round(threshold * ratio, 6)) for edge in edges.tolist()]
    assert masks.coverage(painted, (6, 6), threshold).sum(2).tolist() == [[cells] * 6 for cells in on]


def test_coverage_of_no_threshold_is_any_paint_and_of_an_unpainted_cell_is_nothing():
    mask = (torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(4)) > 0.98) * 0.01
    assert torch.equal(masks.coverage(mask, (8, 8), 0), (masks.resize(mask, (8, 8), "max") > 0).float())
    assert masks.coverage(torch.zeros(1, 64, 64), (8, 8), 0).max() == 0


def test_coverage_closes_a_gap_that_is_painted_by_its_share():
    painted = torch.ones(8, 40, 40)
    for width in range(8):
        painted[width, :, 20 - width // 2 - width % 2 : 20 + width // 2] = 0
    assert masks.coverage(painted, (5, 5))[:, 2, 2].tolist() == [1, 1, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5, 0.75])
@pytest.mark.parametrize("ratio", [8, 10, 16])
def test_coverage_keeps_a_spike_that_sticks_out_of_a_blob_by_the_threshold(ratio, threshold):
    lengths = torch.arange(1, ratio + 1)
    painted = torch.zeros(ratio, 6 * ratio, 6 * ratio)
    painted[..., : 3 * ratio] = 1
    painted[:, 4 * ratio] = (torch.arange(6 * ratio) < 3 * ratio + lengths[:, None]).float()
    kept = masks.coverage(painted, (6, 6), threshold)[:, 4, 3].tolist()
    assert kept == [length >= round(threshold * ratio, 6) for length in lengths.tolist()]


RECTANGLES = st.lists(st.tuples(st.integers(0, 55), st.integers(1, 30), st.integers(0, 55), st.integers(1, 30)), max_size=4)


@given(st.tuples(st.integers(20, 64), st.integers(20, 64)), RECTANGLES, st.integers(0, 3), st.sampled_from([0.1, 0.25, 0.5, 0.8, 1.0]))
def test_no_paint_sticks_out_of_a_coverage_mask_by_the_threshold(size, rectangles, round_off, threshold):
    mask = np.zeros(size, bool)
    for top, height, left, width in rectangles:
        mask[top : top + height, left : left + width] = True
    mask = scipy.ndimage.binary_dilation(mask, iterations=round_off) if round_off else mask
    painted, cells = torch.from_numpy(mask).float()[None], (size[0] // 8, size[1] // 8)
    on = masks.coverage(painted, cells, threshold)
    kept = masks.kept(torch.ones(1, *size), on)[0].numpy()
    reach = [2 * max(0, math.ceil(threshold * pixels / count - 1e-6) - 1) + 1 for pixels, count in zip(size, cells, strict=True)]
    assert not (mask & ~scipy.ndimage.binary_dilation(kept, np.ones(reach))).any()
    assert on[masks.area(painted, cells) > threshold + 1e-4].all() and not on[masks.area(painted, cells) == 0].any()


@pytest.mark.parametrize("ratio", [8, 16])
def test_coverage_hardly_grows_a_blob(ratio):
    disks = strokes.disks(ratio, 6)
    assert 1 <= strokes.growth(disks, 32, "coverage") < 1.05 < 1.15 < strokes.growth(disks, 32, "max")


def test_a_blurred_mask_has_the_coverage_of_the_hard_one_and_no_tail():
    hard = strokes.disks(8, 6)
    soft = torch.from_numpy(scipy.ndimage.gaussian_filter(hard.numpy(), (0, 20, 20)))
    assert torch.equal(masks.coverage(soft, (32, 32)), masks.coverage((soft >= 0.5).float(), (32, 32)))
    assert masks.coverage(soft, (32, 32)).mean() < 1.1 * hard.mean() < 2 * hard.mean() < masks.resize(soft, (32, 32), "max").gt(0.01).float().mean()


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


@pytest.mark.promise("no-paint-lost")
@pytest.mark.parametrize("mode", ["max", "coverage"])
@pytest.mark.parametrize("size", strokes.SIZES)
@pytest.mark.parametrize("kind", strokes.KINDS)
def test_every_thin_stroke_is_kept_whole_at_every_offset(kind, size, mode):
    for width in strokes.WIDTHS:
        trace, whole = strokes.survival(strokes.strokes(size, width, kind), mode)
        assert len(whole) == size and trace.all() and whole.all(), f"{width} px: {int((~whole).sum())} of {size} cut"


def test_the_strokes_of_the_benchmark_are_as_wide_as_they_say():
    for width in strokes.WIDTHS:
        assert strokes.strokes(35, width, "horizontal").sum((1, 2)).tolist() == [35 * width] * 35
        assert torch.equal(strokes.strokes(35, width, "vertical"), strokes.strokes(35, width, "horizontal").mT)
        across = strokes.strokes(35, width, "diagonal").sum(2) / 2**0.5
        assert (across - width).abs().max() < 1


@pytest.mark.parametrize("width, ratio, bilinear, nearest", [(1, 8, 0.25, 0.125), (6, 8, 0.875, 0.75), (4, 16, 0.3125, 0.25), (8, 32, 0.28125, 0.25)])
def test_the_baselines_lose_as_many_strokes_as_is_known(width, ratio, bilinear, nearest):
    drawn = strokes.strokes(strokes.CELLS * ratio, width, "vertical")
    assert [float(strokes.survival(drawn, mode)[0].float().mean()) for mode in ("bilinear", "nearest")] == [bilinear, nearest]


def test_dropped_counts_pixels_and_strokes_that_nearest_loses():
    mask = torch.zeros(1, 64, 64)
    mask[0, 0, :] = 1  # a row that no cell's centre touches
    mask[0, 36, 10:36] = 1  # a row of centres, whose last four pixels end before the centre of their cell
    assert masks.dropped(mask, masks.resize(mask, (8, 8), "nearest")) == (64 + 4, 1)


def encoder(edit: Edit, ratio: int) -> comfy.sd.VAE:
    """The small model's VAE, as if a latent pixel had another size, and for a picture of one channel."""
    vae = copy.copy(edit.vae)
    vae.downscale_ratio, vae.output_channels = ratio, 1
    return vae


@pytest.mark.parametrize("ratio", [4, 8, 16, 32])
@pytest.mark.parametrize("height, width", [(517, 517), (512, 519), (100, 70), (129, 255), (384, 512)])
def test_a_mask_of_the_pictures_size_is_cropped_as_the_host_crops_the_picture(edit, height, width, ratio):
    mask = torch.rand(2, height, width, generator=torch.Generator().manual_seed(5))
    expected = encoder(edit, ratio).vae_encode_crop_pixels(mask[..., None])[..., 0]
    size = (height // ratio, width // ratio)
    assert torch.equal(masks.as_encoded(mask, size), expected)
    assert torch.equal(masks.to_latent(mask, size, "bilinear"), masks.resize(expected, size, "bilinear"))


@pytest.mark.parametrize("height, width", [(384, 512), (96, 128), (600, 800), (75, 100), (150, 201), (48, 64), (24, 32), (191, 256), (384, 520), (580, 772)])
def test_a_mask_of_another_size_is_scaled_whole(height, width):
    mask = torch.rand(1, height, width)
    assert torch.equal(masks.as_encoded(mask, (48, 64)), mask)


@pytest.mark.parametrize("height, width", [(512, 512), (512, 384), (384, 500), (64, 48), (1, 512)])
def test_a_mask_of_another_shape_is_refused_with_both_sizes(height, width):
    with pytest.raises(ValueError, match=f"mask is {width}x{height}, whose proportions are not those of the latent, 64x48"):
        masks.to_latent(torch.zeros(1, height, width), (48, 64))


@pytest.mark.parametrize("ratio", [1, 4, 8])
def test_latent_frames_take_their_video_frames_by_maximum(ratio):
    frames = 4
    mask = torch.rand(2, 1 + ratio * (frames - 1), 3, 5, generator=torch.Generator().manual_seed(6))
    pooled = masks.pool_frames(mask, frames, ratio)
    assert pooled.shape == (2, frames, 3, 5)
    assert torch.equal(pooled[:, 0], mask[:, 0])
    for frame in range(1, frames):
        assert torch.equal(pooled[:, frame], mask[:, 1 + (frame - 1) * ratio : frame * ratio + 1].amax(1))


@pytest.mark.parametrize("ratio", [4, 6, 8])
def test_what_the_host_cuts_off_a_video_belongs_to_no_latent_frame(ratio):
    """The host's own count of latent frames is that of `downscale_ratio` in comfy/sd.py: floor((frames + ratio - 1) / ratio)."""
    for count in range(ratio + 1, 5 * ratio):
        frames = math.floor((count + ratio - 1) / ratio)
        assert masks.video_frames(count, 1, frames, ratio) == (1, ratio)
        painted = torch.eye(count)[None, ..., None]
        reached = masks.pool_frames(painted, frames, ratio)[0, ..., 0].argmax(0)[: 1 + ratio * (frames - 1)]
        assert reached.tolist() == [math.ceil(frame / ratio) for frame in range(1 + ratio * (frames - 1))]
        assert masks.pool_frames(painted, frames, ratio)[0, :, 1 + ratio * (frames - 1) :].sum() == 0


@pytest.mark.parametrize("ratio", [1, 4])
def test_each_video_frame_gets_its_latent_frame_back(ratio):
    pooled = torch.arange(3.0).reshape(1, 3, 1, 1)
    assert masks.spread_frames(pooled, ratio).flatten().tolist() == [0] + [1] * ratio + [2] * ratio


@pytest.mark.parametrize(
    "count, samples, frames, ratio, expected",
    [
        (5, 1, 5, None, (1, 1)),
        (5, 2, 5, 4, (1, 1)),
        (10, 2, 5, 4, (2, 1)),
        (17, 1, 5, None, (1, 4)),
        (17, 2, 5, None, (1, 4)),
        (34, 2, 5, None, (2, 4)),
        (34, 2, 5, 4, (2, 4)),
        (20, 1, 5, 4, (1, 4)),
        (9, 3, 3, 4, (1, 4)),
    ],
)
def test_how_masks_belong_to_a_video(count, samples, frames, ratio, expected):
    assert masks.video_frames(count, samples, frames, ratio) == expected


@pytest.mark.parametrize(
    "count, samples, frames, ratio, sentence",
    [
        (7, 1, 5, 4, "mask has 7 frames, but latent has 5: connect 1 mask, 5 .one per latent frame. or 17 to 20 .one per video frame."),
        (21, 1, 5, 4, "mask has 21 frames, but latent has 5: "),
        (16, 1, 5, 4, "mask has 16 frames"),
        (4, 1, 5, None, "mask has 4 frames"),
        (7, 1, 5, None, r"or one per video frame \(then connect vae too\)"),
        (18, 1, 5, None, "mask has 18 frames"),
        (3, 2, 5, 4, "latent has 5 in each of 2 samples: .* for all samples or for each"),
        (9, 3, 3, None, "mask has 9 frames, but latent has 3 in each of 3 samples"),
    ],
)
def test_a_count_that_does_not_belong_to_the_video_is_refused(count, samples, frames, ratio, sentence):
    with pytest.raises(ValueError, match=sentence):
        masks.video_frames(count, samples, frames, ratio)


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
    with pytest.raises(ValueError, match=f"kernel is {kernel}"):
        masks.dilate(torch.zeros(1, 4, 4), kernel)


def test_upsampling_works_too():
    """A pixel-space model has a latent as large as the picture; some masks are smaller than the latent."""
    mask = random_mask(8, 8)
    assert torch.equal(masks.resize(mask, (8, 8), "max"), mask)
    assert torch.equal(masks.resize(mask, (16, 16), "max"), F.interpolate(mask[:, None], scale_factor=2)[:, 0])
