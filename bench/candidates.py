"""What many candidates cost: memory of 256 beside that of 8, and the time of a race in small chunks beside a single one.

``python run.py bench candidates [--rounds N] [--json FILE]``. Memory is the most that a process of its own holds while it draws the
candidates in chunks of 8, judges them near the end, keeps the best 8, decodes and ranks these, and reconstructs the best. The race is one of
16 candidates with the defaults of Prune Candidates; beside it, all 16 are drawn to their end. The rounds go through all sizes of chunk in turn; the
figures are the median of the rounds' ratios of processor time to a single chunk, and the number of predictions that the network was asked for.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch

from bench import _table
from bench._cases import Case, case
from bench._command import benchmark, quiet
from bench._nodes import Tools, best_of, draw, load, prunings
from bench._process import apart, peak
from bench.pipeline import by_the_node

EDIT, COUNTS, RACE, CHUNKS, STEPS, SEED = 190000, (8, 64, 256), 16, (16, 4, 2, 1), 20, 7
# Of a large batch: near the end each chunk is decoded and judged, and only the best are finished.
KEPT = 8
LATE = {"start": 0.75, "rounds": 1, "keep": 0.005, "at_least": KEPT}


def peak_memory(count: int) -> float:
    """MiB at most held by this process, which makes one edit from so many candidates."""
    quiet()
    with torch.inference_mode(), peak() as most:
        tools, edit = load(), case(EDIT)
        latent = draw(tools, edit, SEED, count, steps=10, chunk_size=KEPT, pruning=prunings(tools, edit, {"": LATE})[""])
        best = best_of(tools, edit, latent, tools.vae.decode(latent["samples"]), "box")
        by_the_node(tools, edit, best)
    return most[0] / 2**20


def race(tools: Tools, edit: Case, chunk: int, pruned: bool = True) -> tuple[float, int]:
    """Seconds of the processor for candidates in chunks of this size, and predictions that the network was asked for."""
    asked: list[int] = []
    hook = tools.model.model.diffusion_model.register_forward_pre_hook(lambda network, args: asked.append(len(args[0])))
    pruning = prunings(tools, edit, {"": {}})[""] if pruned else None
    start = time.process_time()
    draw(tools, edit, SEED, RACE, steps=STEPS, chunk_size=chunk, pruning=pruning)
    hook.remove()
    return time.process_time() - start, sum(asked)


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The tables and their figures."""
    memory = {count: apart(peak_memory, count) for count in COUNTS}
    rows = {str(count): [most, most / memory[COUNTS[0]]] for count, most in memory.items()}
    _table.show("candidates", {"peak MiB": "{:.0f}", f"/ {COUNTS[0]}": "{:.2f}"}, rows)
    tools, edit = load(), case(EDIT)
    races = {"race": True, "all": False}
    rounds = [{(name, chunk): race(tools, edit, chunk, pruned) for chunk in CHUNKS for name, pruned in races.items()} for _ in range(options.rounds + 1)][1:]
    times = {name: {chunk: {"ratio": statistics.median(one[name, chunk][0] / one[name, CHUNKS[0]][0] for one in rounds),
                            "predictions": rounds[0][name, chunk][1]} for chunk in CHUNKS} for name in races}  # fmt: skip
    columns = {f"{name}: {what}": form for name in races for what, form in (("time / one chunk", "{:.2f}"), ("predictions", "{}"))}
    rows = {str(chunk): [value for name in races for value in times[name][chunk].values()] for chunk in CHUNKS}
    _table.show(f"{RACE}, {STEPS} steps, chunks of", columns, rows)
    return {"memory": memory, "times": times}


def main() -> None:
    """The command line."""
    benchmark(answer, rounds=(3, "how often each is run"))


if __name__ == "__main__":
    main()
