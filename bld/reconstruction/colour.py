"""Colour fit: the change of tone that the background shows is taken off the edit, which is then pasted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
import torch
from torch import Tensor

from ..edges import feather_inside
from .paste import one_by_one, paste_one

SAMPLES = 1 << 16
ITERATIONS, CONVERGED = 30, 1e-6
STEADY_ITERATIONS = 200
# Errors this many times the usual one have no weight at all. There are pixels enough, so outliers matter more than precision.
TUKEY = 2.5
# Half a step of an 8-bit picture: smaller residuals are rounding.
FLOOR = 0.5 / 255
# A background whose colours, or places, spread less than this says too little about the gain, or the field: these then stay near 1, or 0.
GAIN_SPREAD, FIELD_SPREAD = 0.02, 0.1


@dataclass(frozen=True)
class ColourFit:
    """Of one picture, where its mask is 0: source = gain · edit + field, per channel.

    gain: (C,). field: (3, C), for 1, u, v with u, v = -1..1 across the width and height: a plane,
    since a higher order runs wild far from the background. middle: (4, C), the mean of the edit's color and of 1, u, v over
    the pixels that the fit explains. pixels: how many there were to fit; with none, gain 1 and field 0. inliers: the share of
    them that the fit explains. residual: their median absolute error, 0..1.
    """

    gain: Tensor
    field: Tensor
    middle: Tensor
    pixels: int
    inliers: float
    residual: float


def colour_fit(
    x_hat: Tensor, x: Tensor, m: Tensor, feather: int = 0, frames: int = 1, on_frame: Callable[[], None] = lambda: None
) -> tuple[Tensor, list[ColourFit]]:
    """Pastes the edit into the source in the source's tone.

    Of a video, gain and field change from frame to frame by no more than the source's own tone does, see `steady`.

    Args:
        x_hat: (B, C, H, W) in 0..1, the whole picture as decoded: its unmasked area is what is compared with the source.
        x: (B or 1, C, H, W) in 0..1.
        m: (B or 1, H, W) in 0..1; pixels with m = 0 are fitted, the others are dropped.
        feather: pixels of transition, see `paste`.
        frames: of each video, one after the other in the batch; 1 for pictures.
        on_frame: called before each picture's fit; what it raises ends the fits.

    Returns: (B, C, H, W) in 0..1, x itself where m = 0; the fit of each picture.
    """
    fits = []
    for i, y in enumerate(x_hat):
        on_frame()
        fits.append(fit(y, x[i % len(x)], m[i % len(m)]))
    if frames > 1:
        fits = [one for i in range(0, len(fits), frames) for one in steady(fits[i : i + frames], own_changes(x, m, i, frames))]
    each = iter(fits)
    return one_by_one(lambda y, source, mask: paste_one(apply(next(each), y), source, mask), x_hat, x, feather_inside(m, feather)), fits


def fit(x_hat: Tensor, x: Tensor, m: Tensor) -> ColourFit:
    """Robust: iteratively reweighted least squares with Tukey's biweight, from the median shift on, on a fixed random sample.

    x_hat, x: (C, H, W). m: (H, W).
    """
    unmasked = (m.flatten() == 0).nonzero()[:, 0].cpu()
    pixels = len(unmasked)
    if pixels == 0:
        none = torch.zeros(4, len(x_hat)).double()
        return ColourFit(none[0] + 1, none[1:], none, 0, 0.0, 0.0)
    if pixels > SAMPLES:
        unmasked = unmasked[torch.randint(pixels, (SAMPLES,), generator=torch.Generator().manual_seed(0))]
    edit, source = (t.flatten(1)[:, unmasked.to(t.device)].cpu().double() for t in (x_hat, x))
    places = basis(*m.shape).flatten(0, 1)[unmasked].double()
    solved = [fit_channel(y, target, places) for y, target in zip(edit, source, strict=True)]
    coefficients = torch.stack([c for c, _, _ in solved], 1)
    weights, errors = (torch.stack(parts) for parts in list(zip(*solved, strict=True))[1:])
    middle = torch.cat([(weights * edit).sum(1)[None], places.T @ weights.T]) / weights.sum(1).clamp(min=1e-9)
    return ColourFit(coefficients[0], coefficients[1:], middle, pixels, float((weights > 0).double().mean()), float(errors.abs().median()))


def traits(one: ColourFit, middle: Tensor) -> Tensor:
    """What a fit does, in terms that hardly depend on each other: gain - 1, the shift of what lies in the middle, and the field's slopes, (4, C)."""
    change = torch.cat([one.gain[None] - 1, one.field])
    change[1] = (change * middle).sum(0)
    return change


