"""The figures of an edit, on pictures whose figures are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blended_latent_diffusion.bld import metrics
from blended_latent_diffusion.bld.metrics import background_psnr, colour_shift, figures, seam, worst_block
from blended_latent_diffusion.bld.reconstruction import paste
from conftest import picture

# The test data of Sharma, Wu, Dalal, "The CIEDE2000 color-difference formula" (2005), table 1.
SHARMA = """
50.0000 2.6772 -79.7751 50.0000 0.0000 -82.7485 2.0425
50.0000 3.1571 -77.2803 50.0000 0.0000 -82.7485 2.8615
50.0000 2.8361 -74.0200 50.0000 0.0000 -82.7485 3.4412
50.0000 -1.3802 -84.2814 50.0000 0.0000 -82.7485 1.0000
50.0000 -1.1848 -84.8006 50.0000 0.0000 -82.7485 1.0000
50.0000 -0.9009 -85.5211 50.0000 0.0000 -82.7485 1.0000
50.0000 0.0000 0.0000 50.0000 -1.0000 2.0000 2.3669
50.0000 -1.0000 2.0000 50.0000 0.0000 0.0000 2.3669
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0009 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0010 7.1792
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0011 7.2195
50.0000 2.4900 -0.0010 50.0000 -2.4900 0.0012 7.2195
50.0000 -0.0010 2.4900 50.0000 0.0009 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0010 -2.4900 4.8045
50.0000 -0.0010 2.4900 50.0000 0.0011 -2.4900 4.7461
50.0000 2.5000 0.0000 50.0000 0.0000 -2.5000 4.3065
50.0000 2.5000 0.0000 73.0000 25.0000 -18.0000 27.1492
50.0000 2.5000 0.0000 61.0000 -5.0000 29.0000 22.8977
50.0000 2.5000 0.0000 56.0000 -27.0000 -3.0000 31.9030
50.0000 2.5000 0.0000 58.0000 24.0000 15.0000 19.4535
50.0000 2.5000 0.0000 50.0000 3.1736 0.5854 1.0000
50.0000 2.5000 0.0000 50.0000 3.2972 0.0000 1.0000
50.0000 2.5000 0.0000 50.0000 1.8634 0.5757 1.0000
50.0000 2.5000 0.0000 50.0000 3.2592 0.3350 1.0000
60.2574 -34.0099 36.2677 60.4626 -34.1751 39.4387 1.2644
63.0109 -31.0961 -5.8663 62.8187 -29.7946 -4.0864 1.2630
61.2901 3.7196 -5.3901 61.4292 2.2480 -4.9620 1.8731
35.0831 -44.1164 3.7933 35.0232 -40.0716 1.5901 1.8645
22.7233 20.0904 -46.6940 23.0331 14.9730 -42.5619 2.0373
36.4612 47.8580 18.3852 36.2715 50.5065 21.2231 1.4146
90.8027 -2.0831 1.4410 91.1528 -1.6435 0.0447 1.4441
90.9257 -0.5406 -0.9208 88.6381 -0.8985 -0.7239 1.5381
6.7747 -0.2908 -2.4247 5.8714 -0.0985 -2.2286 0.6377
2.0776 0.0795 -1.1350 0.9033 -0.0636 -0.5514 0.9082
"""


def disk(height: int = 128, width: int = 128, radius: int = 40) -> torch.Tensor:
    v, u = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((v - height // 2) ** 2 + (u - width // 2) ** 2 < radius**2).float()[None]


def photo() -> torch.Tensor:
    return picture("bld_demo_edit.png")[:128, :128, :3].movedim(-1, 0)[None].contiguous()


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_delta_e_is_that_of_the_papers_34_pairs():
    table = torch.tensor([[float(word) for word in line.split()] for line in SHARMA.strip().splitlines()], dtype=torch.float64)
    assert len(table) == 34
    first, second, expected = table[:, :3], table[:, 3:6], table[:, 6]
    for found in (metrics.delta_e(first, second), metrics.delta_e(second, first)):
        assert torch.allclose(found, expected, rtol=0, atol=1e-4)


def test_colour_shift_of_two_browns():
    """Figures of scikit-image 0.26: rgb2lab and deltaE_ciede2000."""
    x, x_hat = (torch.tensor(colour)[None, :, None, None].expand(1, 3, 4, 4) for colour in ([0.5, 0.4, 0.3], [0.5, 0.45, 0.3]))
    assert colour_shift(x_hat, x, torch.zeros(1, 4, 4))[0] == pytest.approx(9.232, abs=0.01)


def test_colour_shift_of_known_colours():
    x, x_hat = torch.zeros(1, 3, 10, 10), torch.zeros(1, 3, 10, 10)
    x[:, 0] = 1
    x_hat[:, 0] = 1
    x_hat[:, :, :1] = torch.tensor([0.0, 1, 0])[None, :, None, None]
    mean, p95 = colour_shift(x_hat, x, torch.zeros(1, 10, 10))
    assert mean == pytest.approx(8.66, abs=0.02) and p95 == pytest.approx(86.6, abs=0.2), "red to green is 86.6, over a tenth of the picture"
    m = torch.zeros(1, 10, 10)
    m[:, 0] = 1e-3
    assert colour_shift(x_hat, x, m) == (0, 0), "a pixel that is masked at all does not count"


@given(m=st.sampled_from(["empty", "disk", "soft", "stroke", "frame"]), size=st.tuples(st.integers(20, 50), st.integers(20, 50)), batch=st.integers(1, 2))
@settings(max_examples=25, deadline=None)
def test_the_source_itself_is_faultless(m, size, batch):
    x = torch.rand(batch, 3, *size, generator=torch.Generator().manual_seed(1))
    masks = {"empty": torch.zeros(1, *size), "disk": disk(*size, 7), "soft": disk(*size, 7) * torch.rand(1, *size), "frame": 1 - disk(*size, 9)}
    masks["stroke"] = masks["empty"].clone()
    masks["stroke"][:, 3] = 1
    one = figures(x, x, masks[m])
    assert one.background_psnr == one.worst_block == math.inf and one.colour_shift == one.colour_shift_p95 == 0
    assert one.seam == 0 or (m == "empty" and math.isnan(one.seam))


def test_without_a_background_there_is_nothing_to_measure():
    one = figures(torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 20), torch.ones(1, 20, 20))
    assert all(math.isnan(value) for value in vars(one).values())


def test_what_is_masked_does_not_count():
    x, m = photo(), disk()
    x_hat = torch.where(m[:, None] > 0, 1 - x, x)
    one = figures(x_hat, x, m * 0.01)
    assert one.background_psnr == one.worst_block == math.inf and one.colour_shift == 0


def test_the_worst_block_is_found_and_masked_pixels_are_dropped_from_it():
    x = torch.full((2, 3, 50, 70), 0.5)
    x_hat = x.clone()
    x_hat[1, :, 16:32, 32:48] += 0.1
    m = torch.zeros(1, 50, 70)
    assert worst_block(x_hat, x, m) == pytest.approx(20, abs=1e-3)
    m[:, 16:24] = 1
    assert worst_block(x_hat, x, m) == pytest.approx(20, abs=1e-3), "the other half of the block is as wrong as before"
    m[:, 16:29] = 1
    assert worst_block(x_hat, x, m) == math.inf, "48 pixels of it are left: too few"
    assert background_psnr(x_hat, x, m) > 30


def test_a_block_cut_by_the_frame_counts_if_a_quarter_of_it_is_there():
    x = torch.full((1, 3, 24, 20), 0.5)
    x_hat = x.clone()
    x_hat[..., 16:] += 0.1
    m = torch.zeros(1, 24, 20)
    assert worst_block(x_hat, x, m) == pytest.approx(20, abs=1e-3), "16x4 is a quarter"
    m[:, 0, 16] = 1
    assert worst_block(x_hat, x, m) == math.inf


@pytest.mark.parametrize("levels", [2, 5, 10, 20])
def test_the_seam_of_a_shifted_patch_is_about_its_shift(levels):
    x, m = photo(), disk()
    assert seam(x * 0.5 + 0.5, x * 0.5 + 0.5, m) == 0
    for flat in (torch.full_like(x, 0.5), torch.linspace(0.4, 0.5, 128).expand_as(x)):
        assert seam(flat + levels / 255 * m, flat, m) == pytest.approx(levels, rel=0.1)
    assert 0.4 * levels < seam(x + levels / 255 * m, x, m) < 1.1 * levels, "some of it hides in the texture"


def test_a_seam_on_one_side_counts_for_its_share_of_the_edge():
    x, m = torch.full((1, 3, 128, 128), 0.5), torch.zeros(1, 128, 128)
    m[:, 32:96, 32:96] = 1
    x_hat = x.clone()
    x_hat[..., 32:96, 32:96] += torch.linspace(0, 20 / 255, 64)
    found = seam(x_hat, x, m)
    assert found == pytest.approx(10, abs=1), "none at the left, 20 at the right, 10 on average at the top and bottom"


def test_texture_is_no_seam():
    """The size of the steps alone cannot tell noise from a seam; their mean along the edge can."""
    x, m = torch.full((1, 3, 128, 128), 0.5), disk()
    textured = x + noise(1, 3, 128, 128) * 20 / 255 * m
    by_size = sum((textured.diff(dim=a).abs() * m[:, None].diff(dim=a).abs()).sum() / 3 for a in (-1, -2))
    by_size = 255 * float(by_size / sum(m.diff(dim=a).abs().sum() for a in (-1, -2)))
    assert by_size > 14 and seam(textured, x, m) < 0.35 * by_size
    assert seam(x + 20 / 255 * m, x, m) > 3 * seam(textured, x, m), "a shift by the same amount"


def test_an_edge_that_the_source_has_along_the_mask_is_no_seam():
    m = disk()
    x = torch.full((1, 3, 128, 128), 0.3) + 0.4 * m
    recoloured = x + torch.tensor([-0.8, 0, 0])[None, :, None, None] * m
    assert seam(recoloured, x, m) < 1, "as large a step, another colour"
    assert seam(x, x * 0 + 0.3, m) > 90, "but none where the source has none"


def test_a_wider_feather_has_less_of_a_seam():
    x, m = torch.full((1, 3, 128, 128), 0.5), disk()
    found = [seam(paste(x + 20 / 255, x, m, width), x, m) for width in (0, 1, 4, 16)]
    assert found == sorted(found, reverse=True) and found[1] == pytest.approx(10, rel=0.15) and found[3] < 2


def test_a_cut_in_the_middle_of_a_soft_mask_is_seen():
    x, m = torch.full((1, 3, 64, 64), 0.5), torch.linspace(-0.5, 1.5, 64).clamp(0, 1).expand(1, 64, 64)
    assert seam(x + 20 / 255 * (m > 0.5), x, m) > 0.5
    assert seam(x + 20 / 255 * m, x, m) == pytest.approx(20 / 31, rel=0.1), "blended by the mask it is one step of the ramp"


def test_a_batch_is_measured_as_a_whole_with_one_source_and_mask_or_one_each():
    x, m = photo(), disk()
    x_hat = (torch.cat([x, x]) + torch.tensor([0, 0.1])[:, None, None, None]).clamp(0, 1)
    shared = figures(x_hat, x, m)
    assert shared == figures(x_hat, torch.cat([x, x]), torch.cat([m, m]))
    assert shared.seam == pytest.approx((figures(x_hat[:1], x, m).seam + figures(x_hat[1:], x, m).seam) / 2, abs=1e-4)
