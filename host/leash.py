"""Runs a Python program that ends when the process that started it ends, even if that was killed: its stdin, a pipe, closes then.

``python leash.py SCRIPT ARGUMENTS`` or ``python leash.py -m MODULE ARGUMENTS``. Use `start`. Standard library only.
"""
from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


def start(python: Path | str, *arguments: Path | str, **options: Any) -> subprocess.Popen[Any]:
    """Starts a program on a leash. Close its `stdin` to end it, except on Windows with all its children. `options`: for Popen."""
    group = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if os.name == "nt" else {"start_new_session": True}
    return subprocess.Popen([str(python), __file__, *map(str, arguments)], stdin=subprocess.PIPE, **group, **options)


def watch(pipe: int) -> None:
    """End, with all children, when the pipe closes. Nobody writes to it."""
    while os.read(pipe, 1024):
        pass
    if os.name != "nt" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def main() -> None:
    """Run what the arguments name."""
    # The program and its children get an empty stdin: on Windows, a child that has this pipe waits for whoever reads it.
    pipe, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=watch, args=(pipe,), daemon=True).start()
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        sys.path[0] = os.getcwd()
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
