"""The objective that latent optimisation and decoder tuning share (paper, section 3.4), and the descent on it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..metrics import psnr

# Adam's first steps move every weight by the whole rate, whatever its gradient: from a decoder that is nearly right, away.
WARM_UP = 5
# A fit has stopped improving when this share of its steps, and at least a look at each part, brought less than so many dB.
PATIENCE, GAIN_DB = 0.25, 0.05
STALLED, OFF = "no longer improved", "diverged"
# A loss that is so many times what it was at first is not going to come back; less may be Adam finding its feet.
DIVERGED = 10
# One that ends so many times higher than it began made things worse; less may be rounding.
WORSE = 1.05


@dataclass(frozen=True)
class Settings:
    """Of a descent. lam: the background's weight, >= 0. target: dB of the background at which it stops, infinite for never."""

    lam: float = 100.0
    iterations: int = 75
    lr: float = 1e-4
    target: float = math.inf


@dataclass(frozen=True)
class Step:
    """What one step saw before it changed anything: the background's PSNR in dB counts the pixels that the objective counts."""

    number: int
    loss: float
    background: float
    picture: Tensor


OnStep = Callable[[Step], None]


@dataclass
class Outcome:
    """How a descent went: why it ended, its steps, and the least loss over all parts.

    background: the mean of the last looks at all parts, in dB, at each look; the last is that of what was given back.
    """

    reason: str = ""
    steps: int = 0
    best: float = math.inf
    background: list[float] = field(default_factory=list)

    @property
    def restored(self) -> bool:
        """Whether it diverged, so that an earlier state was given back."""
        return self.reason == OFF


def objective(y: Tensor, x_hat: Tensor, x: Tensor, m: Tensor, lam: float) -> Tensor:
    """‖y · m - x_hat · m‖ + lam ‖y · (1 - m) - x · (1 - m)‖, both as means of squares over all pixels, as the authors do.

    Args:
        y: (B, C, H, W), the picture that is being fitted, in -1..1 and a little beyond.
        x_hat: (B, C, H, W), the edit as first decoded.
        x: (B or 1, C, H, W), the source.
        m: (B or 1, 1, H, W) in 0..1.
        lam: >= 0; 100 in the paper.
    """
    return ((y - x_hat) * m).square().mean() + lam * background_error(y, x, m).square().mean()


def background_error(y: Tensor, x: Tensor, m: Tensor) -> Tensor:
    """(y - x) · (1 - m)."""
    return (y - x) * (1 - m)


def background_db(y: Tensor, x: Tensor, m: Tensor) -> float:
    """PSNR in dB, of pictures in -1..1, weighted by 1 - m; NaN where m leaves nothing out."""
    return decibels(*background_sums(y, x, m))


def background_sums(y: Tensor, x: Tensor, m: Tensor) -> tuple[float, float]:
    """The sum of squares of the background's error, and of its weights."""
    return float(background_error(y, x, m).square().sum()), float((1 - m).square().expand_as(y).sum())


def decibels(squares: float, weight: float) -> float:
    """PSNR of pictures in -1..1; NaN without a weight."""
    return psnr(squares / weight / 4) if weight > 0 else math.nan


Look = Callable[[int], tuple[float, float, Tensor]]


def minimise(variables: Iterable[Tensor], look: Look, settings: Settings, on_step: OnStep, before: Sequence[float]) -> Outcome:
    """Adam on `variables`, in place. The rate rises over the first steps and falls to nothing at the last.

    It ends early where the background reaches its target or improves no more, and where the loss is not finite or has
    risen to several times what it was at first. Where it improved no more, diverged, or ends above where it began, the best state
    seen is put back. What the last step made is looked at once more, without gradients.

    Args:
        look: of a step's number, (the loss, the background's dB, the picture); where gradients are on, it leaves the loss's on the variables.
        on_step: called before each step's change; what it raises ends the descent.
        before: the losses of the parts that as many steps in a row see, before the first change.
    """
    variables, rounds = list(variables), len(before)
    optimiser = torch.optim.Adam(variables, lr=settings.lr)
    outcome, kept, kept_level = Outcome(best=sum(before)), [v.detach().clone() for v in variables], math.nan
    losses: deque[float] = deque(maxlen=rounds)
    firsts: deque[float] = deque(maxlen=rounds)
    levels: deque[float] = deque(maxlen=rounds)

    def judge(step: Step) -> str:
        """Why it should end here, if it should."""
        nonlocal kept_level
        losses.append(step.loss)
        firsts.append(before[step.number % rounds])
        levels.append(step.background)
        if not sum(losses) <= DIVERGED * sum(firsts):
            return OFF
        if len(losses) < rounds:
            return ""
        known = [level for level in levels if not math.isnan(level)]
        outcome.background.append(sum(known) / len(known) if known else math.nan)
        if len(outcome.background) == 1:
            kept_level = outcome.background[0]
        if sum(losses) < outcome.best:
            outcome.best, kept_level = sum(losses), outcome.background[-1]
            copy_into(kept, variables)
        if outcome.background[-1] >= settings.target:
            return "target reached"
        return STALLED if stalled(outcome.background, max(rounds, WARM_UP, round(PATIENCE * settings.iterations))) else ""

    for number in range(settings.iterations):
        optimiser.zero_grad(set_to_none=True)
        step = Step(number, *look(number))
        on_step(step)
        outcome.reason = judge(step)
        if outcome.reason:
            break
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * rate(number, settings.iterations)
        optimiser.step()
        outcome.steps = number + 1
    if settings.iterations > 0 and not outcome.reason:
        with torch.no_grad():
            outcome.reason = judge(Step(settings.iterations, *look(settings.iterations)))
    outcome.reason = outcome.reason or "all steps done"
    if not sum(losses) <= WORSE * sum(firsts) or not all(torch.isfinite(v).all() for v in variables):
        outcome.reason = OFF
    if outcome.reason in (OFF, STALLED):
        copy_into(variables, kept)
        outcome.background += [kept_level] if outcome.background else []
    return outcome


@torch.no_grad()
def copy_into(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Each the value of its source."""
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def rate(number: int, iterations: int) -> float:
    """The share of the learning rate at a step: up in a line, then down along half a cosine."""
    return min(1.0, (number + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * number / iterations))


def stalled(levels: list[float], patience: int) -> bool:
    """Whether the best of the last `patience` is hardly above the best before."""
    return len(levels) > 2 * patience and max(levels[-patience:]) < max(levels[:-patience]) + GAIN_DB


@contextmanager
def trainable(variables: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The variables ask for gradients inside, and hold none after."""
    variables = list(variables)
    try:
        for v in variables:
            v.requires_grad_(True)
        yield variables
    finally:
        for v in variables:
            v.requires_grad_(False)
            v.grad = None
