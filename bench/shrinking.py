"""Where a mask should start wide: how often an edit shows in strokes, blobs and boxes, and the seam that shrinking leaves around the broad ones.

``python run.py bench shrinking [--quick] [--development | --samplers] [--json FILE]``.

The edits, the sampling and the judge are those of bench/edits.py, on other scenes. All but the judge runs in bfloat16 on a CPU that is quick at it.
The seam is that of the decoded edit along the edge of the sampled area, beyond the step that the decoded source has there, in levels of 255. It is
measured where the mask is broad.

The defaults were chosen by ``--development``, on edits of other scenes, masks and noises. ``--samplers`` shows the three ways with other samplers and
numbers of steps.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from bench import _table, edits
from bench._cases import WIDTHS, Case, as_picture, case, cases, width_name
from bench._command import benchmark
from bench._judge import against, interval, judged
from bench._nodes import Tools
from bench._workers import OPTION, Each, workers
from bench.edits import BASELINE, METHODS, PACK, PLAIN, Method
from blended_latent_diffusion.bld import metrics
from demo.train import sheets, stroke_judge

TEST, DEVELOPMENT, SAMPLERS = 260000, 230000, 240000
STROKES, BROAD = WIDTHS[:-1], ("blobs", "boxes")
Measured = dict[str, dict[str, np.ndarray]]
# (stages, growth, takeover, thin): reaches and numbers of stages first, then when the mask itself takes over, and what counts as thin.
SETTINGS = ((1, 1, 0.95, 2), (1, 2, 0.95, 2), (1, 3, 0.95, 2), (1, 4, 0.95, 2), (2, 1, 0.95, 2), (3, 1, 0.95, 2),
            (1, 3, 0.9, 2), (1, 3, 0.97, 2), (1, 3, 0.95, 1), (1, 3, 0.95, 3), (1, 2, 0.95, 3), (1, 2, 0.95, 4))
TRIED: dict[str, Method] = {
    PLAIN: PACK[PLAIN],
    **{
        f"stages {stages}, growth {growth}, takeover {takeover}, thin {thin}": partial(
            edits.by_the_pack, stages=stages, growth=growth, takeover=takeover, where="thin parts", thin=thin
        )
        for stages, growth, takeover, thin in SETTINGS
    },
}
SAMPLED = [("ddim", "normal"), ("euler", "normal"), ("dpmpp_2m", "karras"), ("lcm", "normal")]


def boxes(first: int, count: int) -> list[Case]:
    """Edits in broad boxes: those of blobs, with other masks and pictures."""
    rng = np.random.default_rng(first)
    blobs = (one for one in map(case, itertools.count(first)) if not one.width)
    return [replace(one, mask=sheets.box_mask(rng, 0.3, 0.6)) for one in itertools.islice(blobs, count)]


def groups_of(first: int, strokes: int, broad: int) -> dict[str, list[Case]]:
    """The edits by the shape of their masks. No two share a scene."""
    drawn = cases(first, strokes, STROKES)
    by_width = {width_name(width): [one for one in drawn if one.width == width] for width in STROKES}
    return by_width | dict(zip(BROAD, (cases(first + 3000, broad, (0,)), boxes(first + 6000, broad)), strict=True))


def measure(each: Each, groups: dict[str, list[Case]], methods: dict[str, Method], first: int, **sampled: Any) -> Measured:
    """For each method and group a record of each edit: whether it shows, and its seam."""
    parts = [(name, found[i : i + edits.BATCH], first + i) for name, found in groups.items() for i in range(0, len(found), edits.BATCH)]
    names, found, seeds = zip(*parts, strict=True)
    out = {}
    for method, draw in methods.items():
        start = time.monotonic()
        records = list(each(judged_edits, found, itertools.repeat(draw), seeds, itertools.repeat(sampled)))
        out[method] = {name: np.concatenate([part for one, part in zip(names, records, strict=True) if one == name]) for name in groups}
        print(f"{method}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return out


def judged_edits(tools: Tools, found: list[Case], draw: Method, first: int, sampled: dict[str, Any]) -> np.ndarray:
    """A record of each edit of a batch."""
    (batch,) = edits.batches_of(tools.vae, tools.text, found, first, **sampled)
    pictures, sources = edits.decode(tools.vae, draw(tools.model, batch)), edits.decode(tools.vae, batch.z)
    return np.rec.fromarrays([judged(tools.referee, found, pictures)[0], list(map(seam, pictures, sources, found))], names="hit,seam")


def seam(picture: np.ndarray, source: np.ndarray, one: Case) -> float:
    """The seam of a decoded edit uint8 (H, W, 3) along the edge of the sampled area, beyond the decoded source's own."""
    sampled = stroke_judge.enlarge((stroke_judge.cells(one.mask) > 0).astype(np.float32))
    return metrics.seam(as_picture(picture), as_picture(source), torch.from_numpy(sampled)[None])


