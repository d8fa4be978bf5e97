"""The tables that the benchmarks print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def show(title: str, columns: Mapping[str, str], rows: Mapping[str, Sequence[Any]]) -> None:
    """Print a table, numbers to the right and text to the left.

    columns: how to format the values of each, such as "{:.1%}", by heading. rows: their values by label; None leaves a place empty, and a
    short row leaves its end empty.
    """
    cells = [[title, *columns]]
    for label, values in rows.items():
        row = [template.format(value) if value is not None else "" for template, value in zip(columns.values(), values, strict=False)]
        cells.append([label, *row, *[""] * (len(columns) - len(row))])
    text = [True, *(all(isinstance(value, str | None) for value in column) for column in _columns(rows.values(), len(columns)))]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(f"{cell:{'<' if left else '>'}{width}}" for cell, left, width in zip(row, text, widths, strict=True)).rstrip(), flush=True)


def _columns(rows: Any, count: int) -> list[list[Any]]:
    """The values that each column has."""
    return [[row[i] for row in rows if i < len(row)] for i in range(count)]
