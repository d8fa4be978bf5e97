"""The parts of a picture that a reconstruction has to look at."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

Box = tuple[slice, slice]


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
