"""The two mask nodes as the host calls them."""

from __future__ import annotations

import pytest
import torch

from blended_latent_diffusion.bld import masks
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.preview import TILE, stages_over_time
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate

LATENT = {"samples": torch.zeros(2, 4, 12, 20), "batch_index": [0, 1]}


def scratch() -> torch.Tensor:
    mask = torch.zeros(1, 96, 160)
    mask[0, 40, 20:120] = 1
    return mask


@pytest.mark.parametrize("mode", masks.RESIZE_MODES)
def test_the_mask_gets_the_latents_size_and_the_latent_gets_the_mask(mode):
    small, latent, _ = LatentMaskResize.execute(scratch(), LATENT, mode=mode).args
    assert small.shape == (1, 12, 20)
    assert torch.equal(latent["noise_mask"][:, 0], small)
    assert latent["samples"] is LATENT["samples"] and latent["batch_index"] == [0, 1]
    assert "noise_mask" not in LATENT, "the latent passed in is untouched"


def test_the_report_says_what_a_lossy_mode_dropped():
    assert "every painted pixel kept" in LatentMaskResize.execute(scratch(), LATENT).args[2]
    assert "100 of 100 painted pixels and 1 whole strokes dropped" in LatentMaskResize.execute(scratch(), LATENT, mode="nearest").args[2]


def test_invert_happens_before_the_resize():
    """What is kept must not shrink: a cell is edited if any of its pixels is."""
    small = LatentMaskResize.execute(scratch(), LATENT, invert=True).args[0]
    assert small.min() == 1, "a stroke of one pixel hides no whole cell"


def test_a_soft_mask_stays_soft():
    assert LatentMaskResize.execute(scratch() * 0.4, LATENT).args[0].max() == pytest.approx(0.4)


def test_a_mask_without_a_batch_and_of_another_type_works():
    assert LatentMaskResize.execute(scratch()[0].half(), LATENT).args[0].shape == (1, 12, 20)


@pytest.mark.parametrize(
    "mask, latent, sentence",
    [
        (torch.zeros(3, 8, 8), LATENT, "mask has 3 in its batch, but latent has 2: give one for all, or one each"),
        (torch.zeros(1, 1, 8, 8), LATENT, r"mask had shape \[1, 1, 8, 8\], must be \(batch, height, width\)"),
        (torch.zeros(1, 0, 8), LATENT, r"mask had shape \[1, 0, 8\]"),
        (torch.full((1, 8, 8), -0.5), LATENT, "mask had values from -0.5 to -0.5, must be in 0..1"),
        (torch.full((1, 8, 8), float("nan")), LATENT, "mask contains NaN"),
        (torch.zeros(1, 8, 8), {}, "latent holds no samples, must be a LATENT"),
        (torch.zeros(1, 8, 8), {"samples": torch.zeros(1, 64, 100)}, r"latent had shape \[1, 64, 100\]"),
    ],
)
def test_bad_input_gets_one_clear_sentence(mask, latent, sentence):
    with pytest.raises(ValueError, match=sentence):
        LatentMaskResize.execute(mask, latent)


def test_the_schedule_and_its_stages():
    small = LatentMaskResize.execute(scratch(), LATENT).args[0]
    schedule, stages = ProgressiveMaskDilate.execute(small).args
    assert stages.shape == (4, 12, 20)
    assert torch.equal(stages, schedule.masks[:, 0])
    assert stages.sum((1, 2)).tolist() == [(13 + 5) * 7, (13 + 4) * 5, (13 + 2) * 3, 13]  # the widest meets the edge


def test_growth_larger_than_the_picture_is_the_whole_picture():
    schedule = ProgressiveMaskDilate.execute(masks.resize(scratch(), (12, 20)), growth=100).args[0]
    assert schedule.masks[0].min() == 1 and schedule.thin.sum() == 13


def test_the_preview_shows_each_stage_with_its_share():
    schedule = ProgressiveMaskDilate.execute(masks.resize(scratch(), (12, 20))).args[0]
    picture = stages_over_time(schedule)
    assert picture.shape[2] == 4 * TILE
    tiles = [picture[0, : TILE - 40, i * TILE : (i + 1) * TILE, 0] for i in range(4)]
    white = [float((tile > 0.99).float().mean()) for tile in tiles]
    assert white == sorted(white, reverse=True) and white[-1] > 0
