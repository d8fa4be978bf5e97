"""A process of its own for what is measured alone, and the memory that a process takes."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from unittest import mock

import psutil
import torch

T = TypeVar("T")
# For glibc, to give back what is freed. Else the peak depends on what the process happens to keep, and moves by 50 MiB.
TIDY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "MALLOC_ARENA_MAX": "1"}


def apart(function: Callable[..., T], *arguments: Any, environment: Mapping[str, str] | None = None) -> T:
    """What the function returns in a new process, which starts with these environment variables beside the present ones."""
    with mock.patch.dict(os.environ, environment or {}), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def held() -> int:
    """Bytes of main memory that this process holds."""
    return psutil.Process().memory_info().rss


@contextmanager
def peak() -> Iterator[list[int]]:
    """The most bytes that this process holds at once inside. Unlike the system's own count, it knows nothing of the parent's."""
    done, most = threading.Event(), [held()]

    def watch() -> None:
        while not done.wait(0.002):
            most[0] = max(most[0], held())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        done.set()
        watcher.join()


@contextmanager
def at_most(size: int, pid: int | None = None) -> Iterator[None]:
    """Inside, a process (this one without a pid) may take `size` bytes beyond what it has; more is an error there. Where the system has such limits."""
    process = psutil.Process(pid)
    if not hasattr(process, "rlimit"):
        yield
        return
    limits = process.rlimit(psutil.RLIMIT_AS)
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + size, limits[1]))
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_AS, limits)


@contextmanager
def spent() -> Iterator[list[int]]:
    """The most bytes that were taken inside beyond what was held before: of the GPU where there is one, else of main memory. Known at the end."""
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before, most = (torch.cuda.memory_allocated() if on_gpu else held()), [0]
    with peak() as held_most:
        yield most
    most[0] = (torch.cuda.max_memory_allocated() if on_gpu else held_most[0]) - before
