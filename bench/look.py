"""Uncurated pictures of the demo model for the eye, on held-out wordings, scenes and seeds: pictures from a prompt, and edits in a box.

``python run.py bench look [--quick] [--folder DIR] [--json FILE]``.

The first ones there are, none left out. An edit is what a user gets: four candidates by the pack's nodes as they are when new, the one that is
ranked first, its background reconstructed. Its box is drawn at random among those that cut through no object, as somebody would paint it: an
object lies in it as a whole or not at all. Each picture is also saved alone, named by its number, so that somebody who does not know the prompts
can say what it shows.

The sheets go to demo/samples, the single pictures to --folder. The figures are the judge's word on the same pictures.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from bench import _table
from bench._cases import Case, mask_of
from bench._command import benchmark
from bench._nodes import Tools, best_of, draw, half_precision, load
from bench.demo_model import scene_prompt, shows
from bench.pipeline import by_the_node
from bench.ranking import DEFAULT
from demo.train import data, judge, sampling, sheets
from demo.train.wording import article

TEST, CANDIDATES, TRIES = 300000, 4, 50


def whole_box(rng: np.random.Generator, scene: data.Plan) -> np.ndarray | None:
    """A random box, bool (H, W), that holds each object as a whole or not at all; None where none of some tries does."""
    for _ in range(TRIES):
        mask = sheets.box_mask(rng)
        parts = [mask[top:bottom, left:right] for left, top, right, bottom in map(data.box, scene.items)]
        if all(part.all() or not part.any() for part in parts):
            return mask
    return None


def box_edits(split: str = "test", first: int = TEST) -> Iterator[Case]:
    """Edits in a box of the split's scenes from this one on; each kind in turn, but for those that the scene shows."""
    kinds = itertools.cycle(range(len(data.KIND_NAMES)))
    for index in itertools.count(first):
        scene = data.plan(split, index)
        mask = whole_box(np.random.default_rng((96, index)), scene)
        if mask is None:
            continue
        shown = {item.kind for item in scene.items}
        kind = next(k for k in kinds if k not in shown)
        yield Case(data.render(scene), mask, 0, kind, article(data.KIND_NAMES[kind]), np.zeros(0, bool))


def edited(tools: Tools, case: Case, seed: int) -> np.ndarray:
    """What a user gets of an edit, uint8 (H, W, 3)."""
    latent = draw(tools, case, seed, CANDIDATES)
    best = best_of(tools, case, latent, tools.vae.decode(latent["samples"]), DEFAULT)
    with half_precision(False):
        picture = by_the_node(tools, case, best, mask_of(case))
    return (picture[0].numpy() * 255 + 0.5).astype(np.uint8)


def generated(tools: Tools, count: int) -> tuple[np.ndarray, list[int]]:
    """Pictures from held-out prompts, each kind in turn: uint8 (N, H, W, 3), and the kind that each prompt names."""
    prompts, kinds, *_ = zip(*(scene_prompt(TEST + i) for i in range(count)), strict=True)
    latents = [sampling.sample(tools.model, tools.text, [prompt], TEST + i) for i, prompt in enumerate(prompts)]
    return np.concatenate([sampling.decode(tools.vae, z) for z in latents]), list(kinds)


def save(folder: Path, name: str, pictures: list[np.ndarray]) -> None:
    """Each picture as a file of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures, 1):
        Image.fromarray(picture).save(folder / f"{name}_{i:02}.png")


def answer(options: argparse.Namespace) -> dict[str, float]:
    """The pictures, the sheets, and what the judge says."""
    count = 3 if options.quick else 30
    with half_precision():
        tools, referee = load(), judge.load()
        pictures, kinds = generated(tools, count)
        cases = list(itertools.islice(box_edits(), count))
        edits = [edited(tools, case, TEST + 100 * i) for i, case in enumerate(cases)]
    save(options.folder, "generation", list(pictures))
    save(options.folder, "edit", edits)
    if not options.quick:
        sheets.write("generation", sheets.grid(list(pictures), 8))
        sources = [sheets.outlined(case.source, case.mask) for case in cases]
        sheets.write("edits", sheets.grid([one for pair in zip(sources, edits, strict=True) for one in pair], 10))
    seen = {"generation": shows(referee, pictures, kinds), "edit in a box": shows(referee, np.stack(edits), [case.kind for case in cases])}
    figures = {name: float(hits.mean()) for name, hits in seen.items()}
    _table.show(f"{count} of each, uncurated", {"the judge sees the object": "{:.1%}"}, {name: [share] for name, share in figures.items()})
    return figures


def main() -> None:
    """The command line."""
    folder = {"type": Path, "default": Path("output/look"), "help": "where the single pictures go"}
    benchmark(answer, quick="3 of each, and no sheets", folder=folder)


if __name__ == "__main__":
    main()
