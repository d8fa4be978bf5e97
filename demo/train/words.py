"""Captions to tokens: the host's CLIP tokenizer, with a compact table of the tokens that captions really use.

Row 0 of the table is the shared 'unknown' token; every other token of the 49408 is looked up as row 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from . import data

LENGTH = 77
START, END = 49406, 49407


@dataclass
class Vocabulary:
    """``ids``: token id of rows 1, 2, ...; ``row_of``: its inverse; ``cache``: word to rows."""

    ids: list[int]
    tokenizer: object
    row_of: dict[int, int] = field(default_factory=dict)
    cache: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.row_of = {token: row + 1 for row, token in enumerate(self.ids)}

    def rows(self, text: str) -> list[int]:
        """Rows of a caption without start, end and padding."""
        out: list[int] = []
        for word in text.split():
            if word not in self.cache:
                self.cache[word] = [self.row_of.get(t, 0) for t in tokens_of(self.tokenizer, word)]
            out += self.cache[word]
        return out

    def padded(self, rows: list[int]) -> np.ndarray:
        """Start, rows, end and end-padding, as the host lays them out: int64 (77,)."""
        out = np.full(LENGTH, self.row_of[END], np.int64)
        out[0] = self.row_of[START]
        out[1:1 + len(rows)] = rows[:LENGTH - 2]
        return out


def tokens_of(tokenizer: object, text: str) -> list[int]:
    """Token ids of a text without start and end."""
    return tokenizer(text)["input_ids"][1:-1]


def host_tokenizer() -> object:
    """The CLIP tokenizer that the host carries for SD1 models."""
    from comfy.sd1_clip import SDTokenizer

    return SDTokenizer().tokenizer


def vocabulary(sample: int = 20000) -> Vocabulary:
    """All tokens that occur in ``sample`` training captions."""
    tokenizer, words = host_tokenizer(), set()
    for i in range(sample):
        words.update(data.caption(data.plan("train", i), np.random.default_rng((1, i))).text.split())
    found = {t for w in words for t in tokens_of(tokenizer, w)}
    return Vocabulary(sorted(found | {START, END}), tokenizer)


def loosen(rows: list[int], rng: np.random.Generator, drop: float = 0.08, insert: float = 0.15) -> list[int]:
    """Replace or insert unknown tokens now and then, so that unseen words do not derail the model."""
    rows = [0 if rng.random() < drop / 3 else r for r in rows]
    if rows and rng.random() < insert:
        for _ in range(int(rng.integers(1, 3))):
            rows.insert(int(rng.integers(len(rows) + 1)), 0)
    return rows
