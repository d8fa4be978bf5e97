"""Runs a script that ends with the process that started it, however that one ended: then its end of the pipe to stdin closes.

``python leash.py SCRIPT ARGUMENTS``, with a pipe as stdin. Standard library only.
"""
from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def watch() -> None:
    """End, with all children, when stdin closes. Nobody writes to it."""
    sys.stdin.buffer.read()
    if os.name != "nt" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=watch, daemon=True).start()
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
