"""Early pruning: candidates are judged part-way by what the model predicts, and only the promising ones go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...bld import ranking
from ...bld.blending import keep_background
from ..comfy_internals import Guider, conditions_for, follows_a_batch, levels_of_call, load_again, post_cfg_functions, with_post_cfg_functions
from .stages import stage_of_call


@dataclass(frozen=True, eq=False)
class Pruning:
    """When candidates are judged, how many of them go on, and by what.

    Attributes:
        judge: latents as a sampler node returns them, (B, C, ..., h, w) -> scores (B,), larger is better.
        shares: shares of the schedule, 0..1, ascending, at which a round is held. ComfyUI counts `start_percent` the same way.
        keep: the part of the candidates that each round keeps, 0..1, rounded up.
        at_least: the number of candidates that always stay.
    """

    judge: Callable[[Tensor], Tensor]
    shares: tuple[float, ...]
    keep: float
    at_least: int


class Race:
    """ComfyUI's guider for a batch of candidates, fewer and fewer of which are in the race: the model is given only those.

    The others stay in the batch as they are. So the sampler's own memory of earlier steps keeps its shape, and with any sampler a
    candidate that goes on is the same as without pruning.
    """

    def __init__(self, pruning: Pruning, count: int, mask: Tensor | None) -> None:
        """mask: (1 or count, 1, ..., h, w). Outside it, a picture to be judged shows the source. None if everything is sampled."""
        self.pruning, self.mask = pruning, mask
        self.alive = torch.arange(count)
        self.round = 0

    def of(self, guider: Guider, source: Tensor) -> Race:
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
            with conditions_for(self.guider, rows_of_batch(alive, len(x))):
                out[alive] = self.guider(x[alive], sigma[alive], model_options=self.of_samplers(model_options, alive, len(x)), seed=seed)
        due = stage_of_call(list(self.pruning.shares), sigma, levels_of_call(model_options), self.guider.inner_model.model_sampling)
        if due > self.round:
            self.prune(out, due - self.round)
            self.round = due
        return out

    def of_samplers(self, model_options: dict, alive: Tensor, count: int) -> dict:
        """The options for a call without the candidates that are out. What a sampler has added (the cfg_pp samplers look at the
        unguided prediction that way) sees the whole batch, as its own memory does.
        """

        def spread(value):
            if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != len(alive):
                return value
            whole = value.new_zeros(count, *value.shape[1:])
            whole[alive] = value
            return whole

        def for_all(function: Callable[[dict], Tensor]) -> Callable[[dict], Tensor]:
            return lambda args: function({key: spread(value) for key, value in args.items()})[alive]

        own = post_cfg_functions(self.guider.model_options)
        return with_post_cfg_functions(model_options, [one if one in own else for_all(one) for one in post_cfg_functions(model_options)])

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
            load_again(self.guider.model_patcher, self.guider.conds, predictions.shape)


def rows_of_batch(rows: Tensor, count: int) -> Callable[[object], object]:
    """Picks some rows of each tensor with a batch of `count`; whatever is the same for all stays."""
    return lambda value: value[rows.to(value.device)] if isinstance(value, Tensor) and value.ndim and len(value) == count else value


def check_conditions(conditionings: dict[str, list], samples: Tensor) -> None:
    """Raises ValueError for what would lose its candidates when some of them are dropped: video, T2I-Adapters, a hint for each."""
    if samples.ndim == 5 and samples.shape[2] != 1:
        raise ValueError(f"latent_image is a video of {samples.shape[2]} latent frames, which pruning doesn't support: disconnect pruning.")
    for name, conditioning in conditionings.items():
        if not follows_a_batch(conditioning):
            raise ValueError(f"{name} has a T2I-Adapter or a ControlNet with several hint images, which pruning doesn't support: disconnect pruning.")
