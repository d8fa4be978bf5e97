"""The schedule of masks: how long each stage lasts and which one a model call gets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from blended_latent_diffusion.bld import masks, schedule


def thin_mask() -> torch.Tensor:
    mask = torch.zeros(1, 16, 16)
    mask[0, 8, 4:12] = 1
    return mask


def test_the_papers_stages_and_shares():
    shrinking = schedule.shrinking(thin_mask())
    for stage, kernel in zip(shrinking.masks, (7, 5, 3, 1), strict=True):
        assert torch.equal(stage, masks.dilate(thin_mask(), kernel))
    assert shrinking.ends == pytest.approx([13 / 50, 26 / 50, 39 / 50])


@given(st.integers(0, 8), st.floats(0.01, 0.99), st.sampled_from(schedule.SPACINGS))
def test_shares_fill_the_schedule_and_masks_only_shrink(stages, takeover, spacing):
    shrinking = schedule.shrinking(thin_mask(), stages=stages, takeover=takeover, spacing=spacing)
    assert sum(shrinking.shares) == pytest.approx(1) and len(shrinking.ends) == stages
    assert shrinking.ends == sorted(shrinking.ends)
    assert stages == 0 or shrinking.ends[-1] == pytest.approx(takeover)
    assert torch.equal(shrinking.thin, thin_mask())
    assert all((late <= early).all() for early, late in zip(shrinking.masks, shrinking.masks[1:], strict=False))


@given(st.lists(st.floats(0.01, 20), min_size=1, max_size=6, unique=True), st.floats(0.001, 25))
def test_a_stage_ends_at_its_noise_level(ends, sigma):
    ends.sort(reverse=True)
    stage = schedule.stage_at(sigma, ends)
    assert all(sigma <= end * 1.001 for end in ends[:stage]) and all(sigma > end for end in ends[stage:])


@given(st.integers(1, 60), st.integers(1, 60))
def test_a_route_with_jumps_back_runs_the_first_stretch_once_and_the_others_twice(steps, length):
    route = schedule.route(steps, length)
    runs = [sum(start <= step < end for start, end in route) for step in range(steps)]
    first = route[0][1]
    assert runs == [1] * first + [2] * (steps - first) and 1 <= first <= length
    assert all(start in (end_before, start_before) for (start_before, end_before), (start, _) in zip(route, route[1:], strict=False))
    assert all(end - start == length for start, end in route[1:])
    assert schedule.route(steps, 0) == [(0, steps)]


def test_eased_stages_last_longest_where_they_are_widest():
    assert schedule.shrinking(thin_mask(), takeover=0.75, spacing="eased").shares == pytest.approx((18 / 48, 12 / 48, 6 / 48, 12 / 48))


def test_no_stages_is_the_mask_alone():
    assert torch.equal(schedule.shrinking(thin_mask(), stages=0).masks, thin_mask()[None])


def test_soft_edges_leave_the_thin_mask_alone():
    soft = schedule.shrinking(thin_mask(), soft_edge=2)
    assert torch.equal(soft.thin, thin_mask())
    assert ((soft.masks[0] > 0) & (soft.masks[0] < 1)).any()


SIGMAS = torch.tensor([14.6, 8.0, 3.0, 1.0, 0.0])


@pytest.mark.parametrize(
    "sigma, step",
    [(14.6, 0), (20.0, 0), (10.0, 0), (8.0, 1), (8.0 * (1 + 1e-6), 1), (7.99, 1), (3.0, 2), (2.0, 2), (1.0, 3), (0.5, 3), (0.0, 3)],
)
def test_a_model_call_belongs_to_the_step_whose_levels_it_lies_between(sigma, step):
    assert schedule.step_at(sigma, SIGMAS) == step


def test_rows_follow_the_batch():
    both = schedule.constant(torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]))
    assert both.rows([1, 1, 0]).thin.mean((1, 2)).tolist() == [1, 1, 0]
    assert schedule.constant(torch.ones(1, 4, 4)).rows([0, 0]).thin.shape == (1, 4, 4)


def test_a_schedule_without_a_share_for_each_mask_is_refused():
    with pytest.raises(ValueError, match=r"\[2, 1, 4, 4\] and 1"):
        schedule.MaskSchedule(torch.zeros(2, 1, 4, 4), (1.0,))
