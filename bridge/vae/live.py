"""A fit in the browser while it runs: its curve and its picture, on the node's own display."""

from __future__ import annotations

import math

from ...bld.reconstruction.objective import Step
from ..comfy_internals import tell
from ..previews import save_previews

# Steps from one picture to the next.
EVERY, LONGEST = 5, 512


def tell_step(step: Step, steps: int, node_id: str | None) -> None:
    """Sends a step's loss and background dB, and of some steps the picture, to the display of js/compare.js."""
    # JSON has no NaN: what is masked everywhere has no background.
    background = None if math.isnan(step.background) else step.background
    files = save_previews([(step.picture[0].movedim(0, -1).float() + 1) / 2], LONGEST) if node_id is not None and step.number % EVERY == 0 else []
    tell("blended_latent.fit", node_id, step=step.number + 1, steps=steps, loss=step.loss, background=background, files=files)
