"""Finds what is to be edited: the pictures of a folder, or the rows of a table."""
from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from host import HostError

Row = dict[str, Any]

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
TABLES = {".csv", ".jsonl"}
MASK = "_mask"


@dataclass(frozen=True)
class Job:
    """One picture to edit. `name` is that of its result, without .png; `row` is what the table says, by column, without empty cells."""

    name: str
    image: Path
    mask: Path | None
    row: Row

    def beside(self, column: str) -> Path:
        """What a further column names, if it names a file."""
        return self.image.parent / str(self.row[column])

    def files(self) -> list[Path]:
        """The files that it names."""
        further = (self.beside(column) for column in self.row if column not in ("image", "mask"))
        return [path for path in (self.image, self.mask, *further) if path and os.path.isfile(path)]  # which answers for any text


def find_jobs(source: Path) -> list[Job]:
    """The jobs of a folder or a table (.csv, .jsonl), in order, each with a name of its own.

    A folder with one table in it is that table; without one, it is all its pictures. A mask that no cell names is the picture's
    name and `_mask`, where there is one. Raises HostError.
    """
    if not source.exists():
        raise HostError(f"{source} is not there: name a folder of pictures, or a table.")
    table = _table_in(source) if source.is_dir() else source
    rows = _rows(table) if table else [{"image": path.name} for path in _pictures_in(source)]
    folder = table.parent if table else source
    names: set[str] = set()
    masks_in = cache(_masks_in)
    jobs = [_job(row, folder, names, masks_in) for row in rows]
    if not jobs:
        raise HostError(f"{source} has no picture to edit.")
    return jobs


def _table_in(folder: Path) -> Path | None:
    tables = sorted(path for path in folder.iterdir() if path.suffix.lower() in TABLES)
    if len(tables) > 1:
        raise HostError(f"{folder} has {len(tables)} tables, {', '.join(path.name for path in tables)}: name the one to use in place of the folder.")
    return tables[0] if tables else None


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not _is_mask(path))


def _is_mask(path: Path) -> bool:
    return path.stem.casefold().endswith(MASK)


def _rows(table: Path) -> list[Row]:
    """The rows without their empty cells. Raises HostError for one that cannot be read or names no picture."""
    if table.suffix.lower() not in TABLES:
        raise HostError(f"{table} is not a table: it must end in {' or '.join(sorted(TABLES))}.")
    read = _from_csv if table.suffix.lower() == ".csv" else _from_lines
    rows = []
    for number, row in read(table):
        kept = {str(column): value for column, value in row.items() if value not in ("", None)}
        if not isinstance(kept.get("image"), str):
            raise HostError(f"Line {number} of {table.name} names no picture: it needs a column image.")
        rows.append(kept)
    return rows


def _from_csv(table: Path) -> Iterator[tuple[int, Row]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                if None in row:
                    raise HostError(f"Line {reader.line_num} of {table.name} has more cells than the first line: put texts with a comma in quotes.")
                yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise HostError(f"{table.name} is not a CSV file in UTF-8: {error}.") from None


def _from_lines(table: Path) -> Iterator[tuple[int, Row]]:
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise HostError(f"Line {number} of {table.name} is not JSON: {error}.") from None
            if not isinstance(row, dict):
                raise HostError(f"Line {number} of {table.name} is not an object such as {{\"image\": \"cat.png\", \"prompt\": \"a cat\"}}.")
            yield number, row


def _job(row: Row, folder: Path, names: set[str], masks_in: Callable[[Path], dict[str, Path]]) -> Job:
    image = folder / row["image"]
    mask = folder / str(row["mask"]) if "mask" in row else _mask_of(image, masks_in(image.parent))
    return Job(_free_name(image.stem, names), image, mask, row)


def _mask_of(image: Path, masks: dict[str, Path]) -> Path | None:
    name = image.stem + MASK
    return masks.get(name) or masks.get(name.casefold())


def _masks_in(folder: Path) -> dict[str, Path]:
    """The masks of a folder by their names without the ending, as they are and in lower case. Of several endings, the first counts."""
    if not folder.is_dir():
        return {}
    masks = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and _is_mask(path)]
    masks.sort(key=lambda path: path.suffix.lower(), reverse=True)
    return {path.stem.casefold(): path for path in masks} | {path.stem: path for path in masks}


def _free_name(stem: str, names: set[str]) -> str:
    """The stem, or with _2, _3 ... after it where it is taken. Upper and lower case count as the same, as they do on some disks."""
    name, number = stem, 1
    while name.casefold() in names:
        number += 1
        name = f"{stem}_{number}"
    names.add(name.casefold())
    return name
