"""The edits that the benchmarks make: held-out scenes and wordings, an object that the scene does not show, strokes and blobs as masks."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from demo.train import data, stroke_judge
from demo.train.wording import HELD_OUT_WORDINGS, article

WIDTHS = (*stroke_judge.WIDTHS, 0)


@dataclass(frozen=True)
class Case:
    """One edit: held-out picture uint8 (128, 128, 3), mask bool (128, 128), width of the stroke in pixels (0: a blob), the kind that
    the prompt names, and which kinds neither prompt nor picture show, bool (24,)."""

    source: np.ndarray
    mask: np.ndarray
    width: int
    kind: int
    prompt: str
    absent: np.ndarray


def case(index: int) -> Case:
    """Edit ``index``; its picture does not show its kind, and its wording was never trained."""
    rng = np.random.default_rng((97, index))
    scene = data.plan("test", index)
    absent = ~np.isin(np.arange(len(data.KIND_NAMES)), [i.kind for i in scene.items])
    kind = int(rng.choice(np.flatnonzero(absent)))
    absent[kind] = False
    wording = HELD_OUT_WORDINGS[int(rng.integers(len(HELD_OUT_WORDINGS)))].replace(" {b}", "")
    width = WIDTHS[index % len(WIDTHS)]
    prompt = wording.format(s=article(data.KIND_NAMES[kind]))
    return Case(data.render(scene), stroke_judge.mask_of(rng, width), width, kind, prompt, absent)


def cases(first: int, count: int, widths: Collection[int] = WIDTHS) -> list[Case]:
    """The edits from ``first`` on with masks of these widths, each width as often."""
    found = (one for one in map(case, itertools.count(first)) if one.width in widths)
    return list(itertools.islice(found, count))


def seed_of(first: int, index: int) -> int:
    """Far enough apart for the seeds of all candidates."""
    return 10 * first + 100 * index


def width_name(width: int) -> str:
    """As the tables call it."""
    return f"{width} px" if width else "blobs"


def mask_of(case: Case) -> torch.Tensor:
    """The mask at picture size, (1, H, W)."""
    return torch.from_numpy(case.mask).float()[None]


def as_picture(pixels: np.ndarray) -> torch.Tensor:
    """uint8 (H, W, 3) as the pack's metrics want it, (1, 3, H, W) in 0..1."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
