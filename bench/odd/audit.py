"""What a case does to the rest of the machine: connections, processes, and files outside of ComfyUI's temp folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import folder_paths

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
OUTSIDE = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.fork")
# Of these, the places of the paths among the arguments.
CHANGES = {"os.mkdir": (0,), "os.remove": (0,), "os.rmdir": (0,), "os.rename": (0, 1), "os.link": (1,), "os.symlink": (1,), "os.truncate": (0,)}
SEEN: list[list[str]] = []


@contextmanager
def audited() -> Iterator[list[str]]:
    """What happens inside that no node may do."""
    listen()
    SEEN.append([])
    try:
        yield SEEN[-1]
    finally:
        SEEN.pop()


@cache
def listen() -> None:
    """Python takes no audit hook back, so there is one for all cases."""
    sys.addaudithook(hear)


def hear(event: str, arguments: tuple[Any, ...]) -> None:
    """Notes an event while a case runs, in whatever thread."""
    if not SEEN:
        return
    paths = [arguments[place] for place in CHANGES.get(event, ())]
    if event == "open" and arguments[2] & WRITING:
        paths = [arguments[0]]
    if event in OUTSIDE or any(map(is_foreign, paths)):
        SEEN[-1].append(f"{event} {paths or arguments[:2]}")


def is_foreign(path: Any) -> bool:
    """Whether a path is none of ComfyUI's temp folder. Python may keep its bytecode anywhere."""
    if isinstance(path, int):
        return False
    whole = Path(os.path.abspath(os.fsdecode(path)))
    return "__pycache__" not in whole.parts and Path(folder_paths.get_temp_directory()).absolute() not in (whole, *whole.parents)
