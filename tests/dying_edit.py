"""python run.py edit, which dies at a moment of its work: dying_edit.py MOMENT, then what `python -m host.edit` takes."""
from __future__ import annotations

import csv
import os
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from host.client import Client
from host.edit import sheet
from host.edit.__main__ import main
from host.server import LOCAL


def die_in_second_call(owner: Any, name: str, last: Callable[..., None]) -> None:
    """`last` is what the second call of this function still does."""
    whole, calls = getattr(owner, name), []

    def call(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) < 2:
            return whole(*arguments, **named)
        last(whole, *arguments, **named)
        os._exit(9)

    setattr(owner, name, call)


def upload_half(_: Callable, client: Client, name: str, data: bytes, folder: str) -> None:
    def body():
        yield f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode() + data[:len(data) // 2]
        os._exit(9)

    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(2 * len(data))}
    LOCAL.open(urllib.request.Request(f"{client.url}/upload/image", body(), headers))


def write_half(whole: Callable, path: Path, data: bytes) -> None:
    whole(path, data[:len(data) // 2])


def do_it(whole: Callable, *arguments: Any) -> None:
    whole(*arguments)


def nothing(*_: Any) -> None:
    pass


MOMENTS = {
    "a picture is uploaded": (Client, "upload", upload_half),
    "prompts are in the queue": (Client, "queue", do_it),
    "a result is written": (Path, "write_bytes", write_half),
    "the sheet is written": (sheet, "_entry", nothing),
    "the table is written": (csv.DictWriter, "writerow", nothing),
}

if __name__ == "__main__":
    die_in_second_call(*MOMENTS[sys.argv.pop(1)])
    sys.exit(main())
