"""Where a mask should start wide: how often an edit shows in strokes, blobs and boxes, and the seam that shrinking leaves around the broad ones.

``python run.py bench shrinking [--quick | --development | --samplers] [--json FILE]``.

The edits, the sampling and the judge are those of bench/edits.py, on other scenes. The seam is that of the decoded edit along the edge of the
sampled area, beyond the step that the decoded source has there, in levels of 255. It is measured where the mask is broad.

``THIN`` was chosen by ``--development``, on edits of other scenes, masks and noises. ``--samplers`` shows the three ways with other samplers and
numbers of steps.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from bench import _table, edits
from bench._cases import WIDTHS, Case, as_picture, case, cases, width_name
from bench._command import benchmark
from bench._judge import against, interval, judged
from bench.edits import BASELINE, BEST, PAPER, Batch
from blended_latent_diffusion.bld import metrics
from demo.train import sheets, stroke_judge

TEST, DEVELOPMENT, SAMPLERS = 220000, 230000, 240000
STROKES, BROAD = WIDTHS[:-1], ("blobs", "boxes")
PLAIN = "pack: no shrinking"
THIN: dict[str, Any] = {"stages": 1, "growth": 3, "takeover": 0.95, "where": "thin parts", "thin": 2}
Method = Callable[[Any, Batch], torch.Tensor]
PACK: dict[str, Method] = {
    PLAIN: partial(edits.by_the_pack, stages=0),
    "pack: the paper's shrinking": partial(edits.by_the_pack, **PAPER),
    "pack: thin parts": partial(edits.by_the_pack, **THIN),
}
METHODS: dict[str, Method] = {
    BASELINE: edits.by_the_host,
    "host: DifferentialDiffusion": edits.by_differential_diffusion,
    **PACK,
    "pack: everywhere until 0.95": partial(edits.by_the_pack, **BEST),
}
SETTINGS = itertools.product((1, 2), (1, 2, 3), (0.9, 0.95), (1, 2, 3))
TRIED: dict[str, Method] = {
    PLAIN: PACK[PLAIN],
    **{
        f"stages {stages}, growth {growth}, takeover {takeover}, thin {thin}": partial(
            edits.by_the_pack, stages=stages, growth=growth, takeover=takeover, where="thin parts", thin=thin
        )
        for stages, growth, takeover, thin in SETTINGS if stages * growth <= 3
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


def measure(groups: dict[str, list[Case]], methods: dict[str, Method], first: int, **sampled: Any) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """For each method and group whether each edit shows, and its seam."""
    from demo import loader

    model, clip, vae = loader.load()
    referee, out = stroke_judge.load(), {}
    batches = {name: edits.batches_of(vae, clip, found, first, **sampled) for name, found in groups.items()}
    for method, draw in methods.items():
        start, out[method] = time.monotonic(), {}
        for name, found in groups.items():
            pictures = edits.decode(vae, torch.cat([draw(model, batch) for batch in batches[name]]))
            source = edits.decode(vae, torch.cat([batch.z for batch in batches[name]]))
            out[method][name] = {"hit": judged(referee, found, pictures)[0], "seam": np.asarray(list(map(seam, pictures, source, found)))}
        print(f"{method}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return out


def seam(picture: np.ndarray, source: np.ndarray, one: Case) -> float:
    """The seam of a decoded edit uint8 (H, W, 3) along the edge of the sampled area, beyond the decoded source's own."""
    sampled = stroke_judge.enlarge((stroke_judge.cells(one.mask) > 0).astype(np.float32))
    return metrics.seam(as_picture(picture), as_picture(source), torch.from_numpy(sampled)[None])


def joined(groups: dict[str, dict[str, np.ndarray]], what: str, names: Iterable[str]) -> np.ndarray:
    """What was measured on these groups, in one array."""
    return np.concatenate([groups[name][what] for name in names])


def figures(measured: dict[str, dict[str, dict[str, np.ndarray]]]) -> dict[str, dict[str, float]]:
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


def compare(measured: dict[str, dict[str, dict[str, np.ndarray]]]) -> None:
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


def over_samplers(count: int) -> dict[str, dict[str, float]]:
    """The pack's three ways with each sampler and number of steps."""
    rows = {}
    groups = groups_of(SAMPLERS, count, count // 4)
    for (sampler, scheduler), steps in itertools.product(SAMPLED, (4, 8, 20, 50)):
        measured = measure(groups, PACK, SAMPLERS, sampler=sampler, scheduler=scheduler, steps=steps)
        rows |= {f"{sampler}, {steps} steps, {name.removeprefix('pack: ')}": row for name, row in figures(measured).items()}
    show(rows)
    return rows


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The tables and their figures."""
    if options.samplers:
        return over_samplers(16 if options.quick else 80)
    first, methods = (DEVELOPMENT, TRIED) if options.development else (TEST, METHODS)
    count = 40 if options.quick else 120 if options.development else 400
    measured = measure(groups_of(first, count, count // 4), methods, first)
    rows = figures(measured)
    show(rows)
    if not options.development:
        print()
        compare(measured)
    return rows


def main() -> None:
    """The command line."""
    benchmark(answer, quick="few edits", development="the settings that were tried, on the edits on which they were chosen",
              samplers="other samplers and numbers of steps")


if __name__ == "__main__":
    main()
