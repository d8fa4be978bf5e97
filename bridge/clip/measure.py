"""What is measured of each candidate, once: a ranking of the same candidates has its figures at hand."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import comfy.utils
import torch
from torch import Tensor

from ...bld import ranking
from ..checks import as_picture
from ..previews import digest
from .models import OpenClip
from .similarity import similarity, whole


def names_of(tensors: Sequence[Tensor]) -> list[str]:
    """A name for the contents of each tensor. The same one, given several times, is read once."""
    different = {id(tensor): tensor for tensor in tensors}
    with ThreadPoolExecutor() as pool:
        names = dict(zip(different, pool.map(digest, different.values()), strict=True))
    return [names[id(tensor)] for tensor in tensors]


def measure(
    pictures: list[Tensor],
    names: list[str],
    masks: list[Tensor],
    sources: list[Tensor] | None,
    clip: OpenClip,
    wanted: list[list[str]],
    unwanted: list[list[str]],
    scopes: Sequence[str],
    context: float,
) -> dict[str, Tensor]:
    """The similarity in each scope and, if there are sources, each of `ranking.ERRORS`: (N,) each, NaN for a picture with NaN.

    The CLIP remembers what it has measured, so whoever changes a pick, top_k, a weight or min_score doesn't wait for the figures again.

    Args: as for `similarity`; names: of the pictures, from `names_of`.
    """
    errors = tuple(ranking.ERRORS) if sources is not None else ()
    setting = (repr((wanted, unwanted, tuple(scopes), context)), errors)
    extras = [names_of(tensors) for tensors in (masks, *([sources] if sources is not None else []))]
    keys = [(setting, *of_picture) for of_picture in zip(names, *extras, strict=True)]
    found = {key: clip.memory[key] for key in keys if key in clip.memory}
    new = {key: index for index, key in enumerate(keys) if key not in found}
    if new:
        some = list(new.values())
        bar = comfy.utils.ProgressBar(len(some))
        measured = similarity(
            [pictures[i] for i in some], [masks[i] for i in some], clip, wanted, unwanted, scopes, context, lambda: bar.update(1)
        ).unbind(1)
        if sources is not None:
            measured += tuple(errors_of([pictures[i] for i in some], [sources[i] for i in some], [masks[i] for i in some]).values())
        found |= dict(zip(new, torch.stack(measured, 1).tolist(), strict=True))
        clip.memory.add(found)
    return dict(zip((*scopes, *errors), torch.tensor([found[key] for key in keys]).unbind(1), strict=True))


def errors_of(pictures: list[Tensor], sources: list[Tensor], masks: list[Tensor]) -> dict[str, Tensor]:
    """Each of `ranking.ERRORS` for each picture, (N,), NaN for a picture with NaN."""
    errors = {name: torch.full((len(pictures),), torch.nan) for name in ranking.ERRORS}
    for index, (picture, source, m) in enumerate(zip(pictures, sources, masks, strict=True)):
        if whole(picture):
            x_hat, x = (as_picture(image[None].cpu(), name)[0] for image, name in ((picture, "images"), (source, "source")))
            for name, error in ranking.ERRORS.items():
                errors[name][index] = error(x_hat, x, m.cpu())
    return errors
