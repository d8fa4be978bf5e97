"""The two mask nodes as the host calls them."""

from __future__ import annotations

from pathlib import Path

import comfy.ldm.wan.vae
import comfy.sd
import folder_paths
import numpy as np
import pytest
import torch
from comfy.nested_tensor import NestedTensor
from PIL import Image
from test_decoder_tails import WAN, vae_of

from blended_latent_diffusion.bld import masks
from blended_latent_diffusion.bridge.mask_picture import LEGEND, LOST
from blended_latent_diffusion.bridge.schedule_picture import CAPTION, COLUMNS, TILE, captions, stages_over_time
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate

LATENT = {"samples": torch.zeros(2, 4, 12, 20), "batch_index": [0, 1]}
VIDEO = {"samples": torch.zeros(1, 16, 5, 12, 20)}
VIDEOS = {"samples": torch.zeros(2, 16, 5, 12, 20)}


def scratch() -> torch.Tensor:
    mask = torch.zeros(1, 96, 160)
    mask[0, 40, 20:120] = 1
    return mask


@pytest.mark.promise("resized")
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


@pytest.mark.promise("resized")
def test_invert_happens_before_the_resize():
    """What is kept must not shrink: a cell is edited if any of its pixels is."""
    small = LatentMaskResize.execute(scratch(), LATENT, invert=True).args[0]
    assert small.min() == 1, "a stroke of one pixel hides no whole cell"


def test_a_soft_mask_stays_soft():
    assert LatentMaskResize.execute(scratch() * 0.4, LATENT).args[0].max() == pytest.approx(0.4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.bool, torch.uint8, torch.int64])
