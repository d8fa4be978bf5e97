"""A workflow from a stranger: names of files, texts and numbers that are meant to do harm."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import folder_paths
import pytest
import torch

from bench.odd.values import TEXTS
from blended_latent_diffusion.bridge import checks
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.clip_rank_batch import ClipRankBatch
from blended_latent_diffusion.nodes.edit_cut_out import EditCutOut
from blended_latent_diffusion.nodes.edit_put_back import EditPutBack
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.open_clip_loader import OpenClipLoader
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from blended_latent_diffusion.nodes.prune_candidates import PruneCandidates
from demo.files import OPEN_CLIP

INTERFACE = Path(__file__).with_name("interface.json")
TRICKS = ("../secret.safetensors", "sub/../../secret.safetensors", "..\\secret.safetensors", "{}/secret.safetensors", "/dev/zero", "/dev/stdin", "CON", "nul",
          "secret.safetensors\x00.safetensors", "file:///etc/passwd", "http://localhost/secret.safetensors", "\\\\host\\share\\secret.safetensors",
          "~/secret.safetensors", "%2e%2e/secret.safetensors", "hf-hub:them/secret", "local-dir:/etc", "", ".", "\u2024\u2024/secret.safetensors")  # fmt: skip

HOSTILE = [text for text in TEXTS if len(text.splitlines()) == 1 and text.strip() and "\ud800" not in text]


OPENED: list[list[str]] = []


def listen(event: str, arguments: tuple) -> None:
    """Notes what is opened while someone looks. Python takes no audit hook back."""
    if OPENED and event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], str | bytes | os.PathLike):
        OPENED[-1].append(os.fsdecode(arguments[0]))


sys.addaudithook(listen)


@contextmanager
def opened() -> Iterator[list[str]]:
    """The files that are opened inside, and the folders that are listed."""
    OPENED.append([])
    try:
        yield OPENED[-1]
    finally:
        OPENED.pop()


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
    with opened() as seen:
        refused = OpenClipLoader.validate_inputs(name, True)
        with pytest.raises(ValueError, match="^clip_name is ") as error:
            OpenClipLoader.execute(name, True)
    assert isinstance(refused, str) and refused.isprintable() and str(error.value).isprintable()
    folders = {str(home), str(home / "sub")}
    assert str(home) in seen, "what the folder lists is looked up"
    assert [path for path in seen if path == name or (str(tmp_path) in path and path not in folders)] == []


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


@pytest.mark.promise("listed-files")
def test_no_other_input_of_any_node_names_a_file(pack):
    """So that the tricks above are all there are: every other text is free, and every other choice is made here and not from a folder."""
    interface = json.loads(INTERFACE.read_text(encoding="utf-8"))
    inputs = {(node, name): one for node, face in interface.items() for kind in face["inputs"].values() for name, one in kind.items()}
    assert {name for (_, name), one in inputs.items() if one["type"] == "STRING"} == {"prompt", "negative_prompt", "pick"}
    of_the_host = {("BlendedLatentKSampler", "sampler_name"), ("BlendedLatentKSampler", "scheduler")}
    unlisted = {where for where, one in inputs.items() if one["type"] == "COMBO" and "options" not in one}
    assert unlisted - of_the_host == {("OpenClipLoader", "clip_name")}


@pytest.mark.promise("listed-files")
def test_devices_and_links_in_the_folder(pack, tmp_path, monkeypatch):
    """A device is never read, neither as a model nor as the config beside it. A link is the user's, and is followed."""
    home = tmp_path / "models" / "open_clip"
    home.mkdir(parents=True)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "open_clip", ([str(home)], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    (home / "ViT-B-32.safetensors").symlink_to("/dev/zero")
    for ending in ("safetensors", "json"):
        (home / f"linked.{ending}").symlink_to(OPEN_CLIP / f"bld_demo_clip.{ending}")
    with pytest.raises(ValueError, match=r"^clip_name is ViT-B-32\.safetensors, which is neither a file in models/open_clip"):
        OpenClipLoader.execute("ViT-B-32.safetensors", False)
    with torch.inference_mode():
        assert OpenClipLoader.execute("linked.safetensors", False).args[0].size
    (home / "linked.json").unlink()
    (home / "linked.json").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"^clip linked\.safetensors has no linked\.json next to it"):
        OpenClipLoader.execute("linked.safetensors", False)


@pytest.mark.promise("limits")
def test_what_no_memory_holds_is_refused_though_each_input_is_within_its_limits():
    """A crop of 8192x8192 of each of 4,096 pictures is 3 TB."""
    images, painted = torch.zeros(1, 1, 1, 1).expand(4096, 64, 64, 3), torch.ones(1, 64, 64)
    with pytest.raises(ValueError, match="^size is 8192, which makes 4096 crops of [0-9x]+, of [0-9]+ GiB: choose a smaller one, or fewer at once"):
        EditCutOut.execute(images, painted, size=8192)
    crop, _, place, _ = EditCutOut.execute(torch.zeros(1, 64, 64, 3), painted).args
    large = torch.zeros(1, 1, 1, 1).expand(1, 2**12, 2**12, 3)
    many, place = crop.expand(4096, -1, -1, -1), replace(place, image=large)
    with pytest.raises(ValueError, match="^edited has 4096 in its batch, which makes pictures of 768 GiB"):
        EditPutBack.execute(many, place, {"method": "paste"})


@pytest.mark.promise("limits")
def test_so_are_candidates_and_stages(edit, monkeypatch):
    """With a memory that holds a millionth of what is the limit, since both read their inputs first."""
    monkeypatch.setattr(checks, "MOST", 2**17)
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    with torch.inference_mode(), pytest.raises(ValueError, match="^candidates is 129, which makes latents of "):
        BlendedLatentKSampler.execute(edit.model, 1, 2, 1.0, "euler", "normal", edit.positive, edit.negative, latent, candidates=129)
    with pytest.raises(ValueError, match="^stages is 32, which makes masks of "):
        ProgressiveMaskDilate.execute(torch.zeros(1, 64, 64), stages=32)
    assert len(ProgressiveMaskDilate.execute(torch.zeros(1, 64, 64), stages=31).args[1]) == 32


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
