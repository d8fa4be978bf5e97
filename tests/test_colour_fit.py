"""Paste and colour fit: the background is exact, a change of tone is taken off the edit, and nothing else is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blended_latent_diffusion.bld.metrics import seam
from blended_latent_diffusion.bld.reconstruction import colour_fit, paste
from conftest import picture

LEVEL = 1 / 255


def source() -> Tensor:
    """In 0.15..0.85, so that a shift clips nothing."""
    return picture("bld_demo_edit.png")[..., :3].movedim(-1, 0)[None] * 0.7 + 0.15


def mask_of(share: float) -> Tensor:
    """A disk, off the middle, of this share of the picture."""
    v, u = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    distance = (v - 50) ** 2 + (u - 80) ** 2
    return (distance <= distance.flatten().sort().values[int(share * 128 * 128)]).float()[None]


def edit_of(x: Tensor, m: Tensor) -> Tensor:
    """Another content under the mask."""
    return torch.where(m[:, None] > 0, x.flip(-2), x)


def noise(x: Tensor, levels: float) -> Tensor:
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(1)) * levels * LEVEL


def field() -> Tensor:
    v, u = torch.meshgrid(torch.linspace(-1, 1, 128), torch.linspace(-1, 1, 128), indexing="ij")
    return (10 * u - 5 * v) * LEVEL


def residual(shifted: Tensor, edit: Tensor, x: Tensor, m: Tensor) -> float:
    """The largest error of the tone under the mask."""
    return float((colour_fit(shifted, x, m)[0] - edit).abs().max())


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("outliers", [0, 0.3])
def test_a_uniform_shift_is_removed(share, outliers):
    x, m = source(), mask_of(share)
    edit, shift = edit_of(x, m), torch.tensor([12, -8, 5])[None, :, None, None] * LEVEL
    shifted = edit + shift
    wrong = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)) < outliers
    shifted = torch.where(wrong & (m[:, None] == 0), torch.tensor(0.9), shifted)
    assert residual(shifted, edit, x, m) <= LEVEL
    assert residual(shifted + noise(x, 2) * (m[:, None] == 0), edit, x, m) <= LEVEL, "and what a VAE does to each pixel besides"


def test_least_squares_alone_would_not_do():
    """The outliers above do pull a plain fit off."""
    x, m = source(), mask_of(0.5)
    wrong = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)) < 0.3
    shifted = torch.where(wrong & (m[:, None] == 0), torch.tensor(0.9), x)
    assert float((shifted - x)[m[:, None].expand_as(x) == 0].mean()) > 20 * LEVEL


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.8])
def test_gain_and_field_are_removed(share):
    """Not wholly where little background is left: then the fit holds back rather than run wild."""
    x, m = source(), mask_of(share)
    edit = edit_of(x, m)
    gain = torch.tensor([1.1, 0.95, 1.0])[None, :, None, None]
    shifted = (edit - field()) / gain - 3 * LEVEL
    inside = m[:, None].expand_as(x) > 0
    result = colour_fit(shifted, x, m)[0]
    before, after = (float((tone - edit)[inside].abs().mean()) for tone in (shifted, result))
    assert before > 4 * LEVEL and after < (LEVEL if share < 0.8 else before / 2)


def test_masked_pixels_are_dropped_not_zeroed():
    x, m = source(), mask_of(0.5)
    edit = edit_of(x, m)
    first = colour_fit(edit + 9 * LEVEL, x, m)[1]
    second = colour_fit(torch.where(m[:, None] > 0, torch.tensor(float("nan")), edit + 9 * LEVEL), x, m * 0.01)[1]
    assert torch.equal(first[0].gain, second[0].gain) and torch.equal(first[0].field, second[0].field)


def test_the_edit_keeps_its_content_and_the_background_is_exact():
    x, m = source(), mask_of(0.25)
    edit = edit_of(x, m)
    outside = (m == 0)[:, None].expand_as(x)
    result = colour_fit(edit + 9 * LEVEL, x, m)[0]
    assert torch.equal(result[outside], x[outside])
    assert torch.allclose(colour_fit(edit, x, m)[0], edit, atol=0.1 * LEVEL), "no change of tone, no correction"


def test_the_seam_of_a_shift_goes():
    x, m = source(), mask_of(0.25)
    assert seam(paste(x + 10 * LEVEL, x, m), x, m) > 5 and seam(colour_fit(x + 10 * LEVEL, x, m)[0], x, m) < 0.2


def test_a_flat_background_tells_the_shift_but_not_the_gain():
    m = mask_of(0.5)
    x = torch.where(m[:, None] > 0, source(), torch.tensor(0.5))
    shifted = x + 9 * LEVEL + noise(x, 1)
    picture, (one,) = colour_fit(shifted, x, m)
    assert torch.allclose(one.gain, torch.ones(3).double(), atol=0.05)
    assert float((picture - x - noise(x, 1) * m).abs().mean()) < LEVEL


@pytest.mark.parametrize("width", [1, 4])
def test_a_strip_of_background_does_not_tilt_the_rest(width):
    """Its places say nothing about a field across the picture."""
    x, m = source(), torch.ones(1, 128, 128)
    m[..., :width] = 0
    shifted = x + 9 * LEVEL
    result = colour_fit(shifted + noise(x, 2) * (m[:, None] == 0), x, m)[0]
    assert float((result - x).abs().max()) < 4 * LEVEL


def test_without_a_background_nothing_is_changed_and_the_fit_says_so():
    x = source()
    picture, (one,) = colour_fit(x.flip(-1), x, torch.ones(1, 128, 128))
    assert torch.equal(picture, x.flip(-1))
    assert one.pixels == 0 and torch.equal(one.gain, torch.ones(3).double()) and not one.field.any()


def test_the_fit_tells_how_good_it_is():
    x, m = source(), mask_of(0.25)
    wrong = torch.rand(1, 1, 128, 128, generator=torch.Generator().manual_seed(0)) < 0.3
    one = colour_fit(torch.where(wrong, 1 - x, x) + noise(x, 2), x, m)[1][0]
    assert one.pixels == int((m == 0).sum()) and 0.6 < one.inliers < 0.85 and LEVEL < one.residual < 4 * LEVEL


@pytest.mark.parametrize("sources, masks", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_batch_is_its_pictures_one_by_one(sources, masks):
    x, m = torch.cat([source(), source().flip(-1)])[:sources], torch.cat([mask_of(0.2), mask_of(0.6)])[:masks]
    x_hat = torch.cat([source() * 0.9, source().flip(-1) + 0.05])
    alone = torch.cat([colour_fit(x_hat[i : i + 1], x[i % sources][None], m[i % masks][None])[0] for i in range(2)])
    assert torch.equal(colour_fit(x_hat, x, m)[0], alone)


def test_a_large_picture_is_sampled_and_the_global_random_state_stays():
    x = torch.nn.functional.interpolate(source(), scale_factor=4)
    m = torch.nn.functional.interpolate(mask_of(0.5)[None], scale_factor=4)[0]
    state = torch.random.get_rng_state()
    result, (one,) = colour_fit(x + 9 * LEVEL, x, m)
    assert float((result - x).abs().max()) <= LEVEL and one.pixels == int((m == 0).sum())
    assert torch.equal(state, torch.random.get_rng_state())


def test_paste_keeps_the_background_whatever_the_edit_holds_there():
    x, m = source(), mask_of(0.25)
    x_hat = torch.where(m[:, None] > 0, source(), torch.tensor(float("nan")))
    assert torch.equal(paste(x_hat, x, m), x)
