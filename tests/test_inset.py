"""Starting broad parts of a mask inside their edge: what is left out, and until when."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from test_thin_parts import BROAD, STROKE, THICKER, painted, thin_parts

from bench._nodes import settings
from blended_latent_diffusion.bld import masks, metrics, schedule
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate


def outer(on: np.ndarray, share: float) -> np.ndarray:
    """What an inset leaves out, one cell and one square of masked cells after the other."""
    height, width = on.shape
    cells = [(y, x) for y in range(height) for x in range(width)]
    off = [cell for cell in cells if not on[cell]]
    distance = {(y, x): min((max(abs(y - top), abs(x - left)) for top, left in off), default=1 + max(on.shape) + 2) for y, x in cells}
    inside = {(y, x): min(distance[y, x], y + 1, x + 1, height - y, width - x) for y, x in cells}
    found = np.zeros_like(on)
    for y, x in cells:
        radius = max((inside[other] for other in cells if max(abs(other[0] - y), abs(other[1] - x)) < inside[other]), default=0)
        found[y, x] = on[y, x] and distance[y, x] <= int(share * radius + 1e-6)
    return found


MOSTLY_ON = hnp.arrays(np.bool_, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([True] * 9 + [False]))


@given(MOSTLY_ON, st.sampled_from([0.0, 0.2, 0.35, 0.5, 0.9]))
def test_it_leaves_out_a_share_of_the_way_from_the_edge_to_the_middle_of_each_part(on, share):
    assert np.array_equal(masks.inset(torch.from_numpy(on).float()[None], share)[0].numpy(), (on & ~outer(on, share)).astype(np.float32))


def test_a_box_starts_as_a_smaller_box():
    assert torch.equal(masks.inset(painted((2, 3, 20, 24)), 0.2), painted((4, 5, 16, 20)))
    assert torch.equal(masks.inset(painted((2, 3, 12, 20)), 0.2), painted((3, 4, 10, 18)))


@pytest.mark.parametrize("box", [STROKE, THICKER, (2, 20, 8, 9)], ids=["line", "stroke", "small box"])
def test_what_is_small_stays_as_it_is_also_beside_a_broad_part(box):
    assert torch.equal(masks.inset(painted(box), 0.2), painted(box))
    together = painted(box, (12, 1, 12, 18))
    assert torch.equal(masks.inset(together, 0.2) * painted(box), painted(box))


def test_a_mask_that_meets_the_frame_loses_nothing_there():
    assert torch.equal(masks.inset(torch.ones(1, 24, 32), 0.5), torch.ones(1, 24, 32))
    assert torch.equal(masks.inset(painted((0, 0, 24, 20)), 0.2), painted((0, 0, 24, 18)))


def test_gray_values_and_each_mask_of_a_batch_are_kept_apart():
    two = torch.cat([0.5 * painted((2, 3, 20, 24)), painted(STROKE)])
    assert torch.equal(masks.inset(two, 0.2), torch.cat([0.5 * painted((4, 5, 16, 20)), painted(STROKE)]))


@given(st.integers(0, 5), st.floats(0.01, 0.99), st.sampled_from(schedule.SPACINGS))
def test_a_cut_divides_the_stage_that_it_falls_into(stages, takeover, spacing):
    shares = schedule.stage_shares(stages, takeover, spacing)
    pieces = schedule.split(shares, 0.6)
    assert sum(share for _, late, share in pieces if not late) == pytest.approx(0.6)
    assert [late for _, late, _ in pieces] == sorted(late for _, late, _ in pieces)
    whole = [sum(share for one, _, share in pieces if one == stage) for stage in range(stages + 1)]
    assert whole == pytest.approx(shares)
    assert [(stage, share) for stage, _, share in schedule.split(shares, 0.0)] == [(i, pytest.approx(share)) for i, share in enumerate(shares)]


@pytest.mark.promise("mask-shrinks", "dilated", "objects-whole")
def test_a_new_node_widens_strokes_and_starts_broad_areas_inside_their_edge(pack):
    mask = painted(BROAD, STROKE)
    new = ProgressiveMaskDilate.execute(mask, **settings(ProgressiveMaskDilate)).args[0]
    wide = painted((6, 18, 5, 14))
    inside = painted((5, 5, 8, 7))
    assert torch.equal(new.masks, torch.stack([torch.maximum(inside, wide), torch.maximum(mask, wide), mask])), "2 latent pixels around the stroke"
    assert new.shares == pytest.approx((0.6, 0.35, 0.05))


def test_strokes_alone_start_as_without_an_inset():
    mask = painted(STROKE, THICKER)
    plain, ours = thin_parts(mask), thin_parts(mask, inset=0.2)
    for (stage, *_), inset_mask in zip(schedule.split(plain.shares, schedule.INSET_ENDS), ours.masks, strict=True):
        assert torch.equal(inset_mask, plain.masks[stage])


def test_the_papers_way_has_none():
    mask = painted(BROAD)
    assert torch.equal(schedule.shrinking(mask, inset=0.5).masks, schedule.shrinking(mask).masks)


def test_a_prompt_from_before_there_was_an_inset_has_none(pack):
    mask = painted(BROAD, STROKE)
    old = {name: value for name, value in settings(ProgressiveMaskDilate).items() if name != "inset"}
    assert torch.equal(ProgressiveMaskDilate.execute(mask, **old).args[0].masks, torch.stack([torch.maximum(mask, painted((6, 18, 5, 14))), mask]))


@torch.inference_mode()
def test_what_an_inset_leaves_out_at_first_is_drawn_later_and_the_background_stays(edit):
    """The edit reaches the edge of the mask in the end, and nothing beyond."""
    mask = torch.zeros(1, *edit.latent["samples"].shape[-2:])
    mask[:, 2:14, 2:14] = 1
    inset = schedule.shrinking(mask, stages=0, where="thin parts", inset=0.34)
    out = BlendedLatentKSampler.execute(
        edit.model, 5, 8, 4.0, "euler", "normal", edit.positive, edit.negative, edit.latent, mask_schedule=inset
    ).args[0]["samples"]  # fmt: skip
    change = (out - edit.latent["samples"]).abs().amax(1)
    ring = (mask - inset.masks[0]) > 0
    assert ring.any() and change[ring].gt(1e-3).all()
    assert change[mask == 0].max() == 0


@pytest.mark.promise("objects-whole")
@torch.inference_mode()
def test_the_edge_of_a_broad_mask_shows_less_than_without(edit):
    """Of four candidates in a box that leaves the frame free, decoded."""
    mask = torch.zeros(1, 16, 16)
    mask[:, 2:14, 2:14] = 1
    at_picture_size = mask.repeat_interleave(8, 1).repeat_interleave(8, 2)

    def seam(inset: float) -> float:
        plan = ProgressiveMaskDilate.execute(mask, **settings(ProgressiveMaskDilate) | {"inset": inset}).args[0]
        latent = BlendedLatentKSampler.execute(
            edit.model, 5, 8, 4.0, "euler", "normal", edit.positive, edit.negative, edit.latent, mask_schedule=plan, candidates=4, chunk_size=4
        ).args[0]["samples"]  # fmt: skip
        pictures, source = (edit.vae.decode(z).movedim(-1, 1) for z in (latent, edit.latent["samples"]))
        return sum(metrics.seam(picture[None], source, at_picture_size) for picture in pictures) / 4

    assert seam(0.2) < 0.75 * seam(0)