def joined(groups: dict[str, np.ndarray], what: str, names: Iterable[str]) -> np.ndarray:
    """What was measured on these groups, in one array."""
    return np.concatenate([groups[name][what] for name in names])


def figures(measured: Measured) -> dict[str, dict[str, float]]:
    """The table: how often the edits show, by group, and the mean seam of the broad ones."""
    rows = {}
    for method, groups in measured.items():
        hits = {name: float(group["hit"].mean()) for name, group in groups.items()}
        seams = {f"seam, {name}": float(groups[name]["seam"].mean()) for name in BROAD}
        rows[method] = hits | {"strokes": float(joined(groups, "hit", map(width_name, STROKES)).mean())} | seams
    return rows


def show(rows: dict[str, dict[str, float]]) -> None:
    """Print the table."""
    columns = {heading: "{:.2f}" if heading.startswith("seam") else "{:.1%}" for heading in next(iter(rows.values()))}
    _table.show("shown in the mask", columns, {name: list(row.values()) for name, row in rows.items()})


def compare(measured: Measured) -> None:
    """Print what the differences are worth: intervals, and pairs with the host's noise mask and with no shrinking."""
    rows: dict[str, list[str]] = {}
    thin = {name: joined(groups, "hit", map(width_name, STROKES)) for name, groups in measured.items()}
    broad = {name: joined(groups, "hit", BROAD) for name, groups in measured.items()}
    seams = {name: joined(groups, "seam", BROAD) for name, groups in measured.items()}
    for name in measured:
        more = seams[name] - seams[PLAIN]
        rows[name] = [interval(thin[name]), against(thin[name], thin[BASELINE]), against(thin[name], thin[PLAIN]), against(broad[name], broad[PLAIN]),
                      f"{more.mean():+.2f} ± {1.96 * more.std(ddof=1) / len(more) ** 0.5:.2f}"]
    headings = ("strokes, 95 %", "against the host's mask", "against no shrinking", "broad, against no shrinking", "seam, broad, beyond no shrinking")
    _table.show("strokes and broad masks", dict.fromkeys(headings, "{}"), rows)
    print("pairs: edits that show here and not there, and the reverse (exact McNemar test); seam: mean difference and its 95 % interval.")


def over_samplers(each: Each, count: int) -> dict[str, dict[str, float]]:
    """The pack's three ways with each sampler and number of steps."""
    rows = {}
    groups = groups_of(SAMPLERS, count, count // 4)
    for (sampler, scheduler), steps in itertools.product(SAMPLED, (4, 8, 20, 50)):
        measured = measure(each, groups, PACK, SAMPLERS, sampler=sampler, scheduler=scheduler, steps=steps)
        rows |= {f"{sampler}, {steps} steps, {name.removeprefix('pack: ')}": row for name, row in figures(measured).items()}
    show(rows)
    return rows


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The tables and their figures."""
    with workers(options.workers) as each:
        if options.samplers:
            return over_samplers(each, 16 if options.quick else 24)
        first, methods = (DEVELOPMENT, TRIED) if options.development else (TEST, METHODS)
        count, broad = (40, 10) if options.quick else (120, 30) if options.development else (400, 50)
        measured = measure(each, groups_of(first, count, broad), methods, first)
    rows = figures(measured)
    show(rows)
    if not options.development:
        print()
        compare(measured)
    return rows


def main() -> None:
    """The command line."""
    benchmark(answer, quick="few edits", development="the settings that were tried, on the edits on which they were chosen",
              samplers="other samplers and numbers of steps", workers=OPTION)


if __name__ == "__main__":
    main()
