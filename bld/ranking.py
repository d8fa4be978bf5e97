"""Prediction ranking (paper, section 3.5): normalised cosine similarity of CLIP(x_hat · m) and CLIP(d)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SCOPES = ("masked", "box", "whole")


def mask_box(m: Tensor, context: float = 0.0) -> tuple[slice, slice]:
    """Rows and columns of the mask's bounding box, widened by `context` of its longer side, inside the picture.

    m: (H, W); > 0 counts. An empty mask gives the whole picture.
    """
    rows, columns = (torch.nonzero((m > 0).any(dim)).flatten() for dim in (1, 0))
    if len(rows) == 0:
        return slice(None), slice(None)
    ends = [(int(axis[0]), int(axis[-1]) + 1) for axis in (rows, columns)]
    margin = round(context * max(end - start for start, end in ends))
    box = [slice(max(0, start - margin), min(size, end + margin)) for (start, end), size in zip(ends, m.shape, strict=True)]
    return box[0], box[1]


def view(x_hat: Tensor, m: Tensor, scope: str, size: tuple[int, int], context: float = 0.25) -> Tensor:
    """What CLIP is shown of one candidate.

    Args:
        x_hat: (C, H, W) in 0..1.
        m: (H, W) in 0..1.
        scope: `masked` x_hat · m, all of it (the paper); `box` the mask's box and some context, unmasked; `whole` x_hat.
        size: (height, width) of CLIP's input, to which the view is stretched (the paper stretches, too).
        context: of scope `box`, see `mask_box`.

    Returns: (C, height, width) in 0..1.
    """
    if scope == "masked":
        x_hat = x_hat * m
    elif scope == "box":
        rows, columns = mask_box(m, context)
        x_hat = x_hat[:, rows, columns]
    elif scope != "whole":
        raise ValueError(f"scope was {scope!r}, must be one of {', '.join(SCOPES)}.")
    return F.interpolate(x_hat[None], size=size, mode="bicubic", antialias=True)[0].clamp(0, 1)


def cosine(images: Tensor, text: Tensor) -> Tensor:
    """Cosine similarity of each image embedding (N, E) with one text embedding (E,), in -1..1: (N,)."""
    return F.normalize(images, dim=-1) @ F.normalize(text, dim=-1)


def order(scores: Tensor) -> Tensor:
    """Indices from the best score to the worst; ties keep their order, NaN comes last. scores: (N,) -> (N,)."""
    return torch.argsort(scores.nan_to_num(nan=-torch.inf), descending=True, stable=True)
