"""Decoder weights: theta* = argmin_theta of the objective, z_0 fixed. The paper's choice."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from .objective import OnStep, minimise, objective


def tune_decoder(
    decode: Callable[[Tensor], Tensor],
    theta: Iterable[Tensor],
    z: Tensor,
    x: Tensor,
    m: Tensor,
    lam: float,
    iterations: int,
    lr: float,
    on_step: OnStep,
) -> Tensor:
    """Changes theta, the decoder's weights, in place: give it a copy's.

    decode: D_theta, (B, C, h, w) -> (B, C, H, W) in -1..1. z: the sampled latent z_0, never one encoded from a picture.
    x, m, lam: see `objective`.

    Returns: D_theta*(z).
    """
    x_hat = decode(z).detach()
    return minimise(theta, lambda: decode(z), lambda y: objective(y, x_hat, x, m, lam), iterations, lr, on_step)
