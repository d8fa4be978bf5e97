"""When a descent stops, and which state it leaves: losses as they come, and the one weight as Adam moves it."""

from __future__ import annotations

import math

import pytest
import torch

from blended_latent_diffusion.bld.reconstruction.objective import Outcome, Settings, minimise


def descend(losses: list[float], before: list[float] | None = None, levels: list[float] | None = None, **settings) -> tuple[float, list[float], Outcome]:
    """A descent that sees these losses, the last after its last step, and these dB: the weight it leaves, the weight at each look, and what it says."""
    weight, seen = torch.zeros(1), []

    def look(number: int) -> tuple[float, float, torch.Tensor]:
        seen.append(float(weight))
        assert torch.is_grad_enabled() == (number < len(losses) - 1)
        weight.grad = torch.ones(1)
        return losses[number], levels[number] if levels else 20.0 + number, torch.zeros(1, 3, 1, 1)

    outcome = minimise([weight], look, Settings(**{"iterations": max(0, len(losses) - 1), "lr": 0.1} | settings), lambda step: None, before or losses[:1])
    return float(weight), seen, outcome


@pytest.mark.parametrize("bad", [1000.0, math.inf, math.nan])
def test_it_stops_where_it_diverges_and_puts_the_best_state_back(bad):
    weight, seen, outcome = descend([10, 6, 4, 5, bad, 1, 1])
    assert weight == seen[2] and len(set(seen)) == 5, "it looked five times, and the third was the best"
    assert outcome.reason == "diverged" and outcome.restored and outcome.steps == 4


def test_a_rise_that_goes_away_again_is_none_of_its_business():
    weight, seen, outcome = descend([10, 90, 5, 4])
    assert outcome.reason == "all steps done" and not outcome.restored and weight == seen[-1], "the last step counts"


def test_what_ends_worse_than_it_began_is_put_back():
    weight, seen, outcome = descend([10, 8, 11, 12])
    assert weight == seen[1] and outcome.reason == "diverged" and outcome.restored


@pytest.mark.parametrize(("losses", "best"), [([10.0, 6, 5, 1000], 2), ([1.0, 1000], 0)])
def test_the_last_step_is_looked_at_too(losses, best):
    weight, seen, outcome = descend(losses)
    assert weight == seen[best] and outcome.restored and outcome.steps == len(losses) - 1
    assert outcome.background == [*(20.0 + i for i in range(len(losses) - 1)), 20.0 + best], "that of what is given back"


def test_a_batch_that_is_worse_from_the_first_step_on_is_put_back_to_where_it_began():
    """Each candidate's loss is compared to what it was before any step, not to what others had made of it."""
    weight, _, outcome = descend([1.0, 900, 900, 900, 900, 900], before=[1.0, 1.0, 1.0])
    assert weight == 0 and outcome.reason == "diverged" and outcome.steps < 3


def test_candidates_that_differ_are_no_divergence():
    """One background may be a hundred times as hard as another."""
    outcome = descend([1, 100, 0.9, 90, 0.8, 80], before=[1, 100])[2]
    assert outcome.reason == "all steps done" and not outcome.restored
    weight, seen, outcome = descend([1, 100, 0.5, 50, 0.9, 90, 20, 2000], before=[1, 100])
    assert outcome.restored and weight == seen[3], "the best round of both"


def test_it_stops_when_the_background_no_longer_improves():
    levels = [20 + 0.1 * min(step, 30) for step in range(500)]
    outcome = descend([1.0] * 500, levels=levels)[2]
    assert outcome.reason == "no longer improved" and 30 + 125 <= outcome.steps <= 30 + 2 * 125
    outcome = descend([1.0] * 20, levels=[20, 21, 22, 23, 24, 25, *[25] * 14])[2]
    assert outcome.reason == "no longer improved" and outcome.steps == 10, "a short fit, too"
    weight, seen, outcome = descend([9, 8, 7, 1, *[5] * 16], levels=[20, 21, 22, 23, 24, 25, *[25] * 14])
    assert outcome.reason == "no longer improved" and weight == seen[3] and not outcome.restored, "the best is kept"
    assert descend([1.0] * 5, levels=[20] * 5)[2].steps == 4, "not while the rate still rises"
    assert descend([1.0] * 201, levels=[20 + 0.01 * step for step in range(201)])[2].steps == 200, "slowly is not at all"


def test_it_stops_at_the_target_of_all_candidates_on_average():
    assert descend([1.0] * 9, levels=[20, 30, 40, 50, 60, 60, 60, 60, 60], target=40)[2].steps == 2
    outcome = descend([1.0] * 9, before=[1.0, 1.0], levels=[45, 20, 50, 30, 60, 50, 60, 60, 60], target=40)[2]
    assert outcome.steps == 3 and outcome.reason == "target reached" and outcome.background == [32.5, 35.0, 40.0]
    assert descend([1.0] * 4, before=[1.0, 1.0], levels=[math.nan, 20, math.nan, 45], target=40)[2].steps == 3, "one has no background"


def test_without_steps_nothing_changes():
    weight, seen, outcome = descend([], before=[1.0])
    assert weight == 0 and outcome.steps == 0 and outcome.reason == "all steps done" and not seen