@pytest.mark.parametrize("mode", masks.RESIZE_MODES)
def test_a_mask_without_a_batch_and_of_another_type_works(dtype, mode):
    small, latent, _ = LatentMaskResize.execute(scratch()[0].to(dtype), LATENT, mode=mode).args
    assert small.dtype == torch.float32 and torch.equal(small, LatentMaskResize.execute(scratch(), LATENT, mode=mode).args[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU beside the CPU")
@pytest.mark.parametrize("mode", masks.RESIZE_MODES)
def test_a_mask_on_another_device_than_the_latent_works(mode):
    small = LatentMaskResize.execute(scratch().cuda(), LATENT, mode=mode).args[0]
    assert torch.allclose(small.cpu(), LatentMaskResize.execute(scratch(), LATENT, mode=mode).args[0])


@pytest.mark.parametrize("mode", masks.RESIZE_MODES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_empty_and_a_full_mask_stay_what_they_are(mode, value):
    small, _, report = LatentMaskResize.execute(torch.full((1, 99, 163), value), LATENT, mode=mode).args
    assert small.min() == small.max() == value
    assert f"every painted pixel kept, {value:.1%} of the latent masked" in report


def test_one_mask_for_all_or_one_each():
    each = torch.cat([scratch(), scratch().flip(1)])
    small, latent, _ = LatentMaskResize.execute(each, LATENT).args
    assert latent["noise_mask"].shape == (2, 1, 12, 20)
    assert [torch.equal(small[i : i + 1], LatentMaskResize.execute(each[i : i + 1], LATENT).args[0]) for i in (0, 1)] == [True, True]


def test_a_mask_of_the_uncropped_picture_is_cropped_as_the_picture_was():
    mask = torch.zeros(1, 103, 167)
    mask[0, 3 + 40, 3 + 20 : 3 + 120] = 1  # 3 is half of what is over
    mask[0, 0] = 1  # this row is not in the latent
    small, _, report = LatentMaskResize.execute(mask, LATENT).args
    assert torch.equal(small, LatentMaskResize.execute(scratch(), LATENT).args[0])
    assert report.startswith("167x103, cropped to 160x96 like the picture in VAE Encode, to 20x12, mode max: every painted pixel kept")


def test_a_stroke_on_a_single_frame_of_a_video_survives():
    for frame in range(17):
        mask = torch.zeros(17, 96, 160)
        mask[frame] = scratch()
        small, latent, report = LatentMaskResize.execute(mask, VIDEO).args
        assert small.shape == (5, 12, 20) and latent["noise_mask"].shape == (1, 1, 5, 12, 20)
        assert small.sum((1, 2)).tolist() == [13.0 * (i == -(-frame // 4)) for i in range(5)]
        assert torch.equal(latent["noise_mask"][0, 0], small)
        assert report.startswith("160x96 to 20x12, 17 frames to 5, mode max: every painted pixel kept")


@pytest.mark.parametrize(
    "count, latent, noise_mask",
    [
        (1, VIDEO, (1, 1, 5, 12, 20)),
        (5, VIDEO, (1, 1, 5, 12, 20)),
        (1, VIDEOS, (1, 1, 5, 12, 20)),
        (5, VIDEOS, (1, 1, 5, 12, 20)),
        (33, VIDEOS, (1, 1, 5, 12, 20)),
        (10, VIDEOS, (2, 1, 5, 12, 20)),
        (66, VIDEOS, (2, 1, 5, 12, 20)),
        (1, {"samples": torch.zeros(2, 16, 1, 12, 20)}, (1, 1, 1, 12, 20)),
        (2, {"samples": torch.zeros(2, 16, 1, 12, 20)}, (2, 1, 1, 12, 20)),
    ],
)
def test_masks_of_a_video_for_all_samples_or_for_each(count, latent, noise_mask):
    mask = torch.zeros(count, 96, 160)
    mask[-1, 40, 20:120] = 1
    small, masked, report = LatentMaskResize.execute(mask, latent).args
    assert masked["noise_mask"].shape == noise_mask
    assert small.shape == (noise_mask[0] * noise_mask[2], 12, 20) and torch.equal(masked["noise_mask"].reshape(small.shape), small)
    assert small[-1].sum() == 13 and small.sum() == (13 * 5 if count == 1 and noise_mask[2] == 5 else 13)
    assert "every painted pixel kept" in report


@pytest.mark.parametrize("latent, vae", [({**VIDEO, "downscale_ratio_temporal": 4}, None), (VIDEO, 4)])
def test_frames_that_the_host_cuts_off_the_video_are_cut_off_its_mask(latent, vae):
    mask = torch.cat([torch.zeros(17, 96, 160), scratch(), torch.zeros(1, 96, 160)])
    small, _, report = LatentMaskResize.execute(mask, latent, vae=vae and video_vae(vae)).args
    assert small.shape == (5, 12, 20) and small.max() == 0
    assert "19 frames to 5 without the last 2, which VAE Encode drops too" in report


def test_the_vae_tells_what_the_counts_cannot():
    latent, mask = {"samples": torch.zeros(3, 16, 3, 12, 20)}, torch.zeros(9, 96, 160)
    with pytest.raises(ValueError, match="then connect vae too"):
        LatentMaskResize.execute(mask, latent)
    assert LatentMaskResize.execute(mask, latent, vae=video_vae(4)).args[0].shape == (3, 12, 20)
    assert LatentMaskResize.execute(mask, latent, vae=video_vae(8)).args[0].shape == (9, 12, 20)


def video_vae(ratio: int) -> comfy.sd.VAE:
    """A small VAE of the host that draws `ratio` frames from a latent frame, and says of itself that it draws 2."""
    vae = vae_of("wan")
    if ratio == 8:
        vae.first_stage_model = comfy.ldm.wan.vae.WanVAE(**WAN | {"temperal_downsample": [True, True, True]})
    vae.upscale_ratio = (lambda frames: max(0, frames * 2 - 1), 8, 8)
    return vae


@pytest.mark.parametrize(
    "mask, latent, sentence",
    [
        (torch.zeros(3, 8, 8), LATENT, "mask has 3 in its batch, but latent has 2: connect one for all or one for each"),
        (torch.zeros(1, 1, 8, 8), LATENT, r"mask has shape \[1, 1, 8, 8\], but must be \(batch, height, width\)"),
        (torch.zeros(1, 0, 8), LATENT, r"mask has shape \[1, 0, 8\]"),
        (torch.full((1, 8, 8), -0.5), LATENT, "mask has values from -0.5 to -0.5, but they must lie between 0 and 1"),
        (torch.full((1, 8, 8), float("nan")), LATENT, "mask contains NaN"),
        (torch.zeros(1, 8, 8), {}, "latent is not a latent: connect a LATENT"),
        (torch.zeros(1, 8, 8), {"samples": torch.zeros(1, 64, 100)}, "latent is an audio latent"),
        (torch.zeros(1, 8, 8), {"samples": NestedTensor([torch.zeros(1, 16, 5, 8, 8), torch.zeros(1, 8, 50)])}, "latent is a nested latent"),
        (torch.full((1, 96, 160), 255), LATENT, "mask has values from 255 to 255, but they must lie between 0 and 1"),
        (torch.zeros(1, 96, 96), LATENT, "mask is 96x96, whose proportions are not those of the latent, 20x12"),
        (torch.zeros(7, 96, 160), VIDEO, "mask has 7 frames, but latent has 5: connect 1 mask, 5 .one per latent frame. or one per video frame"),
        (torch.zeros(3, 96, 160), VIDEOS, "mask has 3 frames, but latent has 5 in each of 2 samples"),
        (torch.zeros(3, 96, 160), {"samples": torch.zeros(2, 16, 1, 12, 20)}, "mask has 3 in its batch, but latent has 2"),
    ],
)
def test_bad_input_gets_one_clear_sentence(mask, latent, sentence):
    with pytest.raises(ValueError, match=sentence):
        LatentMaskResize.execute(mask, latent)


@pytest.mark.promise("dilated")
def test_the_schedule_and_its_stages():
    small = LatentMaskResize.execute(scratch(), LATENT).args[0]
    schedule, stages = ProgressiveMaskDilate.execute(small).args
    assert stages.shape == (4, 12, 20)
    assert torch.equal(stages, schedule.masks[:, 0])
    assert stages.sum((1, 2)).tolist() == [(13 + 5) * 7, (13 + 4) * 5, (13 + 2) * 3, 13]  # the widest meets the edge


def test_growth_larger_than_the_picture_is_the_whole_picture():
    schedule = ProgressiveMaskDilate.execute(masks.resize(scratch(), (12, 20)), stages=3, growth=100).args[0]
    assert schedule.masks[0].min() == 1 and schedule.thin.sum() == 13


def test_no_stages_is_the_mask_alone():
    small = masks.resize(scratch(), (12, 20))
    schedule, stages = ProgressiveMaskDilate.execute(small, stages=0).args
    assert schedule.shares == (1,) and torch.equal(stages, small)


def tiles(schedule, count: int, image: torch.Tensor | None = None) -> list[torch.Tensor]:
    """The masks in the preview, (H, W, 3) each, without their captions, in rows of 8."""
    picture = stages_over_time(schedule, image)[0]
    rows, columns = -(-count // COLUMNS), min(count, COLUMNS)
    assert picture.shape[1] == columns * TILE
    whole = picture.unflatten(1, (columns, TILE)).unflatten(0, (rows, -1))[:, :-CAPTION].transpose(1, 2).flatten(0, 1)
    return list(whole[:count])


def covered(tile: torch.Tensor) -> float:
    """The share of a tile that is blue or violet."""
    return float((tile[..., 2] - tile[..., 1] > 0.1).float().mean())


@pytest.mark.parametrize("stages", [0, 3, 7, 8, 64])
def test_the_preview_shows_each_stage_in_rows(stages):
    small = torch.zeros(1, 150, 150)
    small[0, 75, 75] = 1
    shown = [covered(tile) for tile in tiles(ProgressiveMaskDilate.execute(small, stages=stages).args[0], stages + 1)]
    assert shown == sorted(set(shown), reverse=True) and shown[-1] > 0, "each one smaller than the one before"


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"stages": 3, "takeover": 0.75}, ["0% to 25%", "25% to 50%", "50% to 75%", "75% to 100%"]),
        ({"stages": 2, "takeover": 0.6, "spacing": "eased"}, ["0% to 40%", "40% to 60%", "60% to 100%"]),
        ({"stages": 0}, ["0% to 100%"]),
    ],
)
def test_the_preview_says_which_part_of_the_schedule_a_stage_covers(options, expected):
    assert captions(ProgressiveMaskDilate.execute(torch.ones(1, 12, 20), **options).args[0]) == expected


@pytest.mark.parametrize("painted", [0, 3])
def test_the_preview_shows_the_first_sample_or_frame_that_has_paint(painted):
    small = torch.zeros(5, 12, 20)
    small[painted, 6, 4:9] = 1
    small[4] = 1
    schedule = ProgressiveMaskDilate.execute(small).args[0]
    assert torch.equal(stages_over_time(schedule), stages_over_time(ProgressiveMaskDilate.execute(small[painted : painted + 1]).args[0]))


def test_an_empty_mask_has_a_preview_too():
    assert not any(covered(tile) for tile in tiles(ProgressiveMaskDilate.execute(torch.zeros(2, 12, 20), stages=3).args[0], 4))


def test_the_preview_shows_the_masks_on_their_picture_cropped_as_the_picture_was():
    image = torch.zeros(1, 103, 167, 3)
    image[:, 3 : 3 + 48] = torch.tensor([0.0, 1, 0])
    small = torch.zeros(1, 12, 20)
    small[0, 9, 4:9] = 1
    for tile in tiles(ProgressiveMaskDilate.execute(small).args[0], 4, image):
        middle = tile[3 : tile.shape[0] - 3, TILE // 2]
        half = len(middle) // 2
        assert (middle[2 : half - 2, 1] > 0.5).all() and (middle[half + 2 :, 1] - middle[half + 2 :, 0] < 0.5).all(), "green above, in half the height"
    with pytest.raises(ValueError, match="image is 96x160, which doesn't match the latent"):
        ProgressiveMaskDilate.execute(small, image=torch.zeros(1, 160, 96, 3))
    assert ProgressiveMaskDilate.execute(small, image=image).ui["images"]


def shown_by(mask: torch.Tensor, latent: dict, **options) -> torch.Tensor:
    """The preview of Latent Mask Resize without its legend, as it is saved: (B, H, W, 3) in 0..1."""
    files = LatentMaskResize.execute(mask, latent, **options).ui.as_dict()["images"]
    pictures = [Image.open(Path(folder_paths.get_temp_directory(), file["subfolder"], file["filename"])) for file in files]
    return torch.stack([torch.from_numpy(np.array(one)).float().div(255) for one in pictures])[:, :-LEGEND]


def alike(picture: torch.Tensor, color: tuple[int, int, int]) -> torch.Tensor:
    return ((picture - torch.tensor(color) / 255).abs() < 0.15).all(-1)


@pytest.mark.promise("resized")
def test_the_preview_shows_lost_strokes_in_red_and_only_those():
    mask = scratch()
    mask[0, 64:80, 40:56] = 1
    lost = alike(shown_by(mask, LATENT, mode="nearest")[0], LOST).nonzero()
    # 96x160 is drawn 3.2 times as large.
    assert (lost[:, 0].min() / 3.2, lost[:, 1].min() / 3.2, lost[:, 1].max() / 3.2) == pytest.approx((40, 20, 120), abs=1)
    assert lost[:, 0].max() / 3.2 < 42, "the square is kept"
    assert not alike(shown_by(mask, LATENT)[0], LOST).any()


def test_the_preview_shows_the_cells_around_the_paint():
    picture = shown_by(scratch(), LATENT)[0]
    blue = picture[..., 2] - picture[..., 0] > 0.15
    rows, columns = blue.any(1).nonzero().flatten() / 3.2, blue.any(0).nonzero().flatten() / 3.2
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((40, 48, 16, 120), abs=1), "a row of cells, 2 to 14"


def test_the_preview_shows_the_picture_and_a_mask_for_each_frame():
    red = torch.zeros(1, 96, 160, 3)
    red[..., 0] = 1
    outside = shown_by(scratch(), LATENT, image=red)[0, 8, 8]
    assert outside[0] > 0.6 and outside[1:].max() < 0.3
    frames = torch.zeros(17, 96, 160)
    frames[7, 40, 20:120] = 1
    blue = [float((one[..., 2] - one[..., 0] > 0.15).float().mean()) for one in shown_by(frames, VIDEO)]
    assert len(blue) == 5 and blue[2] > 0.01 and blue[:2] + blue[3:] == [0] * 4
