"""The objective that latent optimisation and decoder tuning share (paper, section 3.4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

OnStep = Callable[[int, float, Tensor], None]


def objective(y: Tensor, x_hat: Tensor, x: Tensor, m: Tensor, lam: float) -> Tensor:
    """‖y · m - x_hat · m‖ + lam ‖y · (1 - m) - x · (1 - m)‖, both as means of squares over all pixels, as the authors do.

    Args:
        y: (B, C, H, W), the picture that is being fitted, in -1..1 and a little beyond.
        x_hat: (B, C, H, W), the edit as first decoded.
        x: (B or 1, C, H, W), the source.
        m: (B or 1, 1, H, W) in 0..1.
        lam: >= 0; 100 in the paper.
    """
    return ((y - x_hat) * m).square().mean() + lam * ((y - x) * (1 - m)).square().mean()


def minimise(
    variables: Iterable[Tensor], predict: Callable[[], Tensor], loss: Callable[[Tensor], Tensor], iterations: int, lr: float, on_step: OnStep
) -> Tensor:
    """Adam on `variables` so that loss(predict()) falls; the paper's optimiser.

    on_step(step, loss, picture) is called after each step; what it raises ends the fit.

    Returns: predict() with the last variables, without a graph.
    """
    optimiser = torch.optim.Adam(variables, lr=lr)
    for step in range(iterations):
        optimiser.zero_grad(set_to_none=True)
        y = predict()
        value = loss(y)
        value.backward()
        optimiser.step()
        on_step(step, float(value.detach()), y.detach())
    with torch.no_grad():
        return predict()
