"""How often a thin stroke survives the way to latent size, and how the area of a blob fares; one table with the modes side by side.

``python run.py bench strokes [--json FILE]``. Needs no model and draws no random numbers.
Baselines: bilinear is what ComfyUI's samplers do, nearest is the authors' code.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench import _table
from bench._command import benchmark
from blended_latent_diffusion.bld import masks

CELLS = 4
WIDTHS = (1, 2, 4, 6, 8)
SIZES = tuple(CELLS * ratio + more for ratio in (8, 16, 32) for more in (0, 3))
KINDS = ("horizontal", "vertical", "diagonal", "curved")
RADII = (1.5, 3, 6, 12)
KERNEL = 15


def strokes(size: int, width: int, kind: str) -> Tensor:
    """One stroke of `width` pixels at every offset of a square picture: (size, size, size) of 0 and 1.

    What leaves the picture on one side comes in on the other, so that every offset counts once. Curved: a circle of the picture's width.
    """
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    offset = torch.arange(size)[:, None, None]
    match kind:
        case "horizontal":
            painted = (y - offset) % size < width
        case "vertical":
            painted = (x - offset) % size < width
        case "diagonal":
            painted = (((x - y - offset) % size + size / 2) % size - size / 2).abs() < width / 2**0.5
        case "curved":
            painted = (torch.hypot((x - offset).float(), y.float()) - size / 2).abs() < width / 2
    return painted.float()


def survival(mask: Tensor, mode: str) -> Tensor:
    """For each mask of a batch whether it leaves a trace, and whether every painted pixel has its cell on: (2, B) of booleans."""
    small = masks.resize(mask, (CELLS, CELLS), mode)
    whole = masks.kept(mask, small) == (mask > 0)
    return torch.stack([(small > 0).flatten(1).any(1), whole.flatten(1).all(1)])


def disks(ratio: int, radius: float) -> Tensor:
    """Disks of `radius` latent pixels, at 16 places between the corners of a latent pixel: (16, 32 · ratio, 32 · ratio)."""
    axis = torch.arange(32 * ratio) + 0.5
    places = torch.cartesian_prod(*[torch.arange(4) / 4 * ratio + 16 * ratio] * 2)
    return torch.stack([(torch.hypot(axis[:, None] - y, axis[None] - x) < radius * ratio).float() for y, x in places])


def growth(mask: Tensor, cells: int, mode: str) -> float:
    """The masked share of the latent over the painted share of the picture; 1 is neither grown nor shrunk."""
    return float(masks.resize(mask, (cells, cells), mode).mean() / mask.mean())


def survivors() -> dict[str, list[float]]:
    """The rows of the first table."""
    rows = {}
    for kinds in (KINDS[:2], *((kind,) for kind in KINDS[2:])):
        for size, width in itertools.product(SIZES, WIDTHS):
            drawn = torch.cat([strokes(size, width, kind) for kind in kinds])
            name = kinds[0] if len(kinds) == 1 else "axis-aligned"
            rows[f"{name}, {width} px wide, latent pixels of {size / CELLS:g} px"] = [
                share for mode in masks.RESIZE_MODES for share in survival(drawn, mode).float().mean(1).tolist()
            ]
    return rows


def grown() -> dict[str, list[float]]:
    """The rows of the second table."""
    return {
        f"radius {radius:g}, latent pixels of {ratio} px": [growth(disks(ratio, radius), 32, mode) for mode in masks.RESIZE_MODES]
        for ratio in (8, 16) for radius in RADII
    }


def shifted(mask: Tensor, kernel: int) -> Tensor:
    """Square dilation by kernel² shifts, the baseline of `masks.dilate`."""
    height, width = mask.shape[-2:]
    wide = F.pad(mask, [kernel // 2] * 4)
    result = mask.clone()
    for y in range(kernel):
        for x in range(kernel):
            torch.maximum(result, wide[..., y : y + height, x : x + width], out=result)
    return result


def seconds(call: Callable[..., Tensor], *arguments: object) -> float:
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def dilation(kernel: int) -> float:
    """The time of a dilation at video size over that of kernel² shifts; both run in turn, the best of five counts."""
    mask = torch.zeros(81, 90, 160)
    mask[:, ::7, ::11] = 1
    ours, theirs = (min(times) for times in zip(*((seconds(masks.dilate, mask, kernel), seconds(shifted, mask, kernel)) for _ in range(5)), strict=True))
    return ours / theirs


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The tables and their figures."""
    kept, disk, ratio = survivors(), grown(), dilation(KERNEL)
    _table.show("stroke", {f"{mode}: {what}": "{:.1%}" for mode in masks.RESIZE_MODES for what in ("trace", "whole")}, kept)
    print("trace: any latent pixel of the stroke is on; whole: all are.\n")
    _table.show("disk: masked share of the latent over painted share of the picture", {mode: "{:.3f}" for mode in masks.RESIZE_MODES}, disk)
    print(f"\ndilation of 81 latent frames of 160x90, kernel {KERNEL}: {ratio:.3f} times the time of {KERNEL}² shifts")
    return {"strokes": kept, "disks": disk, "dilation": ratio}


def main() -> None:
    """The command line."""
    benchmark(answer)


if __name__ == "__main__":
    main()
