"""Small pictures for the browser."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

from blended_latent_diffusion.bridge.previews import save_previews
from blended_latent_diffusion.nodes.edit_report import EditReport
from conftest import no_room


def opened(file: dict) -> Image.Image:
    return Image.open(path_of(file))


def path_of(file: dict) -> Path:
    return Path(folder_paths.get_directory_by_type(file["type"]), file["subfolder"], file["filename"])


def test_previews_show_the_pictures_at_a_small_size(edit):
    wide = edit.image[0, 32:96]
    (small,), (full,) = save_previews([wide], 64), save_previews([wide], 4096, 95)
    assert opened(small).size == (64, 32) and opened(full).size == (128, 64)
    assert np.abs(np.asarray(opened(full)) / 255 - wide.numpy()).mean() < 0.01
    assert path_of(small).stat().st_size < 8192


def test_the_same_picture_is_written_once_and_another_one_is_not_taken_for_it(edit):
    one, same, other = edit.image[0], edit.image[0].clone(), edit.image[0].flip(0)
    first, second, third = save_previews([one, same, other], 128)
    written = path_of(first).stat().st_mtime_ns
    assert first == second != third
    assert save_previews([one], 128) == [first] and path_of(first).stat().st_mtime_ns == written
    assert np.abs(np.asarray(opened(third), float) - np.asarray(opened(first), float)[::-1]).mean() < 2
    assert {path.suffix for path in path_of(first).parent.iterdir()} == {".jpg"}, "nothing half-written is left"


def test_alpha_and_nan_do_not_show():
    picture = torch.full((8, 8, 4), 0.5)
    picture[0, 0] = torch.nan
    (file,) = save_previews([picture], 64)
    assert opened(file).mode == "RGB"


@pytest.mark.skipif(os.name == "nt", reason="uses POSIX limits")
def test_a_full_disk_costs_the_previews_and_not_the_node(edit, caplog):
    folder = Path(folder_paths.get_temp_directory()) / "blended_latent_diffusion"
    edited = torch.rand(1, 128, 128, 3)
    with no_room(4096):
        out = EditReport.execute(edit.image, edited, edit.mask)
    assert "can't be saved in" in caplog.text
    left = set(folder.iterdir())
    assert {path.suffix for path in left} <= {".jpg"} and all(Image.open(path).load() for path in left), "nothing half-written"
    with_room = EditReport.execute(edit.image, edited, edit.mask)
    assert out.args[:5] == with_room.args[:5] and torch.equal(out.args[5], with_room.args[5])
    assert set(folder.iterdir()) - left, "what found no room is written later"
