"""Keeps a few prompts of ours in ComfyUI's queue, so that it never waits for us and nobody else waits long for it."""
from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

from host import HostError
from host.client import Answered, Client, ConnectionLost, Run

Json = dict[str, Any]
T = TypeVar("T")

LENGTH = 3
LOOK, ASK = 0.1, 5.0  # seconds between two looks at the history, and at the queue
PATIENCE = 10.0  # seconds for the step that is being computed


def carry_out(client: Client, jobs: Iterable[T], send: Callable[[T], str]) -> Iterator[tuple[T, Run | HostError]]:
    """Each job with its run, or with the error that befell it, in order. `send` queues a job's prompt and returns its id.

    At most LENGTH of them are in the queue at once. Those that are when the caller stops are taken off. Raises ConnectionLost.
    """
    waiting: deque[tuple[T, str | HostError]] = deque()
    rest = iter(jobs)
    try:
        while True:
            while len(waiting) < LENGTH and (job := next(rest, None)) is not None:
                waiting.append((job, _id(send, job)))
            if not waiting:
                return
            job, prompt_id = waiting[0]
            outcome = prompt_id if isinstance(prompt_id, HostError) else _outcome(client, prompt_id)
            waiting.popleft()
            yield job, outcome
    finally:
        with suppress(ConnectionLost):
            _take_off(client, [prompt_id for _, prompt_id in waiting if isinstance(prompt_id, str)])


def _id(send: Callable[[T], str], job: T) -> str | HostError:
    try:
        return send(job)
    except ConnectionLost:
        raise
    except HostError as error:
        return error


def _outcome(client: Client, prompt_id: str) -> Run | HostError:
    """What became of a queued prompt, when it is carried out."""
    asked = time.monotonic()
    try:
        while (run := client.finished(prompt_id)) is None:
            time.sleep(LOOK)
            if time.monotonic() - asked > ASK:
                asked = time.monotonic()
                if not client.is_queued(prompt_id) and client.finished(prompt_id) is None:
                    return HostError("Somebody took it off ComfyUI's queue.")
        return run
    except ConnectionLost:
        raise
    except HostError as error:
        return error


def _take_off(client: Client, prompt_ids: list[str]) -> None:
    """Cancel prompts, and wait for their end, else a run started right after would take a dying one for its own. Raises ConnectionLost."""
    deadline = time.monotonic() + PATIENCE
    while prompt_ids and time.monotonic() < deadline:
        for prompt_id in prompt_ids:
            with suppress(Answered):
                client.cancel(prompt_id)  # again and again, since ComfyUI forgets it for a prompt that is just starting
        time.sleep(LOOK)
        prompt_ids = [prompt_id for prompt_id in prompt_ids if client.is_queued(prompt_id)]
