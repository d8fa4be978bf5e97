"""Edit Report as the host calls it."""

from __future__ import annotations

import json
import math

import comfy.model_management
import pytest
import torch

from blended_latent_diffusion.bld.metrics import figures
from blended_latent_diffusion.bridge.comparison import MOST_DB
from blended_latent_diffusion.bridge.edit_report import error_picture
from blended_latent_diffusion.nodes.edit_report import EditReport
from conftest import after_a_reload, picture

NAMES = ["background_psnr", "worst_block", "seam", "colour_shift", "colour_shift_p95", "flicker"]


def source() -> torch.Tensor:
    return picture("bld_demo_edit.png")[None, ..., :3]


def box() -> torch.Tensor:
    m = torch.zeros(1, 128, 128)
    m[:, 40:90, 30:100] = 1
    return m


def edited(levels: float = 4) -> torch.Tensor:
    """The source, darker all over and another picture under the mask."""
    return torch.where(box()[..., None] > 0, source().flip(1), (source() - levels / 255).clamp(0, 1))


def report(**changes) -> list:
    with torch.inference_mode():
        return list(EditReport.execute(**{"source": source(), "edited": edited(), "mask": box()} | changes).args)


@pytest.mark.promise("measured")
def test_the_outputs_are_the_figures_of_bld():
    psnr, block, seam, shift, text, _, flicker = report()
    expected = figures(*(t.movedim(-1, 1) for t in (edited(), source())), box())
    assert [psnr, block, seam, shift] == [getattr(expected, name) for name in NAMES[:4]]
    assert 35 < psnr < 38 and block <= psnr and seam > 10 and 0.3 < shift < 4
    found = json.loads(text)
    assert found["worst"] == found["pictures"][0] == {name: pytest.approx(getattr(expected, name), abs=1e-4) for name in NAMES[:5]} | {"flicker": None}
    assert math.isnan(flicker), "a picture does not flicker"


def test_of_a_batch_each_picture_is_reported_and_the_worst_is_given():
    batch = torch.cat([edited(2), edited(12), source()])
    psnr, block, seam, shift, text, error, _ = report(edited=batch)
    alone = [report(edited=one[None]) for one in batch]
    assert [psnr, block] == [min(one[i] for one in alone) for i in (0, 1)] and [seam, shift] == [max(one[i] for one in alone) for i in (2, 3)]
    assert json.loads(text)["pictures"] == [json.loads(one[4])["worst"] for one in alone]
    assert torch.equal(error, torch.cat([one[5] for one in alone]))


def test_one_source_and_mask_each():
    other = source().flip(2)
    found = json.loads(report(source=torch.cat([source(), other]), edited=torch.cat([edited(), other]), mask=torch.cat([box(), box().flip(2)]))[4])
    assert found["pictures"][0] == json.loads(report()[4])["worst"] and found["pictures"][1]["background_psnr"] == MOST_DB


def test_the_source_itself_is_at_the_cap_and_the_json_is_valid():
    psnr, block, seam, shift, text, error, _ = report(edited=source())
    assert psnr == block == MOST_DB and seam == shift == 0
    assert "Infinity" not in text and json.loads(text)["worst"]["background_psnr"] == MOST_DB


def test_an_empty_mask_makes_everything_background():
    psnr, block, seam, shift, text, _, _ = report(mask=torch.zeros(1, 128, 128))
    assert psnr < 25 and math.isnan(seam) and json.loads(text)["worst"]["seam"] is None


def test_a_mask_of_everything_leaves_nothing_to_measure():
    *values, text, _, _ = report(mask=torch.ones(1, 128, 128))
    assert all(math.isnan(value) for value in values)
    assert json.loads(text)["pictures"] == [dict.fromkeys(NAMES)]


def test_alpha_is_dropped():
    with_alpha = picture("bld_demo_edit.png")[None]
    assert with_alpha.shape[-1] == 4 and report(source=with_alpha)[:5] == report()[:5]


def test_a_bare_mask_works():
    assert report(mask=box()[0])[:5] == report()[:5]


