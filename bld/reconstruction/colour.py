"""Colour fit: the change of tone that the background shows is taken off the edit, which is then pasted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .paste import paste

SAMPLES = 1 << 16
ITERATIONS = 30
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
    since a higher order runs wild far from the background. pixels: how many there were to fit; with none, gain 1 and
    field 0. inliers: the share of them that the fit explains. residual: their median absolute error, 0..1.
    """

    gain: Tensor
    field: Tensor
    pixels: int
    inliers: float
    residual: float


def colour_fit(x_hat: Tensor, x: Tensor, m: Tensor, feather: int = 0) -> tuple[Tensor, list[ColourFit]]:
    """Pastes the edit into the source in the source's tone.

    Args:
        x_hat: (B, C, H, W) in 0..1, the whole picture as decoded: its unmasked area is what is compared with the source.
        x: (B or 1, C, H, W) in 0..1.
        m: (B or 1, H, W) in 0..1; pixels with m = 0 are fitted, the others are dropped.
        feather: pixels of transition, see `paste`.

    Returns: (B, C, H, W) in 0..1, x itself where m = 0; the fit of each picture.
    """
    fits = [fit(y, x[i % len(x)], m[i % len(m)]) for i, y in enumerate(x_hat)]
    matched = torch.stack([apply(one, y) for one, y in zip(fits, x_hat, strict=True)])
    return paste(matched, x, m, feather), fits


def fit(x_hat: Tensor, x: Tensor, m: Tensor) -> ColourFit:
    """Robust: iteratively reweighted least squares with Tukey's biweight, from the median shift on, on a fixed random sample.

    x_hat, x: (C, H, W). m: (H, W).
    """
    unmasked = (m.flatten() == 0).nonzero()[:, 0].cpu()
    pixels = len(unmasked)
    if pixels == 0:
        return ColourFit(torch.ones(len(x_hat)).double(), torch.zeros(3, len(x_hat)).double(), 0, 0.0, 0.0)
    if pixels > SAMPLES:
        unmasked = unmasked[torch.randint(pixels, (SAMPLES,), generator=torch.Generator().manual_seed(0))]
    edit, source = (t.flatten(1)[:, unmasked.to(t.device)].cpu().double() for t in (x_hat, x))
    places = basis(*m.shape).flatten(0, 1)[unmasked].double()
    solved = [fit_channel(y, target, places) for y, target in zip(edit, source, strict=True)]
    coefficients = torch.stack([c for c, _, _ in solved], 1)
    weights, errors = (torch.stack(parts) for parts in list(zip(*solved, strict=True))[1:])
    return ColourFit(coefficients[0], coefficients[1:], pixels, float((weights > 0).double().mean()), float(errors.abs().median()))


def fit_channel(y: Tensor, target: Tensor, places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """target = gain · y + places @ field. y, target: (N,). places: (N, 3), the first column ones.

    The difference is fitted against the mean of the two. Against y alone, detail that the VAE adds would lower the gain,
    against the target alone, detail that it loses would raise it.

    Returns: gain and field as one (4,), the weight and the error of each pixel (N,).
    """
    features = torch.cat([(y + target)[:, None] / 2, places], 1)
    spread = torch.tensor([GAIN_SPREAD, 0, FIELD_SPREAD, FIELD_SPREAD]).double()
    shift = target - y
    errors = shift - shift.median()
    for _ in range(ITERATIONS):
        scale = max(1.4826 * float(errors.abs().median()), FLOOR)
        weights = (1 - (errors / (TUKEY * scale)).square()).clamp(min=0).square()
        weighted = features * weights[:, None]
        coefficients = torch.linalg.solve(features.T @ weighted + weights.sum() * spread.square().diag(), weighted.T @ shift)
        errors = shift - features @ coefficients
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
