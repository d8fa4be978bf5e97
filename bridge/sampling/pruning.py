"""Early pruning: candidates are judged part-way by what the model predicts, and only the promising ones go on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...bld import ranking
from .candidates import Helpers
from .replay import Answer, Replay
from .stages import stage_of_call


@dataclass(frozen=True, eq=False)
class Pruning:
    """When candidates are judged, how many of them go on, and by what.

    Attributes:
        judge: latents as a sampler node returns them, (B, C, ..., h, w) -> scores (B,), larger is better.
        shares: shares of the schedule, 0..1, ascending, at which a round is held. ComfyUI counts `start_percent` the same way.
        keep: the part of the candidates that each round keeps, 0..1, rounded up.
        at_least: the number of candidates that always stay.
        helpers: latents -> the models that judge such ones.
    """

    judge: Callable[[Tensor], Tensor]
    shares: tuple[float, ...]
    keep: float
    at_least: int
    helpers: Callable[[Tensor], Helpers] = lambda z: Helpers()

    def stage(self, sigma: Tensor, sigmas: Tensor, model_sampling) -> int:
        """How many rounds have been due at a model call."""
        return stage_of_call(list(self.shares), sigma, sigmas, model_sampling)

    def rounds(self, count: int, sigmas: Tensor, model_sampling) -> list[tuple[int, int]]:
        """The rounds of a run, each as the stage that it opens and how many of `count` candidates then go on. Those that drop none are left out."""
        rounds, held, left = [], 0, count
        for stage in sorted({self.stage(sigma, sigmas, model_sampling) for sigma in sigmas[:-1]}):
            before = left
            for _ in range(stage - held):
                left = ranking.survivors(left, self.keep, self.at_least)
            held = stage
            if left < before:
                rounds.append((stage, left))
        return rounds


class Race:
    """What is known of the candidates in the race, so that each run of some of them goes on from the one before."""

    def __init__(self, pruning: Pruning | None, model: ModelPatcher) -> None:
        self.pruning, self.model_sampling = pruning, model.get_model_object("model_sampling")
        self.answers: dict[int, list[Answer]] = {}
        self.repeats = True

    def rounds(self, count: int, sigmas: Tensor) -> list[tuple[int, int]]:
        """See `Pruning.rounds`; none without pruning. count: of candidates of one source."""
        if self.pruning is None:
            return []
        rounds = self.pruning.rounds(count, sigmas, self.model_sampling)
        if not rounds:
            logging.info(
                "Blended Latent KSampler: pruning drops none of %d candidates, since keep is %g and at_least is %d.",
                count,
                self.pruning.keep,
                self.pruning.at_least,
            )
        return rounds

    def run(self, chunk: Sequence[int], stage: int | None) -> Replay:
        """The guider of a run of these candidates up to the round that opens a stage, or to the end."""
        known = [self.answers.get(i, []) for i in chunk]
        # After a shortage of memory a chunk may have candidates that are not equally far.
        together = [{name: torch.stack([one[name] for one in call]) for name in call[0]} for call in zip(*known, strict=False)]
        if stage is None:
            return Replay(together)
        return Replay(together, lambda sigma, sigmas: self.pruning.stage(sigma, sigmas, self.model_sampling) >= stage)

    def note(self, chunk: Sequence[int], run: Replay) -> None:
        """Keeps what a run that has stopped knows of its candidates."""
        if run.changed and self.repeats:
            logging.info(
                "Blended Latent KSampler: %s may remember earlier steps of a candidate, so those that go on are sampled again from the start.", run.changed
            )
            self.repeats = False
            self.answers.clear()
        if self.repeats:
            for row, i in enumerate(chunk):
                self.answers[i] = [{name: value[row].clone() for name, value in answer.items()} for answer in run.answers]

    def best(self, candidates: Tensor, scores: Tensor, left: int) -> Tensor:
        """(S, left) of candidates (S, N), those with the best scores (S, N) in each row, in their order. The others are forgotten."""
        best = torch.stack([row[ranking.order(of_row)[:left].sort().values] for row, of_row in zip(candidates, scores, strict=True)])
        self.answers = {i: self.answers[i] for i in best.flatten().tolist() if i in self.answers}
        return best


def check_pictures(samples: Tensor) -> None:
    """Raises ValueError for video, of which the judge would see a single frame."""
    if samples.ndim == 5 and samples.shape[2] != 1:
        raise ValueError(f"latent_image is a video of {samples.shape[2]} latent frames, which pruning doesn't support: disconnect pruning.")
