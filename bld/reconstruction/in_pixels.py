"""The table of methods that work on the decoded picture. Add a row, and every user of the table has the method."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .colour import colour_fit
from .paste import paste
from .poisson import poisson

# (x_hat (B, C, H, W), x (B or 1, C, H, W), m (B or 1, H, W), on_iteration, **settings) -> pictures (B, C, H, W) and remarks for a report.
# A method that iterates calls on_iteration at each iteration; what that raises ends the method.
InPixels = Callable[..., tuple[Tensor, list[str]]]


def _paste(x_hat: Tensor, x: Tensor, m: Tensor, on_iteration: Callable[[], None], feather: int = 0) -> tuple[Tensor, list[str]]:
    return paste(x_hat, x, m, feather), []


def _colour_fit(x_hat: Tensor, x: Tensor, m: Tensor, on_iteration: Callable[[], None], feather: int = 0) -> tuple[Tensor, list[str]]:
    picture, fits = colour_fit(x_hat, x, m, feather)
    return picture, [f"Picture {i + 1}: color gain {', '.join(f'{g:.3f}' for g in one.gain.tolist())}." for i, one in enumerate(fits)]


def _poisson(x_hat: Tensor, x: Tensor, m: Tensor, on_iteration: Callable[[], None]) -> tuple[Tensor, list[str]]:
    return poisson(x_hat, x, m, on_iteration), []


# Cheapest first.
IN_PIXELS: dict[str, InPixels] = {"paste": _paste, "colour fit": _colour_fit, "poisson": _poisson}
