"""Latent optimisation: z* = argmin_z of the objective, D fixed. Over-smooth, since D cannot express the detail."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .objective import OnStep, minimise, objective


def tune_latent(
    decode: Callable[[Tensor], Tensor], z: Tensor, x: Tensor, m: Tensor, lam: float, iterations: int, lr: float, on_step: OnStep
) -> tuple[Tensor, Tensor]:
    """Starts from the sampled latent z (B, C, h, w), which is left as it is.

    decode: D, (B, C, h, w) -> (B, C, H, W) in -1..1. x, m, lam: see `objective`.

    Returns: D(z*) and z*.
    """
    x_hat = decode(z).detach()
    z_star = z.detach().clone().requires_grad_(True)
    y = minimise([z_star], lambda: decode(z_star), lambda y: objective(y, x_hat, x, m, lam), iterations, lr, on_step)
    return y, z_star.detach()
