"""Latent optimisation: z* = argmin_z of the objective, D fixed. Over-smooth, since D cannot express the detail.

D is taken in two parts, so that memory is never asked for both at once: the gradient on h, the tail's input, is found first, part
by part of the picture if that is wanted, and then what leads from z to h is computed once more and carries it back to z.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .crop import Tile, tiles_over
from .decoder import Work
from .objective import OnStep, Outcome, Settings, background_db, minimise, objective, trainable
from .tail import Tail, enter, h_of, held


def tune_latent(
    decode: Callable[[Tensor], Tensor], tail: Tail, z: Tensor, x: Tensor, m: Tensor, settings: Settings, work: Work, on_step: OnStep
) -> tuple[Tensor, Tensor, Outcome]:
    """Starts from the sampled latent z (B, C, ..., h, w), which is left as it is. One candidate is decoded at a time.

    In tiles, the norms of the tail keep the whole picture's statistics, and the gradient takes these as given.

    decode: D, (1, C, ..., h, w) -> (1, C, H, W) in -1..1. x: (B or 1, C, H, W), m: (B or 1, 1, H, W), see `objective`.

    Returns: D(z*), z* and how the descent went.
    """

    def pictures(latents: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([decode(one) for one in latents.split(1)])

    x_hat = pictures(z)
    tiles = tiles_over(torch.ones(x.shape[-2:], dtype=torch.bool), work.tile, tail.scale, tail.needs[0])
    sources, masks = (t.expand(len(z), -1, -1, -1).split(1) for t in (x, m))
    with trainable([z.detach().clone()]) as (z_star,):

        def look(number: int) -> tuple[float, float, Tensor]:
            each = zip(z_star.split(1), x_hat.split(1), sources, masks, strict=True)
            losses, drawn = zip(*(descend(decode, tail, tiles, work, settings.lam, *one) for one in each), strict=True)
            y = torch.cat(drawn)
            return sum(losses) / len(z), background_db(y, x, m), y

        outcome = minimise([z_star], look, settings, on_step, [float(objective(x_hat, x_hat, x, m, settings.lam))])
    return pictures(z_star), z_star, outcome


def descend(
    decode: Callable[[Tensor], Tensor], tail: Tail, tiles: list[Tile], work: Work, lam: float, z: Tensor, x_hat: Tensor, x: Tensor, m: Tensor
) -> tuple[float, Tensor]:
    """The objective of one candidate, and its picture. Where gradients are on, z gets that of the objective."""
    learning, y, total = torch.is_grad_enabled(), torch.empty_like(x_hat), 0.0
    with torch.no_grad(), work.autocast(z.device):
        h, statistics = (h_of(decode, tail, z), None) if len(tiles) == 1 else enter(decode, tail, z)[1:]
    h = h.float().requires_grad_(learning)
    with held(tail) as hold:
        if statistics is not None:
            hold(statistics)
        for tile in tiles:
            place = (..., *tile.pixels)
            with work.autocast(z.device):
                drawn = tail.decode(h[(..., *tile.cells)], tile.halo, work.thrifty).float()
            loss = objective(drawn, x_hat[place], x[place], m[place], lam) * drawn.numel() / y.numel()
            if learning:
                loss.backward()
            total += float(loss.detach())
            y[place] = drawn.detach()
    if learning:
        with work.autocast(z.device):
            again = h_of(decode, tail, z)
        again.backward(h.grad.to(again))
    return total, y
