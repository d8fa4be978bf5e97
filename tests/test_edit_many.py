"""python run.py edit: many pictures with one workflow, through the real server."""
from __future__ import annotations

import argparse
import base64
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dying_edit import MOMENTS
from PIL import Image
from test_workflows import EXAMPLES, nodes_of, workflow

from conftest import ROOT, needs_math, no_room
from demo.small.files import INPUT
from host import HostError
from host.client import Client, Interrupted, Run
from host.edit import line
from host.edit.__main__ import edit
from host.edit.graph import Workflow
from host.edit.inputs import find_places
from host.edit.jobs import Job, find_jobs
from host.edit.pictures import MaskUpload, Upload
from host.edit.results import Results
from host.edit.sheet import write_sheet
from host.edit.taps import Taps

Json = dict[str, Any]
FOX = INPUT / "bld_demo_edit.png"


@pytest.fixture(scope="module")
def asked(server) -> Client:
    """A client that listens to nothing, as the command has it."""
    return Client(server.url)


@pytest.fixture(scope="module")
def quick(asked, tmp_path_factory) -> Path:
    """The smallest example with few steps, as the browser saves it, and beside it in the API format."""
    smallest = Workflow(workflow("smallest_graph"), asked.object_info())
    (sampler,), (restore,) = (nodes_of(smallest.prompt, kind) for kind in ("BlendedLatentKSampler", "DecoderFinetuneReconstruct"))
    prompt, saved = smallest.filled({(sampler, "steps"): 2, (restore, "method.iterations"): 1})
    folder = tmp_path_factory.mktemp("workflows")
    (folder / "api.json").write_text(json.dumps(prompt))
    (folder / "quick.json").write_text(json.dumps(saved))
    return folder / "quick.json"


