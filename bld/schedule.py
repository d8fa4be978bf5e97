"""Which mask at which point of the schedule: progressive mask shrinking (paper, section 3.3)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import masks as m_

SPACINGS = ("equal", "eased")


def step_at(sigma: float, sigmas: Tensor) -> int:
    """The step that a model call at noise level `sigma` belongs to: step i covers sigmas[i] down to just above sigmas[i + 1].

    So a second call inside a step, at a level that is not listed, has the mask and the noise of its step (dpm_2), and one at
    the next listed level has those of the step that starts there (heun).

    Args:
        sigma: >= 0.
        sigmas: (steps + 1,), descending, as the host's samplers get them.

    Returns: 0..steps - 1.
    """
    # Samplers that carry log(sigma) come back a few ulps off the listed level.
    passed = int((sigmas[1:] >= sigma * (1 - 1e-4)).sum())
    return min(passed, len(sigmas) - 2)


@dataclass(frozen=True, eq=False)
class MaskSchedule:
    """Masks from wide to thin and how long each one lasts. Other packs may build one: nothing else is needed.

    Attributes:
        masks: (S, B, h, w) in 0..1, at latent size; the last one is the thin mask, outside which nothing may change.
        shares: S shares of the schedule, each >= 0, in sum 1.
    """

    masks: Tensor
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.masks.ndim != 4 or len(self.masks) != len(self.shares):
            raise ValueError(
                f"a mask schedule needs masks (S, B, h, w) and S shares, but had {list(self.masks.shape)} and {len(self.shares)}."
            )
        if min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise ValueError(f"the shares of a mask schedule were {self.shares}, must be 0 or more and 1 in sum.")

    @property
    def thin(self) -> Tensor:
        """(B, h, w), the mask of the result."""
        return self.masks[-1]

    def lengths(self, steps: int) -> tuple[int, ...]:
        """How many of `steps` steps each stage lasts: parts rounded up, the thin mask has the rest and at least one.

        Four equal parts of 50 steps are the paper's 13, 13, 13 and 11.
        """
        left = steps - 1
        wide = []
        for share in self.shares[:-1]:
            wide.append(min(left, math.ceil(steps * share - 1e-9)))
            left -= wide[-1]
        return *wide, left + 1

    def at(self, step: int, steps: int) -> Tensor:
        """The mask (B, h, w) of one step, 0 <= step < steps."""
        ends = torch.tensor(self.lengths(steps)).cumsum(0)
        return self.masks[int((ends <= step).sum())]

    def rows(self, index: list[int]) -> MaskSchedule:
        """The schedule of some of the batch, in that order; one mask for all stays one mask for all."""
        return self if self.masks.shape[1] == 1 else replace(self, masks=self.masks[:, index])


def constant(mask: Tensor) -> MaskSchedule:
    """One mask (B, h, w) for the whole schedule."""
    return MaskSchedule(mask[None], (1.0,))


def stage_shares(stages: int, takeover: float, spacing: str = "equal") -> tuple[float, ...]:
    """Shares of `stages` wide masks and of the thin one, which takes over at `takeover` (0..1) of the schedule.

    spacing: `equal` the wide stages last equally long (the paper: 3 stages, takeover 0.75); `eased` each wide stage lasts
    longer than the next one, in the ratio stages : ... : 2 : 1.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"spacing was {spacing!r}, must be one of {', '.join(SPACINGS)}.")
    weights = [1] * stages if spacing == "equal" else list(range(stages, 0, -1))
    return *(takeover * weight / sum(weights) for weight in weights), 1 - takeover * (stages > 0)


def shrinking(
    mask: Tensor,
    stages: int = 3,
    growth: int = 1,
    takeover: float = 0.75,
    shape: str = "square",
    spacing: str = "equal",
    soft_edge: int = 0,
) -> MaskSchedule:
    """The paper's progressive shrinking: the mask dilated by kernels 2·growth·s + 1, s = stages..1, then the mask itself.

    Args:
        mask: (B, h, w) at latent size, in 0..1.
        stages: wide stages, >= 0; 3 in the paper, kernels 7, 5 and 3.
        growth: latent pixels that each stage reaches beyond the next one, on every side; 1 in the paper.
        takeover: share of the schedule, 0 < takeover < 1, after which only the mask itself is used; 0.75 in the paper.
        shape: of the structuring element, `square` in the paper or `disk`.
        spacing: see `stage_shares`.
        soft_edge: latent pixels of a linear ramp around the wide stages; the last stage is never softened, since what it
            leaves out has to stay exact.
    """
    wide = [m_.soften(m_.dilate(mask, 2 * growth * stage + 1, shape), soft_edge) for stage in range(stages, 0, -1)]
    return MaskSchedule(torch.stack([*wide, mask]), stage_shares(stages, takeover, spacing))
