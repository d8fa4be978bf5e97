"""Early pruning: candidates are judged by what the model predicts part-way, and only the promising ones go on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.samplers
import torch
from torch import Tensor

from ..bld import ranking
from ..bld.blending import keep_background
from .sampling import bring_back, stage_of_call


@dataclass(frozen=True, eq=False)
class Pruning:
    """When candidates are judged, how many of them go on, and by what.

    Attributes:
        score: pictures (B, H, W, C) in 0..1 -> (B,), larger is better.
        decode: latents as a sampler node gives them (B, C, h, w) -> pictures.
        shares: of the schedule, 0..1, ascending, at which a round is held, as `start_percent` counts it.
        keep: the part of the candidates that each round keeps, 0..1, rounded up.
        at_least: candidates that are never fallen below.
    """

    score: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    shares: tuple[float, ...]
    keep: float
    at_least: int


class Race:
    """The host's guider for a batch of candidates of which fewer and fewer are in the race: only those are given to the model.

    The others stay in the batch as they are, so that the sampler's own memory of earlier steps keeps its shape, and a candidate
    that goes on is the same as without pruning, with any sampler.
    """

    def __init__(self, pruning: Pruning, count: int, mask: Tensor | None) -> None:
        """mask: (1 or count, 1, ..., h, w), outside which a picture to be judged shows the source; None where all is sampled."""
        self.pruning, self.mask = pruning, mask
        self.alive = torch.arange(count)
        self.round = 0

    def of(self, guider: comfy.samplers.CFGGuider, source: Tensor) -> Race:
        """The guider to sample with; source: (count, C, ..., h, w) in the model's units."""
        self.guider, self.source = guider, source
        return self

    def __getattr__(self, name: str):
        return getattr(self.guider, name)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict, seed: int | None = None) -> Tensor:
        alive = self.alive.to(x.device)
        out = x.clone()
        with conditions_of(self.guider, self.alive, len(x)):
            out[alive] = self.guider(x[alive], sigma[alive], model_options=model_options, seed=seed)
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        due = stage_of_call(list(self.pruning.shares), sigma, sigmas, self.guider.inner_model.model_sampling)
        if due > self.round:
            self.prune(out, due - self.round)
            self.round = due
        return out

    def prune(self, predictions: Tensor, rounds: int) -> None:
        left = len(self.alive)
        for _ in range(rounds):
            left = ranking.survivors(left, self.pruning.keep, self.pruning.at_least)
        if left < len(self.alive):
            if self.mask is not None:
                predictions = keep_background(predictions, self.source, self.mask.to(predictions))
            z = self.guider.inner_model.process_latent_out(predictions[self.alive.to(predictions.device)].float())
            best = ranking.order(self.pruning.score(self.pruning.decode(z)))
            self.alive = self.alive[best[:left].sort().values]
            bring_back(self.guider.model_patcher, self.guider.conds, predictions.shape)


@contextmanager
def conditions_of(guider: comfy.samplers.CFGGuider, rows: Tensor, count: int) -> Iterator[None]:
    """Lets the guider see the conditioning of some of its batch of `count`; what is the same for all stays."""

    def pick(value):
        return value[rows.to(value.device)] if isinstance(value, Tensor) and value.ndim and len(value) == count else value

    def of_rows(condition: dict) -> dict:
        inner = {name: copy.copy(part) for name, part in condition["model_conds"].items()}
        for part in inner.values():
            part.cond = pick(part.cond)
        return {**{key: pick(value) for key, value in condition.items()}, "model_conds": inner}

    whole = guider.conds
    if len(rows) < count:
        guider.conds = {name: [of_rows(condition) for condition in conditions] for name, conditions in whole.items()}
    try:
        yield
    finally:
        guider.conds = whole
