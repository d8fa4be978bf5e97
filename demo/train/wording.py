"""What is said of a scene: one of many wordings, drawn at random. The same words describe the scenes of both demo models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

WORDINGS: tuple[str, ...] = (
    "{s} {b}", "{s} {b}", "{s}, {b}", "a picture of {s} {b}", "a photo of {s} {b}", "an image of {s} {b}",
    "an illustration of {s} {b}", "{b}, {s}", "a drawing of {s} {b}", "there is {s} {b}",
)
# Never trained: the first two use known words in an unseen order, the others hold unseen words.
HELD_OUT_WORDINGS: tuple[str, ...] = (
    "a picture {b}, there is {s}", "{s}, an image of {s} {b}", "a lovely view of {s} {b}", "please show me {s} {b}",
)
BARE_WORDINGS: tuple[str, ...] = (
    "{s}", "{s}", "{s}", "a picture of {s}", "a photo of {s}", "an image of {s}", "an illustration of {s}",
    "a drawing of {s}", "there is {s}",
)
PLACE_WORDS: dict[str, tuple[str, ...]] = {
    "meadow": ("in a meadow", "on the grass", "on a green meadow under a blue sky", "in the grass"),
    "beach": ("on the beach", "on a beach", "on the sand by the sea", "at the beach"),
    "night": ("under a night sky", "at night", "in a starry night sky", "in front of the stars"),
    "snow": ("in the snow", "on a snowy field", "in snow", "on a winter day"),
    "sea": ("in the sea", "in the water", "on the water", "in the ocean"),
    "room": ("in a room", "in the living room", "inside the house", "in a room with a wooden floor"),
}
# Of patterns that are not worded in the usual two orders.
PATTERN_WORDS: dict[str, tuple[str, ...]] = {"plain": ("plain {c}", "{c}", "{c}"), "gradient": ("{c} gradient", "gradient {c}")}


class Item(Protocol):
    """One object: kind index, centre and side in pixels."""

    kind: int
    x: float
    y: float
    side: int


class Scene(Protocol):
    """Objects on a background, which is an index."""

    items: tuple[Item, ...]
    background: int


@dataclass(frozen=True)
class Caption:
    """A wording with what it says: the kinds it names, and whether it mentions the background."""

    text: str
    kinds: frozenset[int]
    bare: bool


@dataclass(frozen=True)
class Speaker:
    """Words scenes of some kinds and backgrounds.

    ``size`` is the side of a picture; an object with a side below ``small`` or above ``large`` may be called so, and one
    whose centre is less than ``middle`` off the picture's may be said to be in the middle; all in pixels.
    """

    kinds: tuple[str, ...]
    backgrounds: tuple[str, ...]
    size: int
    small: int
    large: int
    middle: int

    def caption(self, scene: Scene, rng: np.random.Generator, names: float = 0.3, bare: float = 0.3) -> Caption:
        """Word a scene. ``names``: chance to name one object only; ``bare``: chance to leave the background out."""
        where = self.background_words(scene.background, rng)
        if not scene.items:
            empty = pick(("{b}", "an empty scene {b}", "nothing {b}", "a picture {b}"), rng)
            return Caption(empty.format(b=where), frozenset(), False)
        items = [scene.items[i] for i in rng.permutation(len(scene.items))]
        if len(items) > 1 and rng.random() < names:
            items = items[:1]
        silent = bool(rng.random() < bare)
        text = pick(BARE_WORDINGS if silent else WORDINGS, rng).format(s=self._subject(items, rng), b=where)
        return Caption(text, frozenset(i.kind for i in items), silent)

    def background_words(self, background: int, rng: np.random.Generator) -> str:
        """One of several wordings of a background, beginning with a preposition."""
        name = self.backgrounds[background]
        if name in PLACE_WORDS:
            return pick(PLACE_WORDS[name], rng)
        pattern, colour = name.split(" ")
        behind = pick(("on", "on", "in front of", "over"), rng)
        ground = pick(("background", "background", "background", "wall"), rng)
        word = pick(PATTERN_WORDS.get(pattern, ("{p} {c}", "{c} {p}")), rng).format(c=colour, p=pattern)
        return f"{behind} {article(word)} {ground}"

    def _subject(self, items: list[Item], rng: np.random.Generator) -> str:
        phrases = [self._noun(item, rng) for item in items]
        if len(phrases) == 1:
            return phrases[0] + self._position(items[0], rng)
        link = pick((" and ", " and ", " next to ", " with "), rng)
        return (", ".join(phrases[:-1]) if link == " and " else " and ".join(phrases[:-1])) + link + phrases[-1]

    def _noun(self, item: Item, rng: np.random.Generator) -> str:
        name, draw = self.kinds[item.kind], rng.random()
        if draw < 0.15:
            return name
        if draw < 0.22:
            return f"the {name}"
        if draw < 0.37 and item.side < self.small:
            return f"{'' if name == 'grapes' else 'a '}small {name}"
        if draw < 0.37 and item.side > self.large:
            return f"{'' if name == 'grapes' else 'a '}{pick(('big', 'large'), rng)} {name}"
        return article(name)

    def _position(self, item: Item, rng: np.random.Generator) -> str:
        """Sometimes say where an off-centre object is."""
        if rng.random() > 0.25:
            return ""
        dx, dy = item.x - self.size / 2, item.y - self.size / 2
        if max(abs(dx), abs(dy)) < self.middle:
            return " in the middle"
        if abs(dx) > abs(dy):
            return " on the left" if dx < 0 else " on the right"
        return " at the top" if dy < 0 else " at the bottom"


def article(noun: str) -> str:
    """The noun with its indefinite article."""
    return noun if noun == "grapes" else f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def pick(options: tuple[str, ...], rng: np.random.Generator) -> str:
    """One of them."""
    return options[int(rng.integers(len(options)))]
