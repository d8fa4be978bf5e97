"""A result: what the server is asked beside the picture, and the PNG file with all of it."""
from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from host import HostError
from host.client import Client, Run

Json = dict[str, Any]

RANK, RECONSTRUCT, SAMPLE, REPORT = "ClipRankBatch", "DecoderFinetuneReconstruct", "BlendedLatentKSampler", "EditReport"
FIGURES = ("background_psnr", "worst_block", "seam", "colour_shift")
PART = ".part"
# What a full or locked disk, or a limit on the user, answers to every file.
FULL = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class DiskFull(HostError):
    """A file could not be written, and no other can be."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that gets its name only when it is whole. Raises HostError, or DiskFull, and leaves no part of it then."""
    part = path.with_name(path.name + PART)
    try:
        path.parent.mkdir(exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        kind = DiskFull if error.errno in FULL else HostError
        raise kind(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            part.unlink()


class Taps:
    """A prompt with nodes added that tell what it does, and its pictures shown in place of saved on the server. Raises HostError."""

    def __init__(self, prompt: Json, object_info: Json) -> None:
        self._info = object_info
        self.prompt = {node: dict(entry) for node, entry in prompt.items()}
        self.saved = [node for node, entry in prompt.items() if entry["class_type"] == "SaveImage"]
        if not self.saved:
            raise HostError("The workflow saves no picture: end it with Save Image.")
        for node in self.saved:
            self.prompt[node] = {"class_type": "PreviewImage", "inputs": {"images": prompt[node]["inputs"]["images"]}}
        self._tell()

    def told(self, run: Run) -> Json:
        """What a run told: seed of the result, score, figures and reports, as far as its workflow has them."""
        texts = {name: run.outputs.get(f"edit_{name}", {}).get("text", []) for name in ("scores", "order", "seeds", "ranking", "reconstruction", *FIGURES)}
        result: Json = {name: round(float(texts[name][0]), 4) for name in FIGURES if texts[name]}
        if texts["scores"]:
            result["score"] = round(float(texts["scores"][0]), 4)
        if texts["seeds"]:
            place = int(texts["order"][0]) if texts["order"] else 0
            result["candidate_seed"] = json.loads(texts["seeds"][place]) if place < len(texts["seeds"]) else None
        reports = [*texts["ranking"], *texts["reconstruction"]]
        return result | ({"report": "\n\n".join(reports)} if reports else {})

    def _tell(self) -> None:
        """Nodes that show what the one ranker, sampler and reconstruction of the workflow give; of several it's unclear which to ask."""
        rank, sample, edit = (self._only(kind) for kind in (RANK, SAMPLE, RECONSTRUCT))
        if rank:
            self._show(rank, scores="scores", order="order", report="ranking")
        if sample:
            self._show(sample, seeds="seeds")
        if edit:
            self._show(edit, report="reconstruction")
            given = self.prompt[edit]["inputs"]
            self.prompt["edit_figures"] = {"class_type": REPORT, "inputs": {"source": given["image"], "edited": [edit, 0], "mask": given["mask"]}}
            self._show("edit_figures", **{name: name for name in FIGURES})

    def _only(self, kind: str) -> str | None:
        found = [node for node, entry in self.prompt.items() if entry["class_type"] == kind]
        return found[0] if len(found) == 1 else None

    def _show(self, node: str, **outputs: str) -> None:
        names = self._info[self.prompt[node]["class_type"]]["output_name"]
        for output, name in outputs.items():
            self.prompt[f"edit_{name}"] = {"class_type": "PreviewAny", "inputs": {"source": [node, names.index(output)]}}


class Results:
    """The folder of the results. What an earlier run left half-written is removed. Raises HostError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.rglob(f"*{PART}"):
                left.unlink()
        except OSError as error:
            raise HostError(f"--out is {folder}, but no results can be written there: {error.strerror or error}.") from error

    def path(self, name: str) -> Path:
        """The result of a job."""
        return self.folder / f"{name}.png"

    def record(self, name: str) -> Json | None:
        """What is written in a job's result, None if it isn't done."""
        return self._texts(name).get("edit")

    def is_done(self, name: str, prompt: Json) -> bool:
        """Whether the result of this prompt is there."""
        texts = self._texts(name)
        return "edit" in texts and texts.get("prompt") == prompt

    def write(self, name: str, client: Client, run: Run, taps: Taps, texts: Json) -> None:
        """Write a run's pictures, the job's own one last. `texts` go into its metadata as ComfyUI writes them. Raises HostError."""
        files = [file for node in taps.saved for file in client.images(run, node)]
        if not files:
            raise HostError("The workflow gave no picture.")
        info = PngInfo()
        for key, value in texts.items():
            info.add_text(key, json.dumps(value))
        for number, data in reversed(list(enumerate(files, 1))):
            path = self.path(name) if number == 1 else self.folder / name / f"{number}.png"
            # Not straight into the file: where the disk gets full, Pillow may write half of it and say nothing.
            file = BytesIO()
            with Image.open(BytesIO(data)) as picture:
                picture.save(file, "PNG", pnginfo=info, compress_level=4)
            with whole(path) as part:
                part.write_bytes(file.getbuffer())

    def _texts(self, name: str) -> Json:
        try:
            with Image.open(self.path(name)) as picture:
                return dict(_json_of(picture))
        except OSError:
            return {}


def _json_of(picture: Image.Image) -> Iterator[tuple[str, Any]]:
    for key in ("prompt", "edit"):
        try:
            yield key, json.loads(picture.info[key])
        except (KeyError, TypeError, ValueError):
            continue