@pytest.fixture(scope="module")
def inverting(tmp_path_factory) -> Path:
    """A workflow that takes no time: it inverts a picture."""
    file = tmp_path_factory.mktemp("workflows") / "inverting.json"
    file.write_text(json.dumps({
        "1": {"class_type": "LoadImage", "inputs": {"image": "bld_demo_edit.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "x"}},
    }))
    return file


def run_edit(server: Any, source: Path, out: Path, file: Path, *settings: str) -> int:
    return edit(options(server.url, source, out, file, *settings))


def options(url: str, source: Path, out: Path, file: Path | str, *settings: str) -> argparse.Namespace:
    return argparse.Namespace(source=source, out=out, server=url, workflow=str(file), set=list(settings), comfyui=None, overlay=None)


def metadata(path: Path) -> Json:
    with Image.open(path) as picture:
        return {key: json.loads(picture.info[key]) for key in ("prompt", "workflow", "edit") if key in picture.info}


def figures(out: Path) -> dict[str, Json]:
    with (out / "figures.csv").open(encoding="utf-8", newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def put_mask_beside(folder: Path, name: str) -> None:
    """The fox's picture without its alpha channel, and its mask as a file."""
    with Image.open(FOX) as picture:
        picture.convert("RGB").save(folder / f"{name}.png")
        picture.getchannel("A").point(lambda value: 255 - value).save(folder / f"{name}_mask.png")


# -- what is edited -----------------------------------------------------------------------------------------------------


def test_a_folder_is_its_pictures_each_with_the_mask_beside_it(tmp_path):
    for name in ("b.jpg", "a.png", "a_mask.webp", "notes.txt"):
        (tmp_path / name).touch()
    assert [(job.name, job.mask and job.mask.name) for job in find_jobs(tmp_path)] == [("a", "a_mask.webp"), ("b", None)]


def test_a_table_names_pictures_and_every_row_gets_a_result_of_its_own(tmp_path):
    (tmp_path / "t.csv").write_text("﻿image,mask,prompt\nA.png,m.png,\"a fox, red\"\na.jpg,,\nx/a.png,,pig\n", encoding="utf-8")
    jobs = find_jobs(tmp_path)
    assert [job.name for job in jobs] == ["A", "a_2", "a_3"]
    assert jobs[0].mask == tmp_path / "m.png" and jobs[2].image == tmp_path / "x" / "a.png"
    assert [job.row.get("prompt") for job in jobs] == ["a fox, red", None, "pig"]


def test_a_mask_is_found_whatever_the_case_of_its_name(tmp_path):
    for name in ("a.png", "a_mask.PNG", "B.png", "b_Mask.Jpg", "c.png", "C.png", "c_mask.png", "C_mask.png", "C_mask.webp"):
        (tmp_path / name).touch()
    masks = {job.image.name: job.mask and job.mask.name for job in find_jobs(tmp_path)}
    assert masks == {"a.png": "a_mask.PNG", "B.png": "b_Mask.Jpg", "c.png": "c_mask.png", "C.png": "C_mask.png"}


@pytest.mark.parametrize(("name", "text", "sentence"), [
    ("t.jsonl", '{"image": "a.png"}\nnonsense', "Line 2 of t.jsonl is not JSON"),
    ("t.jsonl", '["a.png"]', "Line 1 of t.jsonl is not an object"),
    ("t.csv", "prompt\na fox\n", "Line 2 of t.csv names no picture: it needs a column image"),
    ("t.csv", "image,prompt\na.png,a fox, red\n", "Line 2 of t.csv has more cells than the first line"),
    ("t.csv", "image\n", "has no picture to edit"),
    ("t.xlsx", "", "is not a table: it must end in .csv or .jsonl"),
])
def test_a_table_that_cannot_be_read_is_told_with_its_line(tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(HostError, match=sentence):
        find_jobs(tmp_path / name)


def test_a_mask_file_becomes_the_alpha_channel_upright_and_soft(tmp_path):
    picture, mask = Image.new("RGB", (30, 20), "red"), Image.new("L", (20, 30), 0)
    mask.paste(100, (0, 0, 5, 5))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was held upright
    picture.save(tmp_path / "a.jpg", exif=exif), mask.save(tmp_path / "m.png")
    upload = Upload(tmp_path / "a.jpg", tmp_path / "m.png", alpha=True)
    (tmp_path / upload.name).write_bytes(upload.data())
    with Image.open(tmp_path / upload.name) as made:
        assert made.size == (20, 30) and made.getpixel((2, 2))[3] == 155 and made.getpixel((9, 9))[3] == 255 and made.getpixel((2, 2))[0] > 250
    (tmp_path / "own.png").write_bytes(MaskUpload(tmp_path / "m.png").data())
    with Image.open(tmp_path / "own.png") as made:
        assert made.getpixel((2, 2)) == (100, 100, 100, 155), "whichever channel the loader reads"


def test_a_picture_without_a_fitting_mask_is_refused(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "a.png"), Image.new("L", (20, 30)).save(tmp_path / "m.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG nonsense")
    for image, mask, sentence in (("a", "m", "m.png is 20x30, but a.png is 30x20"), ("a", None, "a.png has no mask: erase what may change"),
                                  ("b", None, "b.png is not a picture, or it is damaged"), ("c", None, "Cannot read .*c.png: No such file")):
        with pytest.raises(HostError, match=sentence):
            Upload(tmp_path / f"{image}.png", mask and tmp_path / f"{mask}.png", alpha=True).data()


def test_a_picture_that_is_too_large_is_refused_wherever_it_is_opened(tmp_path, monkeypatch):
    big = BytesIO()
    Image.new("L", (300, 200), 255).save(big, "PNG")
    (tmp_path / "big.png").write_bytes(big.getvalue())
    results, job = Results(tmp_path), Job("big", tmp_path / "big.png", None, {})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    for upload in (Upload(job.image, alpha=True), MaskUpload(job.image)):
        with pytest.raises(HostError, match=r"big\.png is too large: it has more than 40,000 pixels\."):
            upload.data()
    with pytest.raises(HostError, match="The result could not be read: Image size .60000 pixels. exceeds limit"):
        results.write("result", SendsFiles(big.getvalue()), [({}, {})], {"edit": {}})
    assert results.record("big") is None and not results.path("result").exists()
    write_sheet(tmp_path / "sheet.html", "many", [job], results, {"big": "too large"})
    assert "too large" in (tmp_path / "sheet.html").read_text()


class SendsFiles:
    """A client of a server that has one file."""

    def __init__(self, data: bytes) -> None:
        self.view = lambda item: data


# -- which inputs take it -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*EXAMPLES} - {"two_edits", "edit_an_edit", "thin_stroke", "many_machines"}))
def test_the_inputs_of_an_example_are_found_and_the_saved_workflow_follows(asked, name):
    if name == "one_node":
        needs_math(asked)
    example = Workflow(workflow(name), asked.object_info())
    places = find_places(example, {"image", "prompt", "seed"}, []).columns
    values = {address: value for column, value in {"image": "my.png", "prompt": "a tea cup", "seed": 77}.items() for address in places[column]}
    prompt, saved = example.filled(values)
    assert asked.prompt(saved) == prompt
    (loader,) = nodes_of(prompt, "LoadImage")
    assert prompt[loader]["inputs"]["image"] == "my.png"
    seeds = {node["inputs"].get("seed") for node in prompt.values()} - {None}
    assert seeds == {77}
    assert json.dumps(prompt).count("a tea cup") >= 1 and json.dumps(prompt).count(json.dumps(example.prompt[places["prompt"][0][0]])) == 0


def test_an_unclear_input_is_asked_for_and_taken_from_the_user(asked):
    two = Workflow(workflow("two_edits"), asked.object_info())
    with pytest.raises(HostError, match=r"which input of the workflow takes the prompt: it has .*\.text.* Say it with --set NODE.INPUT=prompt"):
        find_places(two, {"image", "prompt"}, [])
    left = next(node for node, entry in two.prompt.items() if entry["inputs"].get("text") == "a penguin")
    assert find_places(two, {"image", "prompt"}, [f"{left}.text=prompt"]).columns["prompt"] == [(left, "text")]
    for setting, sentence in {"x.y=prompt": "has 0 such inputs", "prompt": "must be NODE.INPUT=COLUMN", f"{left}.text=words": "there is no column words",
                              f"{left}.clip=prompt": "is linked to another node"}.items():
        with pytest.raises(HostError, match=sentence):
            find_places(two, {"image", "prompt"}, [setting])


def test_a_choice_that_brings_other_inputs_is_not_changed_in_a_saved_workflow(asked):
    saved = Workflow(workflow("smallest_graph"), asked.object_info())
    (restore,) = nodes_of(saved.prompt, "DecoderFinetuneReconstruct")
    with pytest.raises(HostError, match="The input method of node .* decides which other inputs the node has"):
        saved.filled({(restore, "method"): "paste"})
    exported = Workflow(saved.prompt, asked.object_info())
    assert exported.filled({(restore, "method"): "paste"})[0][restore]["inputs"]["method"] == "paste"


def test_prompt_and_seed_are_told_where_they_are_clear(asked):
    for name, clear in (("blended_latent_edit", {"prompt": "a sunflower", "seed": 31}), ("two_edits", {"seed": 1})):
        example = Workflow(workflow(name), asked.object_info())
        assert find_places(example, {"image"}, []).values(example.prompt) == clear, name
    places, changed = find_places(example, {"image"}, []), json.loads(json.dumps(example.prompt))
    for node, text in places.recorded["prompt"]:
        changed[node]["inputs"][text] = "a pig"
    assert places.values(changed) == {"prompt": "a pig", "seed": 1}, "what ran counts"


def test_what_is_no_workflow_is_refused(asked):
    for content, sentence in (({"a": 1}, "neither one that ComfyUI's browser saves nor one in its API format"),
                              ({"1": {"class_type": "Nope", "inputs": {}}}, "nodes that ComfyUI does not know: Nope")):
        with pytest.raises(HostError, match=sentence):
            Workflow(content, asked.object_info())


# -- what is told of a picture --------------------------------------------------------------------------------------------


def known_of(prompt: Json, asked: Client, files: int, texts: Callable[[str, str], list[Any]]) -> list[Json]:
    """What is known of the pictures of a run in which the output of a node of this type has these texts."""
    taps = Taps(prompt, asked.object_info())
    (saved,) = nodes_of(prompt, "SaveImage")
    outputs: Json = {saved: {"images": [{"filename": str(number)} for number in range(files)]}}
    for tap in nodes_of(taps.prompt, "PreviewAny"):
        node, output = taps.prompt[tap]["inputs"]["source"]
        kind = taps.prompt[node]["class_type"]
        outputs[tap] = {"text": [str(text) for text in texts(node, asked.object_info()[kind]["output_name"][output])]}
    return [known for _, known in taps.told(Run("", 1.0, outputs=outputs))]


def figures_of(*values: float | None) -> str:
    names = ("background_psnr", "worst_block", "seam", "colour_shift")
    return json.dumps({"pictures": [dict.fromkeys(names, value) for value in values]})


def test_every_picture_has_its_own_score_seed_and_figures(asked):
    prompt = asked.prompt(workflow("blended_latent_edit"))
    (part,), (restore,) = nodes_of(prompt, "LatentFromBatch"), nodes_of(prompt, "DecoderFinetuneReconstruct")
    texts = {"seeds": [11, None, 13, 14], "order": [2, 0, 1, 3], "scores": [0.9, 0.5, 0.4, 0.3]}

    def of(node: str, output: str) -> list[Any]:
        return texts.get(output, [figures_of(1, 2) if node.startswith("edit_") else output])

    prompt[part]["inputs"] |= {"batch_index": 0, "length": 2}
    first, second = known_of(prompt, asked, 2, of)
    assert (first["score"], first["candidate_seed"], first["seam"]) == (0.9, 13, 1) and (second["score"], second["candidate_seed"]) == (0.5, 11)
    assert first["report"] == "report\n\nreport", "of the ranking and of the reconstruction"
    prompt[part]["inputs"]["batch_index"] = 1
    first, second = known_of(prompt, asked, 2, of)
    assert first["candidate_seed"] == 11 and second["score"] == 0.4 and "candidate_seed" not in second
    assert known_of(prompt, asked, 3, of) == [{"report": "report\n\nreport"}] * 3, "which is which is not known"
    prompt[restore]["inputs"]["samples"] = [nodes_of(prompt, "BlendedLatentKSampler")[0], 0]
    assert [known.get("candidate_seed") for known in known_of(prompt, asked, 4, lambda node, output: of(node, output) if output != "report" else [
        figures_of(1, 2, None, 4)])] == [11, None, 13, 14]


def test_no_seed_is_told_where_the_candidate_is_not_known(asked):
    texts = {"seeds": [11, 12], "order": [0], "scores": [0.7]}

    def of(node: str, output: str) -> list[Any]:
        return texts.get(output, [figures_of(3)])

    machines = asked.prompt(workflow("many_machines"))
    (known,) = known_of(machines, asked, 1, of)
    assert known["score"] == 0.7 and "candidate_seed" not in known and "seam" not in known, "it may be that of another machine"
    other = asked.prompt(workflow("blended_latent_edit"))
    (part,), (sampler,), (restore,) = (nodes_of(other, kind) for kind in ("LatentFromBatch", "BlendedLatentKSampler", "DecoderFinetuneReconstruct"))
    other["pick"] = {"class_type": "LatentFlip", "inputs": {"samples": [sampler, 0], "flip_method": "x-axis: vertically"}}
    other[part]["inputs"]["samples"] = ["pick", 0]
    (known,) = known_of(other, asked, 1, of)
    assert known["seam"] == 3 and not {"candidate_seed", "score"} & set(known), "who knows what that node does"


# -- the run ------------------------------------------------------------------------------------------------------------


def test_one_bad_picture_does_not_stop_the_others(server, quick, tmp_path, capsys):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    shutil.copy(FOX, pictures / "alpha.png")
    put_mask_beside(pictures, "beside")
    (pictures / "broken.png").write_bytes(FOX.read_bytes()[:3000])
    rows = [["image", "prompt", "seed", "client"], ["broken.png", "a pig", "1", ""], ["alpha.png", "a <b>pig</b>", "5", "Smith & Sons"],
            ["beside.png", "a <b>pig</b>", "5", ""], ["alpha.png", "a pig", "none", ""]]
    with (pictures / "rows.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)

    assert run_edit(server, pictures, out, quick) == 1
    said = capsys.readouterr().out
    assert "2 of 4 done" in said
    lines = re.findall(r"^  (\d)/4  (\w+)  (.+)  (\d+ (?:s|min)) left$", said, re.MULTILINE)
    assert [line[:2] for line in lines] == [("1", "broken"), ("2", "alpha"), ("3", "beside"), ("4", "alpha_2")]
    assert lines[0][2].startswith("failed: broken.png is not a picture") and re.fullmatch(r"\d+\.\d s", lines[1][2])
    assert lines[1][3] != "0 s" == lines[3][3], "two are left, and then none"
    table = figures(out)
    assert {name: row["status"] for name, row in table.items()} == {"broken": "failed", "alpha": "done", "beside": "done", "alpha_2": "failed"}
    assert "broken.png is not a picture" in table["broken"]["error"] and "seed is 'none', but must be a whole number" in table["alpha_2"]["error"]
    assert table["alpha"]["seed"] == table["alpha"]["candidate_seed"] == "5" and table["alpha"]["client"] == "Smith & Sons"
    assert float(table["alpha"]["background_psnr"]) > 100, "exact"

    one, other = (np.asarray(Image.open(out / f"{name}.png")) for name in ("alpha", "beside"))
    assert np.array_equal(one, other), "the mask in a file is the mask in the alpha channel"
    told = metadata(out / "alpha.png")
    assert told["edit"]["prompt"] == "a <b>pig</b>" and "decoder weights" in told["edit"]["report"]
    page = (out / "contact_sheet.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;pig" in page and "<b>" not in page and "is not a picture" in page
    assert "http" not in page and page.count("data:image/jpeg") == 5, "all pictures but the broken one are in the file"

    # Again: what is done stays, what has changed is made again.
    before = (out / "beside.png").stat().st_mtime_ns
    (pictures / "rows.csv").write_text("image,prompt,seed\nalpha.png,a turtle,5\nbeside.png,a <b>pig</b>,5\n")
    assert run_edit(server, pictures, out, quick) == 0
    assert "1 of 2 are done already" in capsys.readouterr().out
    assert (out / "beside.png").stat().st_mtime_ns == before and metadata(out / "alpha.png")["edit"]["prompt"] == "a turtle"


def test_a_workflow_in_the_api_format_takes_any_column(server, quick, tmp_path):
    shutil.copy(FOX, tmp_path / "fox.png")
    (tmp_path / "rows.jsonl").write_text('{"image": "fox.png", "strength": 0.5, "words": "a car"}\n')
    out = tmp_path / "out"
    settings = ("BlendedLatentKSampler.denoise=strength", "What you want to see inside the mask.text=words")
    assert run_edit(server, tmp_path / "rows.jsonl", out, quick.with_name("api.json"), *settings) == 0
    told = metadata(out / "fox.png")
    (sampler,) = nodes_of(told["prompt"], "BlendedLatentKSampler")
    assert told["prompt"][sampler]["inputs"]["denoise"] == 0.5 and "workflow" not in told
    assert "a car" in json.dumps(told["prompt"]) and nodes_of(told["prompt"], "SaveImage"), "the prompt is the user's, without what was added"
    assert (told["edit"]["strength"], told["edit"]["words"]) == (0.5, "a car")


@pytest.mark.parametrize(("rows", "own"), [
    ("image\nx/a.png", "x/a.png"), ("image\n{folder}/x/A.PNG", "x/A.PNG"), ("image,mask\na.png,x/a.png", "x/a.png"), ("image\na.png\nx/a/2.png", "x/a/2.png"),
    ("image,other\na.png,x/a.png", "x/a.png"), ("image\nlink.png\na.png", "x/a.png"),
])
def test_results_never_take_the_place_of_a_file_of_a_job(tmp_path, rows, own):
    for name in {own, "a.png"}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(FOX, tmp_path / name)
    (tmp_path / "link.png").symlink_to(tmp_path / own)
    (tmp_path / "rows.csv").write_text(rows.format(folder=tmp_path) + "\n")
    with pytest.raises(HostError, match=r"(link|a|A|2)\.(png|PNG) is a picture to edit, and a result in --out .*x would take its place"):
        edit(options("http://127.0.0.1:1", tmp_path / "rows.csv", tmp_path / "x", "smallest_graph"))
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == [Path(own).parts[1]]


def test_results_are_refused_in_the_folder_of_the_sources(tmp_path):
    shutil.copy(FOX, tmp_path / "fox.png")
    with pytest.raises(HostError, match="--out is the folder of the sources"):
        edit(options("http://127.0.0.1:1", tmp_path, tmp_path, "smallest_graph"))
    assert (tmp_path / "fox.png").read_bytes() == FOX.read_bytes()


def test_only_unfinished_files_of_the_command_are_removed(tmp_path):
    for name in ("users.part", "users.png.part", "ours.png.bld-part"):
        (tmp_path / name).touch()
    Results(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["users.part", "users.png.part"]


def test_a_picture_that_is_too_large_fails_alone(server, inverting, tmp_path, monkeypatch):
    Image.new("L", (64, 64), 200).save(tmp_path / "fine.png")
    Image.new("L", (300, 200), 200).save(tmp_path / "big.png")
    out = tmp_path / "out"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    assert run_edit(server, tmp_path, out, inverting) == 1
    table = figures(out)
    assert {name: row["status"] for name, row in table.items()} == {"fine": "done", "big": "failed"} and "60000 pixels" in table["big"]["error"]
    assert "60000 pixels" in (out / "contact_sheet.html").read_text(encoding="utf-8")


@pytest.mark.skipif(os.name == "nt", reason="no file has such a name there")
def test_a_name_cannot_write_to_the_terminal(server, inverting, tmp_path, capsys):
    (tmp_path / "a\x1b]0;x\x07\u202e.png").touch()
    assert run_edit(server, tmp_path, tmp_path / "out", inverting) == 1
    said, failures = capsys.readouterr()
    assert "  1/1  a\\x1b]0;x\\x07\\u202e  failed: " in said and failures.startswith("  failed: a\\x1b]0;x\\x07\\u202e: ")
    assert not {"\x1b", "\x07", "\u202e"} & set(said + failures)


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="this system refuses such names itself")
def test_a_picture_of_any_name_is_edited(server, inverting, tmp_path):
    """Quotes, line breaks and control characters, and bytes that are no text at all."""
    names = ['a "b"; c.png', "a\r\nb.png", "a\x1b[2Jb.png", os.fsdecode(b"a\xffb.png"), "%s {0} ${x}.png"]
    for name in names:
        shutil.copy(FOX, tmp_path / name)
    assert run_edit(server, tmp_path, tmp_path / "out", inverting) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == sorted(names)


def test_a_score_is_that_of_the_chosen_candidate(server, asked, tmp_path):
    example = Workflow(workflow("blended_latent_edit"), asked.object_info())
    (sampler,), (restore,) = (nodes_of(example.prompt, kind) for kind in ("BlendedLatentKSampler", "DecoderFinetuneReconstruct"))
    (part,) = nodes_of(example.prompt, "LatentFromBatch")
    prompt, _ = example.filled({(sampler, "steps"): 2, (sampler, "candidates"): 3, (restore, "method.iterations"): 1, (part, "length"): 2})
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    shutil.copy(FOX, tmp_path / "fox.png")
    assert run_edit(server, tmp_path, tmp_path / "out", tmp_path / "w.json") == 0
    told = [metadata(tmp_path / "out" / name)["edit"] for name in ("fox.png", "fox/2.png")]
    for place, one in enumerate(told, 1):
        assert re.search(rf"{place}\. candidate \d: {one['score']:.4f}", one["report"])
    assert told[0]["candidate_seed"] != told[1]["candidate_seed"]
    # Each of them alone is drawn again by its seed.
    (tmp_path / "rows.csv").write_text("image,seed\n" + "".join(f"fox.png,{one['candidate_seed']}\n" for one in told))
    prompt[sampler]["inputs"]["candidates"] = 1
    (tmp_path / "w.json").write_text(json.dumps(prompt))
    assert run_edit(server, tmp_path, tmp_path / "again", tmp_path / "w.json") == 0
    for name, one in zip(("fox", "fox_2"), told, strict=True):
        assert metadata(tmp_path / "again" / f"{name}.png")["edit"]["score"] == pytest.approx(one["score"], abs=1e-3)


def executed(server: Any) -> int:
    return server.log().count("Prompt executed in")


def test_killed_and_started_again_it_neither_repeats_nor_loses_one(host, server, quick, tmp_path):
    shutil.copy(FOX, tmp_path / "fox.png")
    count, out, before = 6, tmp_path / "out", executed(server)
    (tmp_path / "rows.csv").write_text("image,seed\n" + "".join(f"fox.png,{900 + number}\n" for number in range(count)))
    command = [sys.executable, "-m", "host.edit", f"--comfyui={host.comfyui}", f"--out={out}", f"--server={server.url}", f"--workflow={quick}",
               str(tmp_path / "rows.csv")]
    first = subprocess.Popen(command, cwd=ROOT, env=host.environment(ROOT), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    done = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert 0 < len(done) < count
    (out / "fox_9.png.bld-part").write_bytes(b"half a pict")
    assert subprocess.run(command, cwd=ROOT, env=host.environment(ROOT)).returncode == 0
    made = sorted(path.name for path in out.iterdir() if path.suffix == ".png")
    assert len(made) == count and not list(out.glob("*.bld-part"))
    assert {name: (out / name).read_bytes() for name in done} == done
    assert {metadata(out / name)["edit"]["seed"] for name in made} == set(range(900, 900 + count))
    assert executed(server) - before == count, "each was carried out once"


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_neither_repeats_nor_loses_one(host, server, inverting, tmp_path, moment):
    out, before, noise = tmp_path / "out", executed(server), np.random.default_rng(sum(map(ord, moment)))
    pixels = {name: 255 * noise.integers(0, 2, (64, 64, 3), np.uint8) for name in "abc"}
    for name, values in pixels.items():
        Image.fromarray(values).save(tmp_path / f"{name}.png")
    command = [sys.executable, ROOT / "tests" / "dying_edit.py", moment, "--comfyui=none", f"--out={out}", f"--server={server.url}", f"--workflow={inverting}",
               str(tmp_path)]
    assert subprocess.run(command, cwd=ROOT, env=host.environment(ROOT), stdout=subprocess.DEVNULL).returncode == 9
    assert not (out / "figures.csv").exists(), "it was not done"
    assert run_edit(server, tmp_path, out, inverting) == 0
    for name, values in pixels.items():
        assert np.array_equal(np.asarray(Image.open(out / f"{name}.png")), 255 - values)
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "b.png", "c.png", "contact_sheet.html", "figures.csv"]
    assert [row["status"] for row in figures(out).values()] == ["done"] * 3 and (out / "contact_sheet.html").read_text().count("<img") == 6
    deadline = time.monotonic() + 10
    while executed(server) - before < 3 and time.monotonic() < deadline:
        time.sleep(0.1)  # the server logs a prompt a moment after its result is there
    assert executed(server) - before == 3, "each was carried out once"


def test_the_command_line_edits_a_folder_on_a_server_of_its_own(host, tmp_path):
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    pictures.mkdir()
    shutil.copy(FOX, pictures / "alpha.png")
    put_mask_beside(pictures, "beside")
    (pictures / "rows.jsonl").write_text("".join(json.dumps({"image": f"{name}.png", "steps": 1, "fit": 1}) + "\n" for name in ("alpha", "beside")))
    command = [sys.executable, ROOT / "run.py", "edit", f"--comfyui={host.comfyui}", f"--python={sys.executable}", "--workflow=smallest_graph",
               "--set=BlendedLatentKSampler.steps=steps", "--set=DecoderFinetuneReconstruct.method.iterations=fit", pictures, f"--out={out}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^  1/2  alpha  \d.* left$", done.stdout, re.MULTILINE) and "2 of 2 done" in done.stdout
    assert sorted(path.name for path in out.iterdir()) == ["alpha.png", "beside.png", "contact_sheet.html", "figures.csv"]
    one, other = (np.asarray(Image.open(out / f"{name}.png")) for name in ("alpha", "beside"))
    assert np.array_equal(one, other)
    example = json.dumps(workflow("smallest_graph"))
    for row in figures(out).values():
        assert row["status"] == "done" and row["seed"] == row["candidate_seed"] != ""
        assert row["prompt"] and json.dumps(row["prompt"]) in example, "what no column says is as the example has it"


@pytest.mark.skipif(os.name == "nt", reason="uses POSIX limits")
def test_a_full_disk_stops_it_with_one_sentence_and_nothing_half_written(server, quick, tmp_path):
    shutil.copy(FOX, tmp_path / "fox.png")
    (tmp_path / "rows.csv").write_text("image,seed\nfox.png,950\nfox.png,951\nfox.png,952\n")
    out = tmp_path / "out"
    with no_room(10_000), pytest.raises(HostError, match=r"fox\.png could not be written: "):
        run_edit(server, tmp_path, out, quick)
    assert list(out.iterdir()) == []
    assert run_edit(server, tmp_path, out, quick) == 0
    assert len(list(out.glob("*.png"))) == 3


def test_whoever_takes_a_prompt_off_the_queue_is_told_of(asked, quick, monkeypatch):
    monkeypatch.setattr(line, "ASK", 0.2)
    prompt = json.loads(quick.with_name("api.json").read_text())
    (sampler,) = nodes_of(prompt, "BlendedLatentKSampler")

    def send(job: str) -> str:
        prompt[sampler]["inputs"] |= {"seed": len(job), "steps": 400 if job == "cancelled" else 2}
        prompt_id = asked.queue(prompt)
        if job == "deleted":
            asked.post("/queue", {"delete": [prompt_id]})
            deadline = time.monotonic() + 60
            while any(asked.queued()) and time.monotonic() < deadline:
                asked.interrupt()  # again, since a prompt that is just starting forgets it
                time.sleep(0.1)
        return prompt_id

    outcomes = dict(line.carry_out(asked, ["cancelled", "deleted", "sound"], send))
    assert isinstance(outcomes["cancelled"], Interrupted) and "took it off ComfyUI's queue" in str(outcomes["deleted"])
    assert isinstance(outcomes["sound"], Run)


def test_three_prompts_are_in_the_queue_at_most():
    queued: list[str] = []

    class Quick:
        """A client of a server that carries out a prompt as soon as it is asked for."""

        def finished(self, prompt_id: str) -> Run:
            queued.remove(prompt_id)
            return Run(prompt_id, 0.0)

    def send(number: int) -> str:
        queued.append(str(number))
        assert len(queued) <= 3
        return str(number)

    for number, (job, outcome) in enumerate(line.carry_out(Quick(), range(20), send)):
        assert job == number and outcome.prompt_id == str(number)
        assert len(queued) == min(2, 19 - number), "the next one is queued before the caller gets the last"


def test_what_is_queued_goes_when_the_caller_stops(asked, quick):
    prompt = json.loads(quick.with_name("api.json").read_text())
    (sampler,) = nodes_of(prompt, "BlendedLatentKSampler")

    def send(seed: int) -> str:
        prompt[sampler]["inputs"] |= {"seed": seed, "steps": 2}
        return asked.queue(prompt)

    outcomes = line.carry_out(asked, range(2000, 2020), send)
    for _ in range(2):
        next(outcomes)
        assert sum(map(len, asked.queued())) <= 3, "it never queues all of them"
    outcomes.close()
    assert asked.queued() == ([], []), "whoever starts again at once finds none that is dying"


def test_a_result_dropped_on_the_canvas_opens_its_graph(ui, server, quick, tmp_path):
    shutil.copy(FOX, tmp_path / "fox.png")
    (tmp_path / "rows.csv").write_text("image,prompt,seed\nfox.png,a rocket,41\n")
    assert run_edit(server, tmp_path, tmp_path / "out", quick) == 0
    ui.open()
    ui.page.evaluate("""async data => {
        const bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0))
        await app.handleFile(new File([bytes], 'fox.png', {type: 'image/png'}))
    }""", base64.b64encode((tmp_path / "out" / "fox.png").read_bytes()).decode())
    ui.page.wait_for_function("() => app.graph.nodes.length > 0")
    sent = {node: (entry["class_type"], entry["inputs"]) for node, entry in ui.prompt().items()}
    assert sent == {node: (entry["class_type"], entry["inputs"]) for node, entry in metadata(tmp_path / "out" / "fox.png")["prompt"].items()}
