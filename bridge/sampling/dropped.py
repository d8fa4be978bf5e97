"""What a LATENT knows of the candidates that pruning has dropped, so that a later node can show them."""

from __future__ import annotations

from typing import TypedDict

# A list of Dropped. ComfyUI's nodes hand on a key that they don't know as it is.
KEY = "dropped_candidates"


class Dropped(TypedDict):
    """A candidate that was not finished.

    Attributes:
        seed: that draws it alone.
        score: of its prediction when it was dropped, from Prune Candidates.
        share: of the schedule at which it was dropped, 0..1.
    """

    seed: int
    score: float
    share: float


def dropped_of(latent: dict) -> list[Dropped]:
    """Those that a LATENT knows of; none if another node uses this key for something else."""
    known = latent.get(KEY)
    fields = set(Dropped.__annotations__)
    return known if isinstance(known, list) and all(isinstance(one, dict) and set(one) == fields for one in known) else []


def why(dropped: Dropped) -> str:
    """A sentence for the user."""
    return f"Pruning dropped it at {dropped['share']:.0%} of the schedule, where it scored {dropped['score']:.4f}."
