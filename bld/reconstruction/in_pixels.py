"""The table of methods that work on the decoded picture. Add a row, and every user of the table has the method."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from torch import Tensor

from .colour import ColourFit, colour_fit
from .paste import paste
from .poisson import poisson

# (x_hat (B, C, H, W), x (B or 1, C, H, W), m (B or 1, H, W), frames, on_iteration, **settings) -> pictures (B, C, H, W) and remarks for a report.
# frames: of each video in the batch, one after the other, 1 for pictures; the frames of one source or its masks may stand for all videos.
# A method that iterates calls on_iteration at each iteration; what that raises ends the method.
InPixels = Callable[..., tuple[Tensor, list[str]]]


def _paste(x_hat: Tensor, x: Tensor, m: Tensor, frames: int, on_iteration: Callable[[], None], feather: int = 0) -> tuple[Tensor, list[str]]:
    return paste(x_hat, x, m, feather), []


def _colour_fit(x_hat: Tensor, x: Tensor, m: Tensor, frames: int, on_iteration: Callable[[], None], feather: int = 0) -> tuple[Tensor, list[str]]:
    picture, fits = colour_fit(x_hat, x, m, feather, frames, on_iteration)
    if frames == 1:
        return picture, [f"Picture {i + 1}: color gain {gain_of(one)}." for i, one in enumerate(fits)]
    return picture, [gains_of(number + 1, fits[start : start + frames]) for number, start in enumerate(range(0, len(fits), frames))]


def gain_of(one: ColourFit) -> str:
    """The gain of each channel."""
    return ", ".join(f"{gain:.3f}" for gain in one.gain.tolist())


def gains_of(number: int, fits: list[ColourFit]) -> str:
    """A sentence on the gains of a video."""
    most = max(float((after.gain - before.gain).abs().max()) for before, after in pairwise(fits))
    return f"Video {number}: color gain from {gain_of(fits[0])} to {gain_of(fits[-1])}, from frame to frame by at most {most:.4f}."


def _poisson(x_hat: Tensor, x: Tensor, m: Tensor, frames: int, on_iteration: Callable[[], None]) -> tuple[Tensor, list[str]]:
    return poisson(x_hat, x, m, on_iteration), []


# Cheapest first.
IN_PIXELS: dict[str, InPixels] = {"paste": _paste, "colour fit": _colour_fit, "poisson": _poisson}
