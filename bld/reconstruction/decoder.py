"""Decoder weights: theta* = argmin_theta of the objective, z_0 fixed. The paper's choice.

What the paper does to the whole decoder on the whole picture is done here to the decoder's last stages on the mask's
surroundings: the stages before are computed once, and beyond a ring around the mask the source's own pixels are kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from .crop import Tile, share_of_edit, tiles_over
from .objective import OnStep, Outcome, Settings, background_sums, decibels, minimise, objective, trainable
from .tail import Statistics, Tail, enter, held


@dataclass(frozen=True)
class Work:
    """How a fit is cut to the memory there is: pixels a side of a tile, and whether the backward pass computes activations again."""

    tile: int
    thrifty: bool = False
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Part:
    """One tile of one candidate: what the tail gets, and the pixels that are wanted of it; `share` as `share_of_edit` gives it."""

    candidate: int
    tile: Tile
    statistics: Statistics
    h: Tensor
    x_hat: Tensor
    x: Tensor
    m: Tensor
    share: Tensor


def look_at(decode: Callable[[Tensor], Tensor], tail: Tail, z: Tensor, x: Tensor, m: Tensor, ring: int, size: int) -> tuple[Tensor, list[Part]]:
    """Decodes every candidate once, and keeps what the fit needs.

    decode: D, (1, C, ..., h, w) -> (1, 3, H, W) in -1..1. z: (B, C, ..., h, w), the sampled z_0, never one encoded from a picture.
    x: (B or 1, 3, H, W), the source in -1..1. m: (B or 1, H, W) in 0..1. ring: pixels of transition around the mask.
    size: of a tile, in pixels.

    Returns: x_hat, (B, 3, H, W); the parts, none for a mask that is 0 everywhere.
    """
    share, pictures, found = share_of_edit(m, ring), [], []
    for i in range(len(z)):
        picture, h, statistics = enter(decode, tail, z[i : i + 1])
        source, mask, taken = (t[i % len(t)][None] for t in (x, m[:, None], share))
        for tile in tiles_over(taken[0, 0] > 0, size, tail.scale, tail.needs[0]):
            whole, wanted = (..., *tile.cells), (..., *tile.pixels)
            seen = (t[wanted].contiguous() for t in (picture, source, mask, taken))
            found.append(Part(i, tile, statistics, h[whole].contiguous(), *seen))
        pictures.append(picture)
    return torch.cat(pictures), found


def tune_decoder(tail: Tail, found: list[Part], settings: Settings, work: Work, on_step: OnStep) -> Outcome:
    """Changes the tail's weights in place: give it a copy's. Each step looks at all parts of one candidate, each in its turn.

    The candidates of one source share the weights, since they share the background.
    """
    candidates = [list(parts) for _, parts in groupby(found, lambda part: part.candidate)]
    with held(tail) as hold, trainable(tail.modules.parameters()) as theta:

        def look(number: int) -> tuple[float, float, Tensor]:
            parts = candidates[number % len(candidates)]
            pixels = sum(part.share.numel() for part in parts)
            total, sums = 0.0, []
            for part in parts:
                hold(part.statistics)
                with torch.autocast(part.h.device.type, dtype=torch.bfloat16, enabled=work.dtype == torch.bfloat16):
                    y = tail.decode(part.h, part.tile.halo, work.thrifty).float()
                near = (part.share > 0).to(y)
                loss = objective(y * near, part.x_hat * near, part.x * near, part.m, settings.lam) * (part.share.numel() / pixels)
                loss.backward()
                total += float(loss.detach())
                sums.append(background_sums(y.detach(), part.x, 1 - (1 - part.m) * near))
            squares, weights = zip(*sums, strict=True)
            return total, decibels(sum(squares), sum(weights)), y.detach()

        return minimise(theta, look, settings, on_step, rounds=len(candidates))


def compose(tail: Tail, found: list[Part], x: Tensor, count: int, finish: Callable[[Tensor], Tensor]) -> Tensor:
    """The edits in their source: the tail's picture where the mask is, the source's pixels, bit for bit, beyond the ring.

    x: (B or 1, 3, H, W) in 0..1. finish: from a decoder's picture to 0..1. Returns: (count, 3, H, W) in 0..1.
    """
    result = x.expand(count, -1, -1, -1).clone()
    with held(tail) as hold, torch.no_grad():
        for part in found:
            hold(part.statistics)
            y = finish(tail.decode(part.h, part.tile.halo))
            place = result[part.candidate][(slice(None), *part.tile.pixels)]
            share = part.share.to(place)[0]
            place.copy_(y[0].to(place) * share + place * (1 - share))
    return result
