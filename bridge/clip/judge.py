"""Judging candidates part-way, for pruning: what CLIP says of the picture that a candidate is going to be."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import comfy.sd
import torch
from torch import Tensor

from ...bld import masks, ranking
from ..checks import as_mask
from ..comfy_internals import bytes_to_decode
from ..sampling.candidates import Helpers
from ..vae.pixels import check_channels
from .models import OpenClip
from .similarity import cuts, similarity

CONTEXT = 0.25
# Pictures in memory at once.
AT_ONCE = 8
# Latent cells beyond what is judged: a decoder looks at its neighbors.
NEIGHBOURS = 2


@dataclass(frozen=True, eq=False)
class Judge:
    """Latents as a sampler node returns them, (B, C, ..., h, w) -> scores (B,), larger is better.

    Attributes:
        wanted: groups of phrases, see `ranking.phrases`.
        mask: (1, H, W) in 0..1.
        scope: one of `ranking.SCOPES`.
    """

    clip: OpenClip
    vae: comfy.sd.VAE
    wanted: list[list[str]]
    mask: Tensor
    scope: str

    def __call__(self, z: Tensor) -> Tensor:
        """Raises ValueError for latents of another size than the mask's."""
        return torch.cat([self.scores(some) for some in z.split(AT_ONCE)])

    def scores(self, z: Tensor) -> Tensor:
        part, scale, rows, columns = self.seen(z)
        # One at a time, as they are judged: it takes the memory of one, and on a CPU less time.
        pictures = [self.vae.decode(one).flatten(0, -4)[0] for one in z[..., rows, columns].split(1)]
        ratio = pictures[0].shape[1] // (columns.stop - columns.start)
        height, width = (ratio * side for side in z.shape[-2:])
        if part.shape != (height, width):
            size = f"{self.mask.shape[2]}x{self.mask.shape[1]}"
            raise ValueError(f"mask is {size}, but the candidates decode to {width}x{height}: connect the mask of the source.")
        part = part[rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale]
        return similarity(pictures, [part] * len(pictures), self.clip, self.wanted, [], [self.scope], CONTEXT)[:, 0]

    def seen(self, z: Tensor) -> tuple[Tensor, int, slice, slice]:
        """The mask (H, W) of what these latents decode to, pixels a cell, and the rows and columns of cells to decode."""
        part = masks.as_encoded(self.mask, z.shape[-2:])[0]
        scale = max(1, part.shape[-1] // z.shape[-1])
        return part, scale, *cells_to_see(part, self.scope, scale)

    def helpers(self, z: Tensor) -> Helpers:
        """The models that judge latents like these. Raises ValueError for latents of another VAE."""
        check_channels(self.vae, z, "latent_image of a sampler with pruning")
        _, _, rows, columns = self.seen(z)
        return Helpers((self.vae.patcher, self.clip.patcher), bytes_to_decode(self.vae, z[0, ..., rows, columns].shape))


def judge_of(clip: OpenClip, vae: comfy.sd.VAE, prompt: str, mask: Tensor, scope: str) -> Judge:
    """Args: as the inputs of Prune Candidates. Raises ValueError for an empty prompt or more than one mask."""
    wanted = ranking.phrases(prompt)
    if not wanted:
        raise ValueError("prompt is empty: describe what you want to see inside the mask.")
    for note in cuts(clip, "prompt", wanted):
        logging.warning("Prune Candidates: %s", note)
    mask = as_mask(mask)
    if len(mask) != 1:
        raise ValueError(f"mask has {len(mask)} in its batch, but pruning needs a single one: connect one mask for all candidates.")
    return Judge(clip, vae, wanted, mask, scope)


def cells_to_see(m: Tensor, scope: str, scale: int) -> tuple[slice, slice]:
    """The rows and columns of a latent that this scope needs decoded: all, or the box of the mask (H, W) with NEIGHBOURS around it."""
    box = masks.mask_box(m, CONTEXT) if scope == "box" else (slice(None), slice(None))
    edges = (pixels.indices(side) for pixels, side in zip(box, m.shape, strict=True))
    rows, columns = (
        slice(max(0, start // scale - NEIGHBOURS), min(side // scale, -(-stop // scale) + NEIGHBOURS))
        for (start, stop, _), side in zip(edges, m.shape, strict=True)
    )
    return rows, columns
