"""Judging candidates part-way, for pruning: what CLIP says of the picture that a candidate is going to be."""

from __future__ import annotations

import logging
from collections.abc import Callable

import comfy.sd
from torch import Tensor

from ...bld import masks, ranking
from ..checks import as_mask
from .models import OpenClip
from .similarity import cuts, similarity

CONTEXT = 0.25
# Latent cells beyond what is judged: a decoder looks at its neighbors.
NEIGHBOURS = 2


def judge_of(clip: OpenClip, vae: comfy.sd.VAE, prompt: str, mask: Tensor, scope: str) -> Callable[[Tensor], Tensor]:
    """A function from latents (B, C, ..., h, w) to scores (B,), larger is better.

    Args: as the inputs of Prune Candidates. Raises ValueError for an empty prompt or more than one mask; the function itself does for
    latents of another size than the mask's.
    """
    wanted = ranking.phrases(prompt)
    if not wanted:
        raise ValueError("prompt is empty: describe what you want to see inside the mask.")
    for note in cuts(clip, "prompt", wanted):
        logging.warning("Prune Candidates: %s", note)
    mask = as_mask(mask)
    if len(mask) != 1:
        raise ValueError(f"mask has {len(mask)} in its batch, but pruning needs a single one: connect one mask for all candidates.")

    def judge(z: Tensor) -> Tensor:
        part = masks.as_encoded(mask, z.shape[-2:])[0]
        scale = max(1, part.shape[-1] // z.shape[-1])
        rows, columns = cells_to_see(part, scope, scale)
        # One at a time, as they are judged: it takes the memory of one, and on a CPU less time.
        pictures = [vae.decode(one).flatten(0, -4)[0] for one in z[..., rows, columns].split(1)]
        ratio = pictures[0].shape[1] // (columns.stop - columns.start)
        height, width = (ratio * side for side in z.shape[-2:])
        if part.shape != (height, width):
            raise ValueError(f"mask is {mask.shape[2]}x{mask.shape[1]}, but the candidates decode to {width}x{height}: connect the mask of the source.")
        seen = part[rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale]
        return similarity(pictures, [seen] * len(pictures), clip, wanted, [], [scope], CONTEXT)[:, 0]

    return judge


def cells_to_see(m: Tensor, scope: str, scale: int) -> tuple[slice, slice]:
    """The rows and columns of a latent that this scope needs decoded: all, or the box of the mask (H, W) with NEIGHBOURS around it."""
    box = ranking.mask_box(m, CONTEXT) if scope == "box" else (slice(None), slice(None))
    edges = (pixels.indices(side) for pixels, side in zip(box, m.shape, strict=True))
    rows, columns = (
        slice(max(0, start // scale - NEIGHBOURS), min(side // scale, -(-stop // scale) + NEIGHBOURS))
        for (start, stop, _), side in zip(edges, m.shape, strict=True)
    )
    return rows, columns
