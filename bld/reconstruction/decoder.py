"""Decoder weights: theta* = argmin_theta of the objective, z_0 fixed. The paper's choice.

What the paper does to the whole decoder on the whole picture is done here to the decoder's last stages on the mask and a
ring around it: the stages before are computed once, and the ring makes the tuned picture meet the source, whose own pixels are
kept outside the mask. What enters the last stages is blended as the latents were: outside the mask it is the source's. Else the
weights would have to take back what the edit draws beside the mask, and the edit with it. With a feather the edit comes in
over some pixels inside the mask, so that one that came out darker or lighter than its surroundings does not end at a line.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from .crop import Tile, tiles_over
from .objective import OnStep, Outcome, Settings, background_sums, decibels, minimise, objective, trainable
from .tail import Statistics, Tail, enter, h_of, held

# Frames of a video that a step looks at together.
WINDOW = 8


@dataclass(frozen=True)
class Work:
    """How a fit is cut to the memory there is: pixels a side of a tile, and whether the backward pass computes activations again."""

    tile: int
    thrifty: bool = False
    dtype: torch.dtype = torch.float32

    def autocast(self, device: torch.device) -> torch.autocast:
        """Computes in `dtype` inside. No cache: where the caller computes under autocast, too, the weights of the first step would serve for all."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16, cache_enabled=False)


@dataclass(frozen=True)
class Part:
    """One tile of one candidate, of a video that of a window of frames: what the tail gets, and the pixels that are wanted of it.

    rows: of the candidate's pictures in the batch. past, future: how many frames of h come before and after them. near: 1 in the mask and
    the ring, else 0.
    """

    candidate: int
    rows: slice
    past: int
    future: int
    tile: Tile
    statistics: Statistics
    h: Tensor
    x_hat: Tensor
    x: Tensor
    m: Tensor
    near: Tensor


def look_at(
    decode: Callable[[Tensor], Tensor], tail: Tail, z: Tensor, z_init: Tensor | None, x: Tensor, m: Tensor, near: Tensor, share: Tensor, size: int
) -> tuple[Tensor, list[Part]]:
    """Decodes every candidate once, and keeps what the fit needs.

    decode: D, (1, C, ..., h, w) -> (1, 3, H, W) in -1..1. z: (B, C, ..., h, w), the sampled z_0, never one encoded from a picture.
    z_init: (B or 1, C, ..., h, w), the source's latent; None for what the decoder draws unblended.
    x: (B or 1, 3, H, W), the source in -1..1. m: (B or 1, H, W) in 0..1. near: of the same shape, 1 in the mask and the ring around, else 0.
    share: of the same shape, how much of the edit comes in, see `Region.rise`. size: of a tile, in pixels.
    Of videos, D gives frames (T, 3, H, W), and pictures and masks are one, those of one video or those of all, frame after frame.

    Returns: the edit as decoded, (B, 3, H, W); the parts, none for a mask that is 0 everywhere. Their h, and the x_hat that they ask
    for inside the mask, rise from the source's to the edit's. To them any m > 0 is the mask: a soft one is for mixing the pixels.
    """
    inside, near, share = (t[:, None] for t in ((m > 0).to(m), near, share))
    pictures, found, outside = [], [], None
    for i in range(len(z)):
        picture, h, statistics = enter(decode, tail, z[i : i + 1])
        frames = len(picture)
        source, mask, close, rise = (of_video(t, i, frames) for t in (x, inside, near, share))
        if z_init is not None:
            outside = h_of(decode, tail, z_init[i : i + 1]) if i < len(z_init) else outside
            h = torch.lerp(outside, h, adaptive_avg_pool2d(rise, h.shape[-2:])[:, 0].to(h))
        x_hat = picture if z_init is None else torch.lerp(source, picture, rise)
        for tile in tiles_over((close > 0).any(0)[0], size, tail.scale, tail.needs[0]):
            h_tile = h[(..., *tile.cells)].contiguous()
            for start in range(0, frames, WINDOW):
                rows = slice(start, min(start + WINDOW, frames))
                window = slice(max(0, start - tail.past), min(rows.stop + tail.future, frames))
                seen = (t[(rows if len(t) > 1 else slice(None), ..., *tile.pixels)].contiguous() for t in (x_hat, source, mask, close))
                # Windows share the frames that lie around them.
                h_seen, norms = (h_tile, statistics) if frames == 1 else (h_tile[:, :, window], statistics.of_frames(window))
                place = slice(i * frames + rows.start, i * frames + rows.stop)
                found.append(Part(i, place, start - window.start, window.stop - rows.stop, tile, norms, h_seen, *seen))
        pictures.append(picture)
    return torch.cat(pictures), found


def of_video(t: Tensor, number: int, frames: int) -> Tensor:
    """The pictures or masks of one video, (1 or frames, ...), of those of all, (1, frames or all, ...). A picture is a video of one frame."""
    return t if len(t) in (1, frames) else t[number * frames : (number + 1) * frames]


def repeated(t: Tensor, count: int) -> Tensor:
    """A copy of so many pictures of those of t, again and again."""
    return t[torch.arange(count) % len(t)]


def tune_decoder(tail: Tail, found: list[Part], settings: Settings, work: Work, on_step: OnStep) -> Outcome:
    """Changes the tail's weights in place: give it a copy's. Each step looks at all parts of one candidate, each in its turn.

    The candidates of one source share the weights, since they share the background.
    """
    candidates = [list(parts) for _, parts in groupby(found, lambda part: part.candidate)]
    pixels = [sum(part.x_hat.numel() for part in parts) for parts in candidates]

    def loss_of(y: Tensor, part: Part) -> Tensor:
        return objective(y * part.near, part.x_hat * part.near, part.x * part.near, part.m, settings.lam) * part.x_hat.numel()

    with held(tail) as hold:

        def drawn(part: Part) -> Tensor:
            hold(part.statistics)
            with work.autocast(part.h.device):
                return tail.decode(part.h, part.tile.halo, work.thrifty, part.past, part.future).float()

        def look(number: int) -> tuple[float, float, Tensor]:
            one = number % len(candidates)
            total, sums = 0.0, []
            for part in candidates[one]:
                y = drawn(part)
                loss = loss_of(y, part) / pixels[one]
                if torch.is_grad_enabled():
                    loss.backward()
                total += float(loss.detach())
                sums.append(background_sums(y.detach(), part.x, 1 - (1 - part.m) * part.near))
            squares, weights = zip(*sums, strict=True)
            return total, decibels(sum(squares), sum(weights)), y.detach()

        with torch.no_grad():
            before = [float(sum(loss_of(drawn(part), part) for part in parts)) / count for parts, count in zip(candidates, pixels, strict=True)]
        with trainable(tail.modules.parameters()) as theta:
            return minimise(theta, look, settings, on_step, before)


def draw(tail: Tail, found: list[Part], x: Tensor, count: int, finish: Callable[[Tensor], Tensor]) -> Tensor:
    """What the tail draws in and around the mask, and the source elsewhere.

    x: (B or 1, 3, H, W) in 0..1. finish: from a decoder's picture to 0..1. Returns: (count, 3, H, W) in 0..1.
    """
    result = repeated(x, count)
    with held(tail) as hold, torch.no_grad():
        for part in found:
            hold(part.statistics)
            y = finish(tail.decode(part.h, part.tile.halo, past=part.past, future=part.future)).to(result)
            place = result[(part.rows, ..., *part.tile.pixels)]
            place.copy_(torch.where(part.near > 0, y, place))
    return result
