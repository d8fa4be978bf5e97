"""The surroundings of a mask: all that a reconstruction has to look at."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

Box = tuple[slice, slice]


def depth(region: Tensor) -> Tensor:
    """How many pixels each is from the nearest one that is not in the region, 0 for those: (B, H, W) of bool -> float32 on the CPU.

    Infinite where there is none: the frame's edge is no edge of the region.
    """
    # Without a pixel outside there is no distance to it, and scipy returns nonsense.
    depths = [distance_transform_edt(one) if not one.all() else np.full(one.shape, np.inf) for one in region.cpu().numpy()]
    return torch.from_numpy(np.stack(depths).astype(np.float32))


def nearby(m: Tensor, ring: int) -> Tensor:
    """1 where m > 0 and on the `ring` pixels around, else 0: (B, H, W) -> (B, 1, H, W)."""
    return (depth(~(m > 0)) <= ring).to(m)[:, None]


@dataclass(frozen=True)
class Tile:
    """Part of a picture: the pixels that are wanted, and the cells that a decoder's tail must see to draw them."""

    pixels: Box
    cells: Box
    halo: tuple[int, int, int, int]


def tiles_over(wanted: Tensor, size: int, scale: int, reach: int) -> list[Tile]:
    """Tiles of at most size x size pixels, in whole cells, that together cover what is wanted. None where nothing is.

    wanted: (H, W) of bool. scale: pixels a cell. reach: how many cells around them the tail must see, as far as the frame goes.
    """
    if not wanted.any():
        return []
    spans = [span(wanted.any(axis), scale) for axis in (1, 0)]
    rows, columns = (parts(*cells, max(1, size // scale)) for cells in spans)
    frame = [side // scale for side in wanted.shape]
    tiles = (tile((row, column), frame, scale, reach) for row in rows for column in columns)
    return [one for one in tiles if wanted[one.pixels].any()]


def span(used: Tensor, scale: int) -> tuple[int, int]:
    """The first cell and the one after the last."""
    places = used.nonzero()[:, 0]
    return int(places[0]) // scale, int(places[-1]) // scale + 1


def parts(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    """A stretch in equal parts of at most `size`."""
    count = -(-(stop - start) // size)
    edges = [start + (stop - start) * i // count for i in range(count + 1)]
    return list(zip(edges, edges[1:], strict=False))


def tile(wanted: tuple[tuple[int, int], ...], frame: list[int], scale: int, reach: int) -> Tile:
    """The tile whose pixels fill these cells."""
    pixels, cells, halo = [], [], []
    for (start, stop), length in zip(wanted, frame, strict=True):
        first, last = max(0, start - reach), min(length, stop + reach)
        pixels.append(slice(start * scale, stop * scale))
        cells.append(slice(first, last))
        halo += [start - first, last - stop]
    return Tile(tuple(pixels), tuple(cells), tuple(halo))
