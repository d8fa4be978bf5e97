"""Early pruning: candidates are judged by what the model predicts part-way, and only the promising ones go on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import comfy.samplers
import torch
from comfy.controlnet import T2IAdapter
from torch import Tensor

from ..bld import ranking
from ..bld.blending import keep_background
from .sampling import bring_back, stage_of_call


@dataclass(frozen=True, eq=False)
class Pruning:
    """When candidates are judged, how many of them go on, and by what.

    Attributes:
        judge: latents as a sampler node gives them, (B, C, ..., h, w) -> (B,), larger is better.
        shares: of the schedule, 0..1, ascending, at which a round is held, as `start_percent` counts it.
        keep: the part of the candidates that each round keeps, 0..1, rounded up.
        at_least: candidates that are never fallen below.
    """

    judge: Callable[[Tensor], Tensor]
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
        if len(alive) == len(x):
            out = self.guider(x, sigma, model_options=model_options, seed=seed)
        else:
            out = x.clone()
            with conditions_of(self.guider, alive, len(x)):
                out[alive] = self.guider(x[alive], sigma[alive], model_options=self.of_samplers(model_options, alive, len(x)), seed=seed)
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        due = stage_of_call(list(self.pruning.shares), sigma, sigmas, self.guider.inner_model.model_sampling)
        if due > self.round:
            self.prune(out, due - self.round)
            self.round = due
        return out

    def of_samplers(self, model_options: dict, alive: Tensor, count: int) -> dict:
        """The options for a call without those that are out. What a sampler has added (the cfg_pp ones look at the unguided
        prediction that way) sees the whole batch, as its own memory does.
        """

        def spread(value):
            if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != len(alive):
                return value
            whole = value.new_zeros(count, *value.shape[1:])
            whole[alive] = value
            return whole

        def for_all(function: Callable[[dict], Tensor]) -> Callable[[dict], Tensor]:
            return lambda args: function({key: spread(value) for key, value in args.items()})[alive]

        own = self.guider.model_options.get("sampler_post_cfg_function", [])
        functions = model_options.get("sampler_post_cfg_function", [])
        return {**model_options, "sampler_post_cfg_function": [one if one in own else for_all(one) for one in functions]}

    def prune(self, predictions: Tensor, rounds: int) -> None:
        left = len(self.alive)
        for _ in range(rounds):
            left = ranking.survivors(left, self.pruning.keep, self.pruning.at_least)
        if left < len(self.alive):
            if self.mask is not None:
                predictions = keep_background(predictions, self.source, self.mask.to(predictions))
            z = self.guider.inner_model.process_latent_out(predictions[self.alive.to(predictions.device)].float())
            best = ranking.order(self.pruning.judge(z))
            self.alive = self.alive[best[:left].sort().values]
            bring_back(self.guider.model_patcher, self.guider.conds, predictions.shape)


@contextmanager
def conditions_of(guider: comfy.samplers.CFGGuider, rows: Tensor, count: int) -> Iterator[None]:
    """Lets the guider see the conditioning of some of its batch of `count`; what is the same for all stays."""

    def pick(value):
        if isinstance(value, list):
            return [pick(one) for one in value]
        return value[rows.to(value.device)] if isinstance(value, Tensor) and value.ndim and len(value) == count else value

    def of_rows(condition: dict) -> dict:
        inner = {name: copy.copy(part) for name, part in condition["model_conds"].items()}
        for part in inner.values():
            part.cond = pick(part.cond)
        return {**{key: pick(value) for key, value in condition.items()}, "model_conds": inner}

    whole = guider.conds
    guider.conds = {name: [of_rows(condition) for condition in conditions] for name, conditions in whole.items()}
    try:
        yield
    finally:
        guider.conds = whole


def check_conditions(conditionings: dict[str, list], samples: Tensor) -> None:
    """Raises ValueError for what would lose its candidates when some of them are dropped: video, T2I-Adapters, a hint for each."""
    if samples.ndim == 5 and samples.shape[2] != 1:
        raise ValueError(f"latent_image is a video of {samples.shape[2]} latent frames, which pruning cannot judge: disconnect pruning.")
    for name, conditioning in conditionings.items():
        for control in (options["control"] for _, options in conditioning if options.get("control") is not None):
            if isinstance(control, T2IAdapter) or (control.cond_hint_original is not None and len(control.cond_hint_original) > 1):
                raise ValueError(f"{name} has a T2I-Adapter or a ControlNet with several hints, which pruning cannot follow: disconnect pruning.")
