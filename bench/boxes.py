"""Edits in broad boxes by the demo model: how often the object shows, and how visible the edge of the box is, by how the mask starts.

``python run.py bench boxes [--quick] [--development] [--json FILE]``.

The edits are those of bench/look.py, on other scenes: a box that cuts through no object, and a kind of object that the scene does not show. All
methods get the same edits, start noise, steps and guidance, and draw one candidate of each. The seam is that of the decoded edit along the edge of
the sampled area, beyond the step that the decoded source has there, in levels of 255.

The default inset was chosen by ``--development``, on scenes of another split.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from functools import partial
from typing import Any

import numpy as np

from bench import _table, edits
from bench._command import benchmark
from bench._nodes import half_precision, load, settings
from bench.demo_model import shows
from bench.edits import METHODS, PACK, PLAIN, Method
from bench.look import box_edits
from bench.shrinking import seam
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from demo.train import judge

TEST, DEVELOPMENT = 310000, 41000
INSETS = (0.1, 0.2, 0.3, 0.4)
TRIED: dict[str, Method] = {PLAIN: PACK[PLAIN]} | {
    f"inset {inset}": partial(edits.by_the_pack, **settings(ProgressiveMaskDilate) | {"inset": inset}) for inset in INSETS
}
BATCH = 10


def measured(tools: Any, referee: Any, found: list, seed: int, draw: Method) -> list[tuple[bool, float]]:
    """Of each edit, whether its object shows, and its seam."""
    (batch,) = edits.batches_of(tools.vae, tools.text, found, seed)
    pictures, sources = edits.decode(tools.vae, draw(tools.model, batch)), edits.decode(tools.vae, batch.z)
    return list(zip(shows(referee, pictures, [case.kind for case in found]), map(seam, pictures, sources, found), strict=True))


def answer(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The table and its figures."""
    split, first, methods = ("calibrate", DEVELOPMENT, TRIED) if options.development else ("test", TEST, METHODS)
    found = list(itertools.islice(box_edits(split, first), BATCH if options.quick else 6 * BATCH))
    rows, seams = {}, {}
    with half_precision():
        tools, referee = load(), judge.load()
        for name, draw in methods.items():
            start = time.monotonic()
            records = [one for i in range(0, len(found), BATCH) for one in measured(tools, referee, found[i : i + BATCH], first + i, draw)]
            hits, seams[name] = map(np.array, zip(*records, strict=True))
            rows[name] = {"shows": float(hits.mean()), "seam": float(seams[name].mean())}
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    for name, row in rows.items():
        less = seams[name] - seams[PLAIN]
        row |= {"beside no shrinking": float(less.mean()), "±": float(1.96 * less.std(ddof=1) / len(less) ** 0.5)}
    columns = dict(zip(("shows", "seam", "beside no shrinking", "±"), ("{:.1%}", "{:.2f}", "{:+.2f}", "{:.2f}"), strict=True))
    _table.show(f"{len(found)} edits in boxes, one candidate each", columns, {name: list(row.values()) for name, row in rows.items()})
    return rows


def main() -> None:
    """The command line."""
    benchmark(answer, quick=f"{BATCH} edits", development="the insets that were tried, on other scenes")


if __name__ == "__main__":
    main()
