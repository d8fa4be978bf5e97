"""The live preview of several candidates: one sheet, each in its place, nothing computed while previews are off."""

from __future__ import annotations

import comfy.utils
import latent_preview
import numpy as np
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod
from PIL import Image

from blended_latent_diffusion.bridge.clip import models as clips
from blended_latent_diffusion.bridge.sampling import live
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.prune_candidates import PruneCandidates
from conftest import Edit

STEPS = 4


@pytest.fixture
def shown(monkeypatch) -> list[Image.Image | None]:
    """Every picture that the host's progress bar is given. Previews are on, and none is left out for coming too soon."""
    pictures = []
    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(live, "INTERVAL", 0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: pictures.append(preview and preview[1]))
    return pictures


def draw(edit: Edit, candidates: int, **options) -> dict:
    given = {"seed": 5, "latent_image": edit.latent, "mask": edit.mask, "steps": STEPS, "cfg": 4.0, "sampler_name": "ddim", "scheduler": "normal"}
    with torch.inference_mode():
        return BlendedLatentKSampler.execute(edit.model, positive=edit.positive, negative=edit.negative, candidates=candidates, **given, **options).args[0]


def middle(sheet: Image.Image, number: int, columns: int, rows: int) -> np.ndarray:
    """The tile of a candidate without its margin and its number."""
    pixels = np.asarray(sheet.convert("RGB"), np.float32)
    height, width = pixels.shape[0] // rows, pixels.shape[1] // columns
    top, left = number // columns * height, number % columns * width
    return pixels[top + height // 4 : top + height * 3 // 4, left + width // 4 : left + width * 3 // 4]


def blank(tile: np.ndarray) -> bool:
    return float(np.ptp(tile, (0, 1)).max()) == 0


def test_the_sheet_shows_each_candidate_as_the_host_shows_it_alone(edit, shown):
    samples = draw(edit, 4)["samples"]
    assert len(shown) == STEPS, "a sheet a step, as a picture a step of one candidate"
    sheet = shown[-1]
    assert max(sheet.size) <= latent_preview.MAX_PREVIEW_RESOLUTION
    previewer = latent_preview.get_previewer(edit.model.load_device, edit.model.model.latent_format)
    units = edit.model.model.process_latent_in(samples)
    alone = [previewer.decode_latent_to_preview(one[None]).resize(sheet.size) for one in units]
    for number in range(4):
        color = middle(sheet, number, 2, 2).mean((0, 1))
        errors = [float(np.abs(color - middle(one, 0, 1, 1).mean((0, 1))).max()) for one in alone]
        assert int(np.argmin(errors)) == number and errors[number] < 4, errors


def test_what_comes_in_later_chunks_is_blank_until_then(edit, shown):
    draw(edit, 4, chunk_size=2)
    first, last = shown[0], shown[-1]
    assert [blank(middle(first, number, 2, 2)) for number in range(4)] == [False, False, True, True]
    assert [blank(middle(last, number, 2, 2)) for number in range(4)] == [False] * 4


def test_a_candidate_that_is_dropped_stays_and_turns_dark(edit, shown):
    judge = PruneCandidates.execute(clips.load(clips.files()[0]), edit.vae, "a fox", edit.mask, start=0.5, keep=0.5, rounds=1).args[0]
    kept = draw(edit, 4, pruning=judge)["batch_index"]
    bright = [middle(shown[-1], number, 2, 2).mean() / middle(shown[0], number, 2, 2).mean() for number in range(4)]
    assert len(kept) == 2 and all((bright[number] > 0.6) == (number in kept) for number in range(4)), (kept, bright)


def test_sheets_come_as_often_as_the_host_sends_them():
    assert live.INTERVAL == comfy.utils.PROGRESS_THROTTLE_MIN_INTERVAL


def test_sheets_keep_the_hosts_pace(edit, shown, monkeypatch):
    monkeypatch.setattr(live, "INTERVAL", 1000)
    draw(edit, 3)
    assert [step for step, picture in enumerate(shown) if picture] == [0, len(shown) - 1], "the first step and the last"


def test_nothing_is_drawn_while_previews_are_off(edit, shown, monkeypatch):
    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.NoPreviews)
    monkeypatch.setattr(live, "Sheet", None)
    draw(edit, 3)
    assert shown and not any(shown)