def own_changes(x: Tensor, m: Tensor, first: int, frames: int) -> Tensor:
    """How the source's tone changes from frame to frame: the sizes of the `traits` of the fit that leads from one to the next, (frames - 1, 4, C)."""
    changes = []
    for i in range(first + 1, first + frames):
        before, now = (x[j % len(x)] for j in (i - 1, i))
        one = fit(before, now, torch.maximum(m[(i - 1) % len(m)], m[i % len(m)]))
        changes.append(traits(one, one.middle).abs())
    return torch.stack(changes)


def steady(fits: list[ColourFit], changes: Tensor) -> list[ColourFit]:
    """The nearest fits, in least squares, whose `traits` differ from one frame to the next by at most `changes`, see `own_changes`.

    A frame without a background, which tells nothing, takes what its neighbors have.
    """
    telling = [one.pixels > 0 for one in fits]
    if not any(telling):
        return fits
    mean = torch.stack([one.middle for one in fits if one.pixels > 0]).mean(0)
    middles = [one.middle if one.pixels > 0 else mean for one in fits]
    wanted = torch.stack([traits(one, middle) for one, middle in zip(fits, middles, strict=True)])
    found = within(wanted.flatten(1).numpy(), changes.flatten(1).numpy(), np.array(telling, float))
    return [with_traits(*each) for each in zip(fits, middles, torch.from_numpy(found).view_as(wanted), strict=True)]


def with_traits(one: ColourFit, middle: Tensor, wanted: Tensor) -> ColourFit:
    """A fit with other `traits`."""
    change = wanted.clone()
    change[1] -= (wanted * middle).sum(0) - wanted[1] * middle[1]
    return replace(one, gain=1 + change[0], field=change[1:])


def within(wanted: np.ndarray, most: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The nearest sequence to `wanted` (T, N), its rows weighted by (T,), whose rows differ by at most `most` (T - 1, N) from the one before.

    By the alternating direction method of multipliers. The differences that are returned keep to `most` exactly.
    """
    penalty = len(wanted)
    bands = np.zeros((2, len(wanted)))
    bands[0, 1:] = -penalty
    bands[1] = weights + penalty * np.r_[1, np.full(len(wanted) - 2, 2), 1]
    split, dual = np.zeros_like(most), np.zeros_like(most)
    for _ in range(STEADY_ITERATIONS):
        pull = np.diff(penalty * (split - dual), axis=0, prepend=0, append=0)
        differences = np.diff(scipy.linalg.solveh_banded(bands, weights[:, None] * wanted - pull), axis=0)
        split = np.clip(differences + dual, -most, most)
        dual += differences - split
    shape = np.cumsum(np.concatenate([np.zeros_like(wanted[:1]), split]), 0)
    return shape + np.average(wanted - shape, 0, weights)


def fit_channel(y: Tensor, target: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """target = gain · y + places @ field. y, target: (N,). places: (N, 3), the first column ones.

    The difference is fitted against the mean of the two. Against y alone, detail that the VAE adds would lower the gain,
    against the target alone, detail that it loses would raise it.

    Returns: gain and field as one (4,), the weight and the error of each pixel (N,).
    """
    features = torch.cat([(y + target)[:, None] / 2, places], 1)
    spread = torch.tensor([GAIN_SPREAD, 0, FIELD_SPREAD, FIELD_SPREAD]).double()
    shift = target - y
    errors, coefficients = shift - shift.median(), torch.zeros(4).double()
    for _ in range(ITERATIONS):
        scale = max(1.4826 * float(errors.abs().median()), FLOOR)
        weights = (1 - (errors / (TUKEY * scale)).square()).clamp(min=0).square()
        weighted = features * weights[:, None]
        before, coefficients = coefficients, torch.linalg.solve(features.T @ weighted + weights.sum() * spread.square().diag(), weighted.T @ shift)
        errors = shift - features @ coefficients
        if (coefficients - before).abs().max() < CONVERGED:
            break
    half = coefficients[0] / 2
    return torch.cat([1 + half[None], coefficients[1:]]) / (1 - half), weights, errors


def basis(height: int, width: int) -> Tensor:
    """1, u, v at every pixel, u and v = -1..1 across the width and height: (H, W, 3)."""
    v, u = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return torch.stack([torch.ones_like(u), u, v], -1)


def apply(one: ColourFit, x_hat: Tensor) -> Tensor:
    """The edit (C, H, W) in the source's tone, clamped to 0..1."""
    field = (basis(*x_hat.shape[-2:]) @ one.field.float()).movedim(-1, 0).to(x_hat)
    return (x_hat * one.gain[:, None, None].to(x_hat) + field).clamp(0, 1)
