"""Edits drawn by several processes at once, each with the tools of its own."""

from __future__ import annotations

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from bench._command import quiet
from bench._nodes import Tools, half_precision, load

# A GPU is shared badly, a CPU's cores well.
WORKERS = 1 if torch.cuda.is_available() else min(8, os.cpu_count() or 1)
OPTION = (WORKERS, f"processes that draw at once, {WORKERS} here")
Each = Callable[..., Iterator[Any]]


@contextmanager
def workers(count: int) -> Iterator[Each]:
    """A function that calls `measure(tools, ...)` with each row of its further arguments, as `map` does, in so many processes."""
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:

        def each(measure: Callable[..., Any], *columns: Iterable[Any]) -> Iterator[Any]:
            return pool.map(functools.partial(in_a_worker, measure), *columns)

        yield each


def in_a_worker(measure: Callable[..., Any], *edit: Any) -> Any:
    """What `measure` finds on one edit, in a process that keeps the tools."""
    with torch.inference_mode(), half_precision():
        return measure(tools_of_this_process(), *edit)


@functools.cache
def tools_of_this_process() -> Tools:
    """The tools, on one thread: two such processes draw more than one with two threads does."""
    quiet(1)
    return load()
