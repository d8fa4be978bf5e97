"""Prediction ranking (paper, section 3.5): normalised cosine similarity of CLIP(x_hat · m) and CLIP(d)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .masks import mask_box
from .metrics import LEVELS, background_psnr, seam

SCOPES = ("masked", "box", "whole")
# What a mix looks at, see "Why a close-up" in docs/FIGURES.md: of a masked picture that is nearly all black, CLIP sees little.
MIXED = ("close-up", "box", "whole")
VIEWS = (*SCOPES, "close-up")
# Around a close-up, as a share of its longer side.
MARGIN = 0.1
# A video is judged by so many of its frames.
SAMPLED = 4
NO_MIN_SCORE = -100.0

# {} is the prompt. Several wordings of one thing, averaged, name it better than one (CLIP, Radford et al. 2021, section 3.1.4).
TEMPLATES = {
    "none": ("{}",),
    "photo": (
        "{}",
        "a photo of {}",
        "a close-up photo of {}",
        "a cropped photo of {}",
        "a bright photo of {}",
        "a dark photo of {}",
        "a blurry photo of {}",
    ),
}
# What a prompt that was drawn as text looks like (paper, limitations).
LETTERING = ("text", "letters and words", "a caption", "a poster with writing on it", "a sign with words on it", "a watermark")


def background_error(x_hat: Tensor, x: Tensor, m: Tensor) -> float:
    """RMSE of the area that the mask leaves out, against the source; 0 where it leaves nothing out.

    x_hat, x: (C, H, W) in 0..1, m: (H, W) in 0..1. Returns: in parts of the pixel range, 0..1.
    """
    psnr = background_psnr(x_hat[None], x[None], m[None])
    return 0.0 if math.isnan(psnr) else 10 ** (-psnr / 20)


def seam_error(x_hat: Tensor, x: Tensor, m: Tensor) -> float:
    """The step across the mask's edge beyond the source's own, see `metrics.seam`; 0 for a mask without an edge.

    Arguments and return value as for `background_error`.
    """
    step = seam(x_hat[None], x[None], m[None])
    return 0.0 if math.isnan(step) else step / LEVELS


# What makes an edited picture unreal apart from its content: each a function (x_hat, x, m) -> parts of the pixel range, 0 is perfect.
ERRORS: dict[str, Callable[[Tensor, Tensor, Tensor], float]] = {"background": background_error, "seam": seam_error}


def sampled(frames: int) -> list[int]:
    """The frames that a video is judged by, spread over it: the middle of each of SAMPLED equal parts; all, if it has no more."""
    count = min(SAMPLED, frames)
    return [frames * (2 * part + 1) // (2 * count) for part in range(count)]


def view(x_hat: Tensor, m: Tensor, scope: str, size: tuple[int, int], context: float = 0.25, interpolation: str = "bicubic") -> Tensor:
    """What CLIP is shown of one candidate.

    Args:
        x_hat: (C, H, W) in 0..1.
        m: (H, W) in 0..1.
        scope: `masked` x_hat · m, all of it (the paper); `close-up` x_hat · m in the mask's box and MARGIN around it; `box` the mask's box and some
            context, unmasked; `whole` x_hat.
        size: (height, width) of CLIP's input, to which the view is stretched (the paper stretches, too).
        context: of scope `box`, see `mask_box`.
        interpolation: `bicubic` or `bilinear`, as in the CLIP's own preprocessing; antialiased.

    Returns: (C, height, width) in 0..1.
    """
    if scope not in VIEWS:
        raise ValueError(f"scope is {scope!r}, but must be one of {', '.join(VIEWS)}.")
    if scope in ("masked", "close-up"):
        x_hat = x_hat * m
    if scope in ("box", "close-up"):
        rows, columns = mask_box(m, context if scope == "box" else MARGIN)
        x_hat = x_hat[:, rows, columns]
    return F.interpolate(x_hat[None], size=size, mode=interpolation, antialias=True)[0].clamp(0, 1)


def phrases(prompt: str, templates: str = "none") -> list[list[str]]:
    """The phrases of each line of a prompt, one for each template; empty lines do not count.

    templates: a key of TEMPLATES; `none` takes the lines as they are (the paper).
    """
    lines = [line.strip() for line in prompt.splitlines()]
    return [[template.format(line) for template in TEMPLATES[templates]] for line in lines if line]


def ensemble(texts: Tensor) -> Tensor:
    """One embedding for several texts, (N, E) -> (E,): the mean of their directions, of length 1.

    A candidate's similarity with it orders candidates as the mean of its similarities with each text does, as in CLIP's prompt
    ensembling: lines are wordings of one wish, and a candidate is to fit them all. The largest similarity instead would put
    first what fits one wording by chance and would grow with every line that is added.
    """
    return F.normalize(F.normalize(texts, dim=-1).mean(0), dim=-1)


def cosine(images: Tensor, text: Tensor) -> Tensor:
    """Cosine similarity of each image embedding (N, E) with one text embedding (E,), in -1..1: (N,)."""
    return F.normalize(images, dim=-1) @ F.normalize(text, dim=-1)


def order(scores: Tensor) -> Tensor:
    """Indices from the best score to the worst; ties keep their order, NaN comes last. scores: (N,) -> (N,)."""
    return torch.argsort(scores.nan_to_num(nan=-torch.inf), descending=True, stable=True)


def best(scores: Tensor, top_k: int = 0, min_score: float = NO_MIN_SCORE) -> Tensor:
    """Indices of the candidates to keep, best first, at least one where there is one.

    Args:
        scores: (N,), NaN for a candidate without one.
        top_k: how many at most; 0 all.
        min_score: a candidate below it is left out, and from NO_MIN_SCORE upwards one without a score.
    """
    first = order(scores)[: top_k or None]
    count = int((scores[first].nan_to_num(nan=NO_MIN_SCORE) >= min_score).sum())
    return first[: max(count, 1)]


def survivors(count: int, keep: float, at_least: int = 1) -> int:
    """How many of `count` candidates a round of pruning keeps: the share `keep` (0..1), rounded up, but `at_least` so many."""
    return min(count, max(at_least, math.ceil(count * keep - 1e-9)))
