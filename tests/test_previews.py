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
def test_a_picture_that_finds_no_room_leaves_no_file():
    """A limit on the size of files fails as a full disk does."""
    import resource

    folder = Path(folder_paths.get_temp_directory()) / "blended_latent_diffusion"
    folder.mkdir(parents=True, exist_ok=True)
    before, limits = set(folder.iterdir()), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    try:
        with pytest.raises(OSError):
            save_previews([torch.rand(256, 256, 3)], 256)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert set(folder.iterdir()) == before
