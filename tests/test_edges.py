"""Transitions at a mask's edge: where they lie, and that no mask breaks them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blended_latent_diffusion.bld.edges import Region, depth, feather_inside


@given(
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)), width=st.integers(0, 40), seed=st.integers(0, 99), soft=st.booleans(), full=st.booleans()
)
@settings(max_examples=80, deadline=None)
def test_a_feather_of_any_width_stays_inside_any_mask(size, width, seed, soft, full):
    generator = torch.Generator().manual_seed(seed)
    m = (torch.rand(1, *size, generator=generator) > 0.3).float() if not full else torch.ones(1, *size)
    m = m * torch.rand(1, *size, generator=generator) if soft else m
    ramp = feather_inside(m, width)
    assert (ramp <= m).all() and ((ramp > 0) == (m > 0)).all()
    assert not (m > 0).all() or torch.equal(ramp, m), "the frame's edge is no edge of the mask"


def test_a_feather_is_a_ramp_from_the_masks_edge_and_not_from_the_frames():
    m = torch.zeros(1, 9, 20)
    m[..., 8:] = 1
    ramp = feather_inside(m, 3)
    assert torch.allclose(ramp[:, :, 7:13], torch.tensor([0, 0.25, 0.5, 0.75, 1, 1]))
    assert (ramp[..., 11:] == 1).all()
    assert torch.allclose(feather_inside(m, 1024)[0, 0, 8:], torch.arange(1, 13) / 1025)


def test_a_rise_is_a_feather_where_the_mask_is_broad_up_to_its_corners():
    m = torch.zeros(1, 100, 120)
    m[:, 10:80, 20:] = 0.5
    assert torch.equal(Region(m).rise(8), feather_inside((m > 0).float(), 8))


@pytest.mark.parametrize("gap", [1, 4, 16, 40])
def test_a_stroke_keeps_its_strength_beside_a_broad_mask(gap):
    m = torch.zeros(1, 96, 200)
    m[:, 10:86, :80] = m[:, 40:44, 80 + gap :] = 1
    assert torch.equal(Region(m).rise(8)[..., 80 + gap :], m[..., 80 + gap :])


def test_a_stroke_out_of_a_broad_mask_keeps_its_strength():
    m = torch.zeros(1, 96, 200)
    m[:, 10:86, :80] = m[:, 40:44, 80:] = 1
    assert torch.equal(Region(m).rise(8)[..., 81:], m[..., 81:])


@given(size=st.tuples(st.integers(1, 50), st.integers(1, 50)), width=st.integers(0, 9), seed=st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_a_rise_takes_at_most_a_quarter_of_the_masks_depth(size, width, seed):
    m = torch.zeros(1, *size)
    generator = torch.Generator().manual_seed(seed)
    top, left, height, wide = (int(torch.randint(0, side, (), generator=generator)) for side in (*size, *size))
    m[:, top : top + height + 1, left : left + wide + 1] = 0.5
    ramp, inside = Region(m).rise(width), depth(m > 0)
    assert (ramp <= 1).all() and ((ramp > 0) == (m > 0)).all()
    assert (ramp >= feather_inside((m > 0).float(), width)).all(), "no further in than the width"
    if torch.isfinite(inside).all():
        assert (ramp[inside >= inside.max() / 4 + 1] == 1).all()
    else:
        assert torch.equal(ramp, (m > 0).float())
