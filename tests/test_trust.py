"""A workflow from a stranger: names of files, texts and numbers that are meant to do harm."""

from __future__ import annotations

import os

import folder_paths
import pytest
import torch

from bench.odd.values import TEXTS
from blended_latent_diffusion.nodes.clip_rank_batch import ClipRankBatch
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.open_clip_loader import OpenClipLoader
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from blended_latent_diffusion.nodes.prune_candidates import PruneCandidates

TRICKS = ("../secret.safetensors", "sub/../../secret.safetensors", "..\\secret.safetensors", "{}/secret.safetensors", "/dev/zero", "/dev/stdin", "CON", "nul",
          "secret.safetensors\x00.safetensors", "file:///etc/passwd", "http://localhost/secret.safetensors", "\\\\host\\share\\secret.safetensors",
          "~/secret.safetensors", "%2e%2e/secret.safetensors", "hf-hub:them/secret", "local-dir:/etc", "", ".", "\u2024\u2024/secret.safetensors")  # fmt: skip

HOSTILE = [text for text in TEXTS if len(text.splitlines()) == 1 and text.strip() and "\ud800" not in text]


@pytest.mark.promise("listed-files")
@pytest.mark.parametrize("trick", TRICKS, ids=ascii)
def test_a_name_reaches_only_what_the_folder_lists(demo_pack, tmp_path, monkeypatch, trick):
    """Where a name is refused, before the run and in it, nothing is opened either."""
    home = tmp_path / "models" / "open_clip"
    (home / "sub").mkdir(parents=True)
    for secret in (tmp_path / "models" / "secret.safetensors", tmp_path / "secret.safetensors"):
        secret.write_bytes(b"secret")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "open_clip", ([str(home)], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    name = trick.format(tmp_path)
    refused = OpenClipLoader.validate_inputs(name, True)
    assert isinstance(refused, str) and refused.isprintable()
    with pytest.raises(ValueError, match="^clip_name is ") as error:
        OpenClipLoader.execute(name, True)
    assert str(error.value).isprintable() and "secret" not in os.listdir(home)


@pytest.mark.promise("texts-stay-texts")
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_a_hostile_text_stays_a_text_in_every_report_and_in_the_log(clip, edit, caplog, text):
    """Long ones are cut, and the log and the report quote where."""
    long = f"{text} " * (1 if text.count(" ") > 1000 else 80)
    images, mask = torch.rand(2, 16, 16, 3), torch.ones(1, 16, 16)
    scope = {"scope": ["whole"]}
    with torch.inference_mode():
        out = ClipRankBatch.execute([images], [clip], [long], [mask], scope, negative_prompt=[long])
        PruneCandidates.execute(clip, edit.vae, long, mask)
    report = out.args[4]
    assert report.replace("\n", "").isprintable() and len(report) < 2000
    assert caplog.records and all(record.getMessage().isprintable() and len(record.getMessage()) < 600 for record in caplog.records)
    assert str(out.ui).find("<script") == -1, "no text of the prompt reaches the browser"


@pytest.fixture
def clip(demo_pack):
    with torch.inference_mode():
        return OpenClipLoader.execute("bld_demo_clip.safetensors").args[0]


@pytest.mark.promise("limits")
@pytest.mark.parametrize(
    "node, inputs, name",
    [
        (ProgressiveMaskDilate, {"mask": torch.ones(1, 64, 64), "stages": 2**40}, "stages"),
        (ProgressiveMaskDilate, {"mask": torch.ones(1, 64, 64), "soft_edge": 2**40}, "soft_edge"),
        (ProgressiveMaskDilate, {"mask": torch.ones(1, 64, 64), "growth": 10**30}, "growth"),
        (ProgressiveMaskDilate, {"mask": torch.ones(1, 64, 64), "thin": 2**40, "where": "thin parts"}, "thin"),
        (LatentMaskResize, {"mask": torch.ones(1, 64, 64), "latent": {"samples": torch.zeros(1, 4, 1, 1).expand(1, 4, 2**20, 2**20)}}, "latent"),
        (LatentMaskResize, {"mask": torch.ones(1, 1, 1).expand(4, 2**20, 2**20), "latent": {"samples": torch.zeros(1, 4, 8, 8)}}, "mask"),
    ],
)
def test_a_number_beyond_its_limits_is_refused_before_any_work(node, inputs, name):
    """Each would take terabytes. The last ones say that they are so large and take 16 bytes."""
    with pytest.raises(ValueError, match=f"^{name} "):
        node.execute(**inputs)
