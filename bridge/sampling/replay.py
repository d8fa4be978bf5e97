"""A run that ends part-way, and a later one that goes on from there: what the model has answered so far is kept and given again.

A sampler can't be stopped and taken up later, since each keeps a memory of its own. But it does the same again if it gets the same answers,
so a later run starts over with the answers that are known and asks the model only for the rest. Each run is an ordinary one of ComfyUI's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from ..comfy_internals import Guider, levels_of_call, patches_of, post_cfg_functions, with_post_cfg_functions

# What the model answered in one call: the prediction, and what functions were shown that a sampler has set (the cfg_pp samplers
# take the unguided prediction from there).
Answer = dict[str, Tensor]
SHOWN = ("denoised", "cond_denoised", "uncond_denoised")


class Stopped(Exception):
    """A run has come as far as it should. prediction: of the last call, (B, C, ..., h, w), in the model's units."""

    def __init__(self, prediction: Tensor) -> None:
        self.prediction = prediction


class Replay:
    """ComfyUI's guider for one run of some candidates: gives the answers that are known again, asks the model for the others, and may stop.

    Attributes:
        answers: one a call, on the CPU, if the run is to stop; a later run can go on from them.
        changed: the name of a patch of the model that has changed in this run, if any. It may remember earlier calls, so it must see
            all of them in a later run, too.
    """

    def __init__(self, known: list[Answer], stop: Callable[[Tensor, Tensor], bool] | None = None) -> None:
        """stop: (sigma of a call, sigmas of the run) -> whether this call is the last one. None: the run goes on to its end."""
        self.known, self.stop = known, stop
        self.answers: list[Answer] = []
        self.calls = 0
        self.changed: str | None = None

    def of(self, guider: Guider) -> Replay:
        """The guider to sample with."""
        self.guider = guider
        self.before = patches_of(guider.model_patcher, guider.model_options) if self.stop else {}
        return self

    def __getattr__(self, name: str):
        return getattr(self.guider, name)

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict, seed: int | None = None) -> Tensor:
        own = post_cfg_functions(self.guider.model_options)
        of_sampler = [function for function in post_cfg_functions(model_options) if function not in own]
        if self.calls < len(self.known):
            answer = {name: value.to(x) for name, value in self.known[self.calls].items()}
            for function in of_sampler:
                function(answer)
        else:
            answer = self.ask(x, sigma, model_options, seed, bool(of_sampler))
        self.calls += 1
        if self.stop is not None:
            self.answers.append({name: value.to("cpu", copy=True) for name, value in answer.items()})
            if self.stop(sigma, levels_of_call(model_options)):
                after = patches_of(self.guider.model_patcher, self.guider.model_options)
                self.changed = next((name for place, (name, value) in after.items() if self.before.get(place, (name, None))[1] is not value), None)
                raise Stopped(answer["prediction"])
        return answer["prediction"]

    def ask(self, x: Tensor, sigma: Tensor, model_options: dict, seed: int | None, shown: bool) -> Answer:
        answer: Answer = {}

        def look(args: dict) -> Tensor:
            answer.update({name: args[name] for name in SHOWN})
            return args["denoised"]

        if shown:
            model_options = with_post_cfg_functions(model_options, [*post_cfg_functions(model_options), look])
        # Some patches (HyperTile, Token Merging) draw from the global generator. They draw the same for each candidate in whatever chunk.
        with random_state_kept(x.device):
            torch.manual_seed(self.calls)
            answer["prediction"] = self.guider(x, sigma, model_options=model_options, seed=seed)
        return answer


def random_state_kept(device: torch.device) -> AbstractContextManager[None]:
    """Gives the global random state back as it was, on the CPU and on this device."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
