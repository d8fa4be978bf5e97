"""Latent optimisation: z* = argmin_z of the objective, D fixed. Over-smooth, since D cannot express the detail."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .objective import OnStep, Outcome, Settings, background_db, minimise, objective, trainable


def tune_latent(decode: Callable[[Tensor], Tensor], z: Tensor, x: Tensor, m: Tensor, settings: Settings, on_step: OnStep) -> tuple[Tensor, Tensor, Outcome]:
    """Starts from the sampled latent z (B, C, ..., h, w), which is left as it is.

    One candidate is decoded at a time: the descent holds what lies between the layers for one.

    decode: D, (1, C, ..., h, w) -> (1, C, H, W) in -1..1. x: (B or 1, C, H, W), m: (B or 1, 1, H, W), see `objective`.

    Returns: D(z*), z* and how the descent went.
    """

    def pictures(latents: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([decode(one) for one in latents.split(1)])

    x_hat = pictures(z)
    sources, masks = (t.expand(len(z), -1, -1, -1).split(1) for t in (x, m))
    with trainable([z.detach().clone()]) as (z_star,):

        def look(number: int) -> tuple[float, float, Tensor]:
            loss, drawn = 0.0, []
            for one, edit, source, mask in zip(z_star.split(1), x_hat.split(1), sources, masks, strict=True):
                y = decode(one)
                part = objective(y, edit, source, mask, settings.lam) / len(z)
                if torch.is_grad_enabled():
                    part.backward()
                loss += float(part.detach())
                drawn.append(y.detach())
            y = torch.cat(drawn)
            return loss, background_db(y, x, m), y

        outcome = minimise([z_star], look, settings, on_step, [float(objective(x_hat, x_hat, x, m, settings.lam))])
    return pictures(z_star), z_star, outcome
