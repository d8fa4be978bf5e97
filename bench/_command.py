"""What all benchmarks do on the command line: arguments, quiet and repeatable computing, the clock, and figures as JSON."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import comfy.utils
import torch

from demo.train import common

T = TypeVar("T")


def benchmark(answer: Callable[[argparse.Namespace], T], **options: str | tuple[int | None, str] | dict[str, Any]) -> T:
    """Answer a benchmark's question: `answer` gets the options, prints its tables and returns its figures, which also go to the file after --json.

    options: the benchmark's own; a switch is given as its help, a whole number as its default and its help, anything else as argparse takes it.
    """
    parser = argparse.ArgumentParser(description=sys.modules[answer.__module__].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, told in options.items():
        parser.add_argument(f"--{name}", **as_argument(told))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    chosen = parser.parse_args()
    quiet()
    start = time.monotonic()
    with torch.inference_mode():
        figures = answer(chosen)
    print(f"{time.monotonic() - start:.0f} s{', quick sample' if getattr(chosen, 'quick', False) else ''}")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def as_argument(told: str | tuple[int | None, str] | dict[str, Any]) -> dict[str, Any]:
    """An option as argparse takes it."""
    if isinstance(told, str):
        return {"action": "store_true", "help": told}
    return told if isinstance(told, dict) else {"type": int, "default": told[0], "help": told[1]}


def quiet(threads: int = 0) -> None:
    """No progress bars, and the same figures in each run. threads: for torch; 0 leaves them as they are."""
    common.prepare(threads, 0)
    comfy.utils.set_progress_bar_enabled(False)
