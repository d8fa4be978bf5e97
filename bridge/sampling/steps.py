"""When each step of a run takes place on the schedule and which mask it has, for the display of js/steps.js."""

from __future__ import annotations

from collections.abc import Callable

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...bld.schedule import MaskSchedule, constant, route
from ..comfy_internals import tell
from .stages import stages_of_steps

EVENT = "blended_latent.sampling"
# Steps are placed to a thousandth of the schedule.
PLACES = 1000


class Steps:
    """The steps of a run on the axis from pure noise (0) to none (1), counted as ComfyUI counts `start_percent`.

    Attributes:
        shown: `starts` and `stages` of the steps, `shares` of the schedule and `covers` of the latent, 0..1, of the stages, and `settings`.
    """

    def __init__(
        self, model: ModelPatcher, sigmas: Tensor, schedule: MaskSchedule | None, resample_steps: int, node_id: str | None, **settings: object
    ) -> None:
        """
        sigmas: (steps + 1,), or empty. settings: the node's inputs that decide where the steps are.
        """
        model_sampling, schedule = model.get_model_object("model_sampling"), schedule or constant(torch.ones(1, 1, 1))
        self.node_id = node_id
        self.order = [step for start, end in route(max(len(sigmas) - 1, 0), resample_steps) for step in range(start, end)]
        self.shown = {
            "shares": list(schedule.shares),
            "covers": [round(float((mask > 0).float().mean()), 4) for mask in schedule.masks],
            "starts": places(sigmas[:-1], model_sampling),
            "stages": stages_of_steps(schedule.ends, sigmas, model_sampling),
            "settings": settings,
        }
        tell(EVENT, node_id, steps=self.shown)

    def marked(self, callback: Callable[..., None]) -> Callable[..., None]:
        """A sampler's callback that also tells the display which step is done."""

        def both(step: int, *state: object) -> None:
            callback(step, *state)
            # dpm_adaptive takes as many steps as it likes.
            tell(EVENT, self.node_id, step=self.order[min(step, len(self.order) - 1)])

        return both


def places(sigmas: Tensor, model_sampling) -> list[float]:
    """Where noise levels lie on the schedule, 0..1: the last of PLACES at which there still is as much noise."""
    levels = torch.tensor([float(model_sampling.percent_to_sigma(place / PLACES)) for place in range(PLACES + 1)])
    # A scheduler that lists the very level of a place may miss it by a rounding.
    reached = levels >= sigmas.cpu().float()[:, None] * (1 - 1e-4)
    return ((reached.sum(1) - 1).clamp(min=0) / PLACES).tolist()
