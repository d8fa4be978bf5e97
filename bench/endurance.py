"""How hard the pack is to break: odd inputs, many edits in a row, interrupts, failing calls, killed servers and set-ups, and signals.

``python run.py bench endurance [--cases N] [--edits N] [--interrupts N] [--faults N] [--shortages N] [--kills N] [--setups N] [--signals]
[--json FILE]``. 0 leaves a part out.

Odd inputs: `bench/odd`. A case ends in a right result, in one sentence that names an input, or, where ComfyUI's own nodes take the same inputs no
better, as they do. Anything else is a finding; the command prints each one with its case. Most other parts run on real servers, which hold the pack,
the demo model, and a probe that tells what the server holds and makes calls fail. With any finding, of any part, the command ends with 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from bench import _table, _trials
from bench._command import benchmark
from bench._process import at_most
from bench.odd.cases import all_cases
from bench.odd.rules import BY_HOST, REFUSED, RIGHT
from bench.odd.survey import survey

# Of so many cases, what takes longest gets the fewest.
SHARES = dict.fromkeys(all_cases(), 6.0) | {
    "LatentMaskResize": 20, "ProgressiveMaskDilate": 20, "ApplyMaskSchedule": 12, "PruneCandidates": 12, "EditReport": 12, "DecoderFinetuneReconstruct": 2,
    "edit": 2, "pruned": 2, "any sampler": 3,
}  # fmt: skip


MEMORY = 20 * 2**30  # bytes that odd inputs may take; without a limit, what asks for more takes the machine down


def odd_inputs(count: int, seed: int) -> dict[str, Any]:
    """The table of the odd inputs."""
    endings = (RIGHT, REFUSED, BY_HOST, "findings")
    rows, all_found, total = {}, [], sum(SHARES.values())
    for name, share in SHARES.items():
        start = time.monotonic()
        with at_most(MEMORY):
            found, findings = survey(name, max(1, round(count * share / total)), seed)
        rows[name] = [sum(found.values()), *(found[ending] for ending in endings), time.monotonic() - start]
        all_found += findings
    rows["together"] = [sum(row[i] for row in rows.values()) for i in range(len(endings) + 2)]
    _table.show(f"odd inputs, seed {seed}", {"cases": "{}", **dict.fromkeys(endings, "{}"), "seconds": "{:.0f}"}, rows)
    return {"rows": rows, "findings": _trials.tell([f"{what}\n    {case}" for case, what in all_found])}


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """All parts that are asked for."""
    parts = {
        "odd inputs": lambda: options.cases and odd_inputs(options.cases, options.seed),
        "edits": lambda: options.edits and _trials.many_edits(options.edits),
        "broken edits": lambda: (options.interrupts or options.faults) and _trials.broken_edits(options.interrupts, options.faults, options.seed),
        "shortages": lambda: options.shortages and _trials.shortages(options.shortages, options.seed),
        "kills": lambda: options.kills and _trials.kills(options.kills, options.seed),
        "set-ups": lambda: options.setups and _trials.setups(options.setups, options.seed),
        "signals": lambda: options.signals and _trials.signals(options.seed),
    }
    figures = {}
    for name, part in parts.items():
        figures[name] = part() or None
        sys.stdout.flush()
    return figures


def main() -> None:
    """The command line."""
    figures = benchmark(
        answer,
        cases=(10000, "odd inputs"),
        edits=(300, "whole edits by two clients"),
        interrupts=(200, "edits that are interrupted"),
        faults=(100, "edits in which a call fails"),
        shortages=(50, "edits that run out of memory"),
        kills=(10, "servers that are killed"),
        setups=(0, "set-ups that are killed; they take gigabytes of downloads and of the temporary folder"),
        seed=(16, "another one gives other cases and moments"),
        signals="also end each command that starts a server by each signal",
    )
    sys.exit(any(part["findings"] for part in figures.values() if part))


if __name__ == "__main__":
    main()
