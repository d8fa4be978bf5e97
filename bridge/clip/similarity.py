"""How well pictures show a prompt, as a CLIP sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import comfy.model_management
import torch
from torch import Tensor

from ...bld import ranking
from ..checks import as_picture, printable
from .models import OpenClip


def similarity(
    pictures: list[Tensor],
    masks: list[Tensor],
    clip: OpenClip,
    wanted: list[list[str]],
    unwanted: list[list[str]],
    scopes: Sequence[str],
    context: float,
    on_picture: Callable[[], None] = lambda: None,
) -> Tensor:
    """The similarity of each picture to what is wanted, minus its similarity to what is not, in each scope.

    Pictures are judged one at a time: half-precision kernels change with the batch size, and a picture's score would change with
    them. Memory stays that of one picture, too.

    Args:
        pictures: (H, W, C) each, C >= 3, in 0..1.
        masks: (H, W) each, in 0..1.
        wanted, unwanted: groups of phrases, see `ranking.phrases`. Each group has the same weight. unwanted may be empty.
        scopes: of `ranking.SCOPES`.
        context: for scope box.
        on_picture: called after each picture.

    Returns: (N, scopes), float32 on the CPU, NaN for a picture with NaN. Raises ValueError if CLIP itself returns NaN.
    """
    clip.load()
    texts = [embed(clip, groups) for groups in (wanted, unwanted) if groups]
    device = clip.patcher.load_device
    scores = torch.full((len(pictures), len(scopes)), torch.nan)
    for index, (picture, m) in enumerate(zip(pictures, masks, strict=True)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if whole(picture):
            x_hat = as_picture(picture[None].to(device))[0]
            views = [ranking.view(x_hat, m.to(device), scope, clip.size, context, clip.interpolation) for scope in scopes]
            seen = clip.embed_images(torch.stack(views))
            wish, *rest = (ranking.cosine(seen, text).cpu() for text in texts)
            scores[index] = wish - sum(rest)
            if not torch.isfinite(scores[index]).all():
                raise ValueError(f"clip {clip.name} gives no finite embedding in {clip.dtype}: its weights are damaged, so choose another model.")
        on_picture()
    return scores


def embed(clip: OpenClip, groups: list[list[str]]) -> Tensor:
    """One embedding, (E,), for groups of phrases."""
    return ranking.ensemble(torch.stack([ranking.ensemble(clip.embed_text(group)) for group in groups]))


def cuts(clip: OpenClip, name: str, groups: list[list[str]]) -> list[str]:
    """A sentence for each line that is longer than CLIP's context, with the last words that CLIP reads."""
    notes = []
    for group in groups:
        short = next((kept for phrase in group if (kept := clip.kept(phrase)) != phrase), None)
        if short is not None:
            # A prompt may hold what a terminal obeys, or a word of any length.
            end = printable(" ".join(short.split()[-6:])[-200:])
            notes.append(f'{name} was cut after "... {end}": this CLIP reads no further, so shorten it.')
    return notes


def whole(picture: Tensor) -> bool:
    """Whether a picture has no NaN and no infinite color."""
    return bool(torch.isfinite(picture[..., :3]).all())