def test_a_source_that_vae_encode_crops_is_cropped_alike(edit):
    padded = torch.nn.functional.pad(source().movedim(-1, 1), (2, 3, 1, 2), mode="reflect").movedim(1, -1)
    assert torch.equal(edit.vae.vae_encode_crop_pixels(padded), source()), "the host's own crop"
    mask = torch.nn.functional.pad(box(), (2, 3, 1, 2))
    assert torch.equal(edit.vae.vae_encode_crop_pixels(padded), source()), "this is what the host keeps"
    assert report(source=padded, mask=mask)[:5] == report()[:5]
    assert report(source=padded)[:5] == report()[:5], "the mask may be the cropped one already"


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"source": torch.zeros(1, 64, 128, 3)}, "source is 128x64, but edited is 128x128: connect the source of this edit, at the size that went into"),
        ({"source": torch.zeros(1, 256, 256, 3)}, "source is 256x256, but edited is 128x128"),
        ({"source": torch.zeros(1, 127, 128, 3)}, "source is 128x127, but edited is 128x128"),
        ({"source": torch.zeros(1, 128, 200, 3)}, "source is 200x128, but edited is 128x128"),
        ({"edited": torch.zeros(1, 125, 126, 3)}, "source is 128x128, but edited is 126x125"),
        ({"mask": torch.zeros(1, 16, 16)}, "mask is 16x16, but edited is 128x128"),
        ({"mask": torch.full((1, 128, 128), 255.0)}, "mask has values from 255 to 255"),
        ({"mask": torch.zeros(2, 128, 128)}, "mask has 2 in its batch, but edited has 1"),
        ({"source": torch.zeros(2, 128, 128, 3)}, "source has 2 in its batch, but edited has 1"),
        ({"edited": torch.zeros(4, 128, 128, 3), "frames": 3}, "frames is 3, but edited has 4 pictures, which is not a multiple of it"),
        ({"edited": torch.zeros(4, 128, 128, 3), "source": torch.zeros(3, 128, 128, 3), "frames": 2}, "source has 3 in its batch, but edited has 4 frames in"),
        ({"edited": torch.full((1, 128, 128, 3), math.nan)}, "edited contains NaN"),
        ({"edited": torch.zeros(1, 128, 128, 1)}, r"edited has shape \[1, 128, 128, 1\]"),
    ],
)
def test_bad_input_gets_one_clear_sentence(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        report(**changes)


def test_a_videos_flicker_is_reported_frame_by_frame_and_the_worst_is_given():
    """Four levels darker, eight, eight, four; the second video is the source."""
    levels = (4, 8, 8, 4)
    frames = torch.cat([torch.where(box()[..., None] > 0, source() - level / 255, source()) for level in levels] + [source()] * 4)
    *_, text, _, flicker = report(edited=frames, frames=4)
    found = [one["flicker"] for one in json.loads(text)["pictures"]]
    assert found == [None, pytest.approx(4, rel=0.3), 0, pytest.approx(4, rel=0.3), None, 0, 0, 0]
    assert flicker == pytest.approx(max(found[1:4]), abs=1e-4) and json.loads(text)["worst"]["flicker"] == max(found[1:4])
    *_, whole, _, _ = report(edited=frames, frames=0)
    assert json.loads(whole)["pictures"][4]["flicker"] > 1, "one video of all"


def test_frames_and_masks_of_one_video_serve_for_each():
    each, masks = torch.cat([source(), source().flip(1)]), torch.cat([box(), box().flip(1)])
    twice = report(source=each, mask=masks, edited=torch.cat([each, each]), frames=2)
    assert [one["background_psnr"] for one in json.loads(twice[4])["pictures"]] == [MOST_DB] * 4


def test_the_display_gets_frames_from_the_first_to_the_last():
    with torch.inference_mode():
        (shown,) = EditReport.execute(source(), source().expand(22, -1, -1, -1), box(), 0).ui["comparison"]
    assert [one["number"] for one in shown["pictures"]] == [1, 4, 7, 10, 13, 16, 19, 22]


def test_the_error_picture_shows_the_error_16_times_the_masked_source_dark_and_an_outline():
    x, m = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 64, 64)
    m[:, 20:40, 20:40] = 0.3
    x_hat = x.clone()
    x_hat[:, 0, 5] += 8 / 255
    x_hat[:, 1, 6] -= 100 / 255
    x_hat[:, :, 30] = 1
    shown = error_picture(x_hat, x, m)
    assert shown.shape[0] == 1 and shown.shape[1] > 64 and shown.shape[2:] == (64, 3) and 0 <= shown.min() <= shown.max() <= 1
    shown = shown[0]
    assert torch.allclose(shown[5, 0], torch.tensor([8 * 16 / 255, 0, 0]), atol=1e-4) and torch.equal(shown[6, 0], torch.tensor([0.0, 1, 0]))
    assert shown[10, 10].max() == 0 and torch.allclose(shown[30, 30], torch.tensor(0.125)), "inside the mask there is no error to show"
    assert torch.allclose(shown[20, 30], torch.tensor([1.0, 0.8, 0])) and torch.equal(shown[19, 30], torch.zeros(3)), "the outline hides no background"
    assert shown[64:].std() > 0.05, "the caption is there"


def test_the_display_gets_the_layers_and_the_figures_of_the_report():
    batch = torch.cat([edited(), source()])
    with torch.inference_mode():
        out = EditReport.execute(source(), batch, box())
    (shown,) = out.ui["comparison"]
    assert shown["count"] == 2 and [one["figures"]["result"] for one in shown["pictures"]] == json.loads(out.args[4])["pictures"]
    assert all(list(one["files"]) == ["source", "result", "error", "seam"] for one in shown["pictures"])


def test_the_display_returns_when_the_page_is_loaded_again():
    after_a_reload()
    assert EditReport.define_schema().has_intermediate_output


def test_cancel_goes_through():
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        report()
