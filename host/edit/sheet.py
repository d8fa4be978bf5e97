"""The contact sheet: one HTML file with small pictures in it, which opens without a network."""
from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image, ImageOps

from host.edit.jobs import Job
from host.edit.pictures import UNREADABLE
from host.edit.results import Results
from host.files import whole

SIDE = 256  # of a small picture, in pixels
SHOWN = {"score": "score", "background_psnr": "background, dB", "seam": "seam", "candidate_seed": "seed"}
HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif }}
body {{ margin: 1.5rem }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(26rem, 1fr)); gap: 1.5rem }}
article {{ break-inside: avoid }}
h2 {{ font-size: 1rem; margin: 0 }}
p {{ margin: .2rem 0; overflow-wrap: anywhere }}
img {{ width: 48%; border: 1px solid #8886; image-rendering: auto }}
.failed {{ color: #c33; white-space: pre-wrap }}
</style>
<h1>{title}</h1>
<main>
"""


def write_sheet(path: Path, title: str, jobs: Sequence[Job], results: Results, failed: Mapping[str, str]) -> None:
    """Write source and result of all jobs side by side, with their texts and figures. `failed`: messages by the job's name. Raises HostError."""
    with whole(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(HEAD.format(title=escape(title)))
        for job in jobs:
            file.writelines(line + "\n" for line in _entry(job, results, failed.get(job.name)))
        file.write("</main></html>\n")


def _entry(job: Job, results: Results, failure: str | None) -> Iterator[str]:
    record = None if failure else results.record(job.name)
    yield f"<article><h2>{escape(job.name)}</h2>"
    yield _picture(job.image, "source")
    if record:
        path = results.path(job.name)
        yield f'<a href="{quote(os.fsencode(path.name))}">{_picture(path, "result")}</a>'
        yield from _lines(record)
    else:
        yield f'<p class="failed">{escape(failure or "not done")}</p>'
    yield "</article>"


def _lines(record: dict[str, Any]) -> Iterator[str]:
    if record.get("prompt"):
        yield f"<p>{escape(str(record['prompt']))}</p>"
    told = [f"{label} {record[key]}" for key, label in SHOWN.items() if record.get(key) is not None]
    yield f"<p>{escape(' · '.join(told))}</p>"


def _picture(path: Path, alt: str) -> str:
    """A small copy of a picture as an element, without its mask; nothing for one that cannot be read."""
    try:
        with Image.open(path) as picture:
            small = ImageOps.exif_transpose(picture).convert("RGB")
    except UNREADABLE:
        return ""
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = BytesIO()
    small.save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{alt}" width="{small.width}" height="{small.height}" src="data:image/jpeg;base64,{data}">'
