"""Which mask at which point of the schedule: progressive mask shrinking (paper, section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from . import masks as m_

SPACINGS = ("equal", "eased")
EVERYWHERE, THIN_PARTS = "everywhere", "thin parts"
# The share of the schedule after which the edit may use broad parts of a mask up to their edge: by then an object has its outline.
INSET_ENDS = 0.6
# Samplers that carry log(sigma) come back a few ulps off a listed level, and a level at which a stage ends may be missed likewise.
ROUNDING = 1e-4


def step_at(sigma: float, sigmas: Tensor) -> int:
    """The step that a model call at noise level `sigma` belongs to: step i covers sigmas[i] down to just above sigmas[i + 1].

    So a second call inside a step, at a level that is not listed, has the mask and the noise of its step (dpm_2), and one at
    the next listed level has those of the step that starts there (heun).

    Args:
        sigma: >= 0.
        sigmas: (steps + 1,), descending, as the host's samplers get them.

    Returns: 0..steps - 1.
    """
    passed = int((sigmas[1:] >= sigma * (1 - ROUNDING)).sum())
    return min(passed, len(sigmas) - 2)


def route(steps: int, resample_steps: int) -> list[tuple[int, int]]:
    """The stretches [start, end) of steps to run one after the other; where one starts before the last one's end, jump back there.

    Args:
        steps: >= 0.
        resample_steps: length of the stretches, counted from the end, each of which but the first is run twice (RePaint,
            Lugmayr et al. 2022); the first has what is left, 1..resample_steps. 0: all steps are one stretch, run once.
    """
    if resample_steps == 0:
        return [(0, steps)]
    first, *others = pairwise([0, *range(steps % resample_steps or resample_steps, steps, resample_steps), steps])
    return [first, *(stretch for stretch in others for _ in range(2))]


def stage_at(sigma: float, ends: Sequence[float]) -> int:
    """The stage of a step that starts at noise level `sigma`.

    A stage ends at a noise level, not after a count of steps: so it is the same for every sampler and scheduler, a run that
    starts late (denoise < 1) or is split over several samplers has the stages of its part, and a scheduler that dwells at low
    noise does not put the wide masks there.

    Args:
        sigma: >= 0.
        ends: noise levels at which each stage but the last ends, descending.

    Returns: 0..len(ends).
    """
    return sum(sigma <= end * (1 + ROUNDING) for end in ends)


@dataclass(frozen=True, eq=False)
class MaskSchedule:
    """Masks in the order of the schedule and how long each one lasts. Other packs may build one: nothing else is needed.

    Attributes:
        masks: (S, B, h, w) in 0..1, at latent size; B is 1, one a sample, or for video one a latent frame. The last one is the
            mask of the result, outside which nothing may change.
        shares: S shares of the whole schedule, from pure noise to none, each >= 0, in sum 1.
    """

    masks: Tensor
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.masks.ndim < 4 or self.masks.numel() == 0 or len(self.masks) != len(self.shares):
            raise ValueError(
                f"mask_schedule needs masks (stages, batch, height, width) and a share per stage, but has {list(self.masks.shape)} and {len(self.shares)}."
            )
        if not (min(self.shares) >= 0 and abs(sum(self.shares) - 1) <= 1e-6):
            raise ValueError(f"mask_schedule has the shares {self.shares}, but they must be 0 or more and add up to 1.")

    @property
    def thin(self) -> Tensor:
        """(B, h, w), the mask of the result."""
        return self.masks[-1]

    @property
    def ends(self) -> list[float]:
        """Where each stage but the last ends, as a share 0..1 of the schedule, ascending."""
        return list(accumulate(self.shares))[:-1]

    def rows(self, index: list[int]) -> MaskSchedule:
        """The schedule of some of the batch, in that order; one mask for all stays one mask for all."""
        return self if self.masks.shape[1] == 1 else replace(self, masks=self.masks[:, index])


def constant(mask: Tensor) -> MaskSchedule:
    """One mask (B, h, w) for the whole schedule."""
    return MaskSchedule(mask[None], (1.0,))


def stage_shares(stages: int, takeover: float, spacing: str = "equal") -> tuple[float, ...]:
    """Shares of `stages` wide masks and of the thin one, which takes over at `takeover` (0..1) of the schedule.

    spacing: `equal` the wide stages last equally long (the paper: 3 stages); `eased` each wide stage lasts
    longer than the next one, in the ratio stages : ... : 2 : 1.
    """
    if spacing not in SPACINGS:
        raise ValueError(f"spacing is {spacing!r}, but must be one of {', '.join(SPACINGS)}.")
    weights = [1] * stages if spacing == "equal" else list(range(stages, 0, -1))
    return *(takeover * weight / sum(weights) for weight in weights), 1 - takeover * (stages > 0)


def shrinking(
    mask: Tensor,
    stages: int = 3,
    growth: int = 1,
    takeover: float = 0.78,
    shape: str = "square",
    spacing: str = "equal",
    soft_edge: int = 0,
    where: str = EVERYWHERE,
    thin: int = 2,
    inset: float = 0.0,
) -> MaskSchedule:
    """The paper's progressive shrinking: the mask dilated by kernels 2·growth·s + 1, s = stages..1, then the mask itself.

    A broad mask loses by it: an edit that forms beyond the mask is cut at its edge later. So it can be kept to the thin parts. Broad parts
    gain by the opposite: an object that forms inside them ends before their edge.

    Args:
        mask: (B, h, w) at latent size, in 0..1.
        stages: wide stages, >= 0; 3 in the paper, kernels 7, 5 and 3.
        growth: latent pixels that each stage reaches beyond the next one, on every side; 1 in the paper.
        takeover: share of the schedule, 0 < takeover < 1, after which only the mask itself is used. The authors' code cuts 50 steps
            into 13, 13, 13 and 11, which is 0.78.
        shape: of the structuring element, `square` in the paper or `disk`.
        spacing: see `stage_shares`.
        soft_edge: latent pixels of a linear ramp around the wide stages; the last stage is never softened, since what it
            leaves out has to stay exact.
        where: `everywhere` the whole mask is dilated (the paper); `thin parts` each part as far as it needs, see `needs`.
        thin: latent pixels, >= 1; for `thin parts`.
        inset: for `thin parts`, what is left out of the broad ones until `INSET_ENDS` of the schedule, see `masks.inset`; 0 in the paper.
    """
    if where not in (EVERYWHERE, THIN_PARTS):
        raise ValueError(f"where is {where!r}, but must be {EVERYWHERE} or {THIN_PARTS}.")
    parts = [(mask, 1.0)] if where == EVERYWHERE else needs(mask, thin)
    grown = [*(m_.soften(widened(parts, growth * stage, shape), soft_edge) for stage in range(stages, 0, -1)), torch.zeros_like(mask)]
    begun = [m_.inset(mask, inset), mask]
    spans = split(stage_shares(stages, takeover, spacing), INSET_ENDS if inset and where == THIN_PARTS else 0.0)
    stage_masks = [torch.maximum(begun[late], grown[stage]) for stage, late, _ in spans]
    return MaskSchedule(torch.stack(stage_masks), tuple(share for *_, share in spans))


def split(shares: Sequence[float], at: float) -> list[tuple[int, bool, float]]:
    """The stages cut in two at the share `at` (0..1) of the schedule: for each piece its stage, whether it comes after the cut, and its share."""
    ends = pairwise([0.0, *accumulate(shares)])
    pieces = [(stage, late, piece) for stage, (start, end) in enumerate(ends) for late, piece in ((False, min(end, at) - start), (True, end - max(start, at)))]
    return [(stage, late, share) for stage, late, share in pieces if share > 1e-9]


def needs(mask: Tensor, thin: int) -> list[tuple[Tensor, float]]:
    """The parts of a mask (B, h, w) by their thickness, each with the share 0..1 of the full reach that it needs: 1 for a single latent
    pixel, less in equal steps the thicker it is, and none for what is thicker than `thin`.
    """
    thick = m_.thickness(mask, thin + 1)
    return [(mask * (thick == side), 1 - (side - 1) / thin) for side in range(1, thin + 1)]


def widened(parts: list[tuple[Tensor, float]], reach: int, shape: str) -> Tensor:
    """Parts of a mask, each dilated by its share of `reach` latent pixels, rounded up, in one mask."""
    return torch.stack([m_.dilate(part, 2 * math.ceil(reach * share - 1e-6) + 1, shape) for part, share in parts]).amax(0)
