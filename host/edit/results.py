"""The results: PNG files, each with all that is known of it."""
from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from host import HostError
from host.client import Client
from host.edit.jobs import Job
from host.edit.pictures import UNREADABLE
from host.files import PART, whole

Json = dict[str, Any]


def spare_sources(folder: Path, jobs: Sequence[Job]) -> None:
    """Refuse a folder where a result would take the place of a file that a job names. Raises HostError."""
    names = {job.name.casefold() for job in jobs}  # some disks take upper and lower case for the same
    for file in (file for job in jobs for file in job.files()):
        for path in (file, file.resolve()):  # a link, and what it leads to
            if path.suffix.casefold() == ".png" and (_is_first(path, folder, names) or _is_further(path, folder, names)):
                raise HostError(f"{file} is a picture to edit, and a result in --out {folder} would take its place: name another folder.")


def _is_first(path: Path, folder: Path, names: set[str]) -> bool:
    return path.stem.casefold() in names and _is_same(path.parent, folder)


def _is_further(path: Path, folder: Path, names: set[str]) -> bool:
    return path.stem.isdigit() and path.parent.name.casefold() in names and _is_same(path.parent.parent, folder)


def _is_same(one: Path, other: Path) -> bool:
    return other.exists() and one.samefile(other)


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

    def path(self, name: str, number: int = 1) -> Path:
        """The result of a job, or a further picture that its workflow saved."""
        return self.folder / f"{name}.png" if number == 1 else self.folder / name / f"{number}.png"

    def record(self, name: str) -> Json | None:
        """What is written in a job's result, None if it isn't done."""
        return self._texts(name).get("edit")

    def is_done(self, name: str, prompt: Json) -> bool:
        """Whether the result of this prompt is there."""
        texts = self._texts(name)
        return "edit" in texts and texts.get("prompt") == prompt

    def write(self, name: str, client: Client, pictures: Sequence[tuple[Json, Json]], texts: Json) -> None:
        """Write a job's pictures, its own one last, each a file of the server with what is known of it. Raises HostError.

        `texts` go into the metadata as ComfyUI writes them, what is known into that under the key `edit`.
        """
        for number, (file, known) in reversed(list(enumerate(pictures, 1))):
            data = _with_texts(client.view(file), texts | {"edit": texts["edit"] | known})
            with whole(self.path(name, number)) as part:
                part.write_bytes(data)

    def _texts(self, name: str) -> Json:
        try:
            with Image.open(self.path(name)) as picture:
                return dict(_json_of(picture))
        except UNREADABLE:
            return {}


def _with_texts(data: bytes, texts: Json) -> bytes:
    """A picture as a PNG file with these texts in it. Raises HostError."""
    info = PngInfo()
    for key, value in texts.items():
        info.add_text(key, json.dumps(value))
    # Not straight into the file: where the disk gets full, Pillow may write half of it and say nothing.
    file = BytesIO()
    try:
        with Image.open(BytesIO(data)) as picture:
            picture.save(file, "PNG", pnginfo=info, compress_level=4)
    except UNREADABLE as error:
        raise HostError(f"The result could not be read: {error}") from None
    return file.getvalue()


def _json_of(picture: Image.Image) -> Iterator[tuple[str, Any]]:
    for key in ("prompt", "edit"):
        try:
            yield key, json.loads(picture.info[key])
        except (KeyError, TypeError, ValueError):
            continue
