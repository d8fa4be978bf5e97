"""Latent optimisation: z* = argmin_z of the objective, D fixed. Over-smooth, since D cannot express the detail."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .objective import OnStep, Outcome, Settings, background_db, minimise, objective, trainable


def tune_latent(decode: Callable[[Tensor], Tensor], z: Tensor, x: Tensor, m: Tensor, settings: Settings, on_step: OnStep) -> tuple[Tensor, Tensor, Outcome]:
    """Starts from the sampled latent z (B, C, ..., h, w), which is left as it is.

    decode: D, (B, C, ..., h, w) -> (B, C, H, W) in -1..1. x, m: see `objective`.

    Returns: D(z*), z* and how the descent went.
    """
    with torch.no_grad():
        x_hat = decode(z)
    with trainable([z.detach().clone()]) as (z_star,):

        def look(number: int) -> tuple[float, float, Tensor]:
            y = decode(z_star)
            loss = objective(y, x_hat, x, m, settings.lam)
            loss.backward()
            return float(loss.detach()), background_db(y.detach(), x, m), y.detach()

        outcome = minimise([z_star], look, settings, on_step, [float(objective(x_hat, x_hat, x, m, settings.lam))])
    with torch.no_grad():
        return decode(z_star), z_star, outcome
