"""Shrinking only what is thin: how thick a part of a mask is, and how far each part of it grows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from blended_latent_diffusion.bld import masks, schedule
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate


def painted(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """A mask of 24x32 latent pixels with these boxes: top, left, height, width."""
    mask = torch.zeros(1, 24, 32)
    for top, left, height, width in boxes:
        mask[:, top : top + height, left : left + width] = 1
    return mask


def thin_parts(mask: torch.Tensor, **options) -> schedule.MaskSchedule:
    return schedule.shrinking(mask, where="thin parts", **options)


BROAD, STROKE, THICKER = (4, 4, 10, 9), (8, 20, 1, 10), (16, 20, 2, 10)


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12))), st.integers(1, 6))
def test_thickness_is_the_largest_square_that_a_cell_or_its_neighbor_lies_in(on, most):
    height, width = on.shape
    expected = on.astype(int)
    for side in range(2, most + 1):
        for top in range(height - side + 1):
            for left in range(width - side + 1):
                square = np.s_[top : top + side, left : left + side]
                if on[square].all():
                    expected[square] = side
    around = np.pad(expected, 1)
    nearby = np.max([around[dy : dy + height, dx : dx + width] for dy in range(3) for dx in range(3)], 0) * on
    assert np.array_equal(masks.thickness(torch.from_numpy(on).float()[None], most)[0].numpy(), nearby)


def test_a_broad_mask_is_not_widened():
    for side in (3, 4, 9):
        mask = painted((5, 6, side, side + 4))
        assert all(torch.equal(stage, mask) for stage in thin_parts(mask).masks)


def test_nor_are_the_corners_of_a_disk():
    y, x = torch.meshgrid(torch.arange(24), torch.arange(32), indexing="ij")
    for radius in (3, 4, 5.5, 7):
        disk = (((y - 12) ** 2 + (x - 15) ** 2) < radius**2).float()[None]
        assert all(torch.equal(stage, disk) for stage in thin_parts(disk).masks)


@pytest.mark.parametrize("mask", [painted(STROKE), torch.eye(24)[None], painted((11, 15, 1, 1))], ids=["line", "diagonal", "point"])
def test_what_is_one_latent_pixel_thick_is_widened_as_in_the_paper(mask):
    assert torch.equal(thin_parts(mask).masks, schedule.shrinking(mask).masks)


def test_each_region_of_a_mask_gets_what_it_needs():
    together = thin_parts(painted(BROAD, STROKE, THICKER), growth=2)
    alone = torch.stack([thin_parts(painted(box), growth=2).masks for box in (BROAD, STROKE, THICKER)])
    assert torch.equal(together.masks, alone.amax(0))
    grown = (alone[:, 0] - alone[:, -1]).flatten(1).sum(1)
    assert grown[0] == 0 < grown[2] < grown[1], "the thicker, the less"


def test_a_stroke_that_leaves_a_broad_part_is_widened_and_the_broad_part_is_not():
    mask = painted(BROAD, (9, 13, 1, 15))
    widest = thin_parts(mask).masks[0, 0]
    assert torch.equal(widest[6:13, 16:28], torch.ones(7, 12)), "3 latent pixels around the stroke"
    assert torch.equal(widest[:, :10], mask[0, :, :10])


@given(hnp.arrays(np.bool_, st.tuples(st.integers(4, 16), st.integers(4, 16))), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2))
def test_masks_only_shrink_and_stay_inside_the_papers(on, thin, growth, soft_edge):
    mask = torch.from_numpy(on).float()[None]
    ours = thin_parts(mask, thin=thin, growth=growth, soft_edge=soft_edge)
    papers = schedule.shrinking(mask, growth=growth, soft_edge=soft_edge)
    assert torch.equal(ours.thin, mask) and (ours.masks <= papers.masks).all()
    assert all((late <= early).all() for early, late in zip(ours.masks, ours.masks[1:], strict=False))


def test_the_thicker_thin_may_be_the_more_is_widened():
    mask = painted(THICKER)
    areas = [float(thin_parts(mask, thin=thin).masks.sum()) for thin in (1, 2, 3, 6)]
    assert areas == sorted(areas) and areas[0] < areas[1] < areas[3]
    assert areas[0] == float(mask.sum()) * 4, "thicker than thin: not at all"


def test_a_prompt_from_before_there_was_a_where_means_everywhere(pack):
    mask = painted(BROAD, STROKE)
    old = {"stages": 3, "growth": 1, "shape": "square", "takeover": 0.78, "spacing": "equal", "soft_edge": 0}
    assert torch.equal(ProgressiveMaskDilate.execute(mask, **old).args[0].masks, schedule.shrinking(mask).masks)
    assert torch.equal(ProgressiveMaskDilate.execute(mask, **old, where="thin parts", thin=3).args[0].masks, thin_parts(mask, thin=3).masks)


def test_another_place_is_refused():
    with pytest.raises(ValueError, match="where is 'nowhere', but must be everywhere or thin parts"):
        schedule.shrinking(painted(STROKE), where="nowhere")
