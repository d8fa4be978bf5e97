"""Poisson image editing (Pérez et al. 2003): the edit's gradients inside the mask, the source's pixels around it. No seam, but the colour drifts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse
import torch
from scipy.sparse import linalg
from torch import Tensor

from .paste import paste

CELL = 3
COARSEST = 500
DAMPING = 2 / 3

Linear = Callable[[np.ndarray], np.ndarray]


def poisson(x_hat: Tensor, x: Tensor, m: Tensor, on_iteration: Callable[[], None] = lambda: None) -> Tensor:
    """Clones x_hat into x: where m > 0 the result has the Laplacian of x_hat, and the pixels of x stand around it.

    The frame's edge holds nothing fixed, so a mask may touch it; a mask that leaves nothing out leaves x_hat as it is.
    A soft mask mixes the clone with x by m.

    Args:
        x_hat: (B, C, H, W) in 0..1.
        x: (B or 1, C, H, W) in 0..1.
        m: (B or 1, H, W) in 0..1.
        on_iteration: called at every iteration of the solver; what it raises ends the solve.

    Returns: (B, C, H, W) in 0..1, x itself where m = 0; within 1e-3 of a direct solve.

    Raises ValueError where x_hat or x holds NaN around the mask.
    """
    clone = x_hat.clone()
    for index, region in enumerate((m > 0).cpu().numpy()):
        if region.all() or not region.any():
            continue
        box = (slice(None), *(slice(max(side.min() - 1, 0), side.max() + 2) for side in region.nonzero()))
        solve = laplace_solver(region[box[1:]], on_iteration)
        for i in range(index, len(clone), len(m)):
            # Solving for the correction: it is smooth, whatever the texture of the two pictures.
            difference = (x[i % len(x)][box] - x_hat[i][box]).cpu().double().numpy()
            clone[i][box] += torch.from_numpy(solve(difference)).to(clone)
    return paste(clone.clamp_(0, 1), x, m)


def laplace_solver(region: np.ndarray, on_iteration: Callable[[], None]) -> Linear:
    """The Laplace equation in `region`, (H, W) of bool, whose neighbours are given; natural conditions at the frame's edge.

    Returns: a function from (C, H, W), which is read around the region only, to (C, H, W), 0 outside the region.
    """
    matrix = laplacian(region)
    precondition = multigrid(matrix, region)

    def solve(values: np.ndarray) -> np.ndarray:
        shape = matrix.shape[0], len(values)

        def operator(apply: Linear) -> linalg.LinearOperator:
            return linalg.LinearOperator((shape[0] * shape[1],) * 2, lambda v: apply(v.reshape(shape)).ravel(), dtype=float)

        given = neighbour_sum(np.where(region, 0, values))[:, region].T
        if not np.isfinite(given).all():
            raise ValueError("The pictures contain NaN or infinite values around the mask: check the nodes that made them.")
        # To 1e-5 of the given values, SciPy's default, whose name is not the same in all versions.
        flat, _ = linalg.cg(operator(lambda v: matrix @ v), given.ravel(), atol=0.0, M=operator(precondition), callback=lambda _: on_iteration())
        filled = np.zeros_like(values)
        filled[:, region] = flat.reshape(shape).T
        return filled

    return solve


def neighbour_sum(values: np.ndarray) -> np.ndarray:
    """The sum over the up to four neighbours inside the frame: (..., H, W) -> (..., H, W)."""
    total = np.zeros_like(values)
    total[..., 1:, :] += values[..., :-1, :]
    total[..., :-1, :] += values[..., 1:, :]
    total[..., 1:] += values[..., :-1]
    total[..., :-1] += values[..., 1:]
    return total


def numbered(region: np.ndarray) -> np.ndarray:
    """The pixels of a region numbered in reading order, from 0: (H, W) of bool -> (H, W) of int, of no meaning elsewhere."""
    return (np.cumsum(region, dtype=np.int32) - 1).reshape(region.shape)


def laplacian(region: np.ndarray) -> scipy.sparse.csr_array:
    """Minus the five-point Laplacian on the numbered pixels of a region; neighbours outside it count, those outside the frame do not."""
    number = numbered(region)
    across, down = region[:, :-1] & region[:, 1:], region[:-1] & region[1:]
    here = np.concatenate([number[:, :-1][across], number[:-1][down]])
    there = np.concatenate([number[:, 1:][across], number[1:][down]])
    degree, itself = neighbour_sum(np.ones(region.shape))[region], number[region]
    values = np.concatenate([degree, np.full(2 * len(here), -1.0)])
    places = np.concatenate([itself, here, there]), np.concatenate([itself, there, here])
    return scipy.sparse.coo_array((values, places), shape=2 * degree.shape).tocsr()


def multigrid(matrix: scipy.sparse.csr_array, region: np.ndarray) -> Linear:
    """One V-cycle of smoothed aggregation (Vaněk, Mandel, Brezina 1996): roughly the inverse of the Laplacian of a region.

    It keeps the number of iterations of conjugate gradients from growing with the picture. CELL x CELL pixels become one
    of the next grid; what stands for them is theirs, damped once.
    """
    pixels = np.nonzero(region)
    if len(pixels[0]) <= COARSEST:
        return linalg.splu(matrix.tocsc()).solve
    cells = pixels[0] // CELL, pixels[1] // CELL
    coarse_region = np.zeros([-(-side // CELL) for side in region.shape], bool)
    coarse_region[cells] = True
    constant = scipy.sparse.csr_array((np.ones(len(cells[0])), numbered(coarse_region)[cells], np.arange(len(cells[0]) + 1, dtype=np.int32)))
    step = DAMPING / matrix.diagonal()[:, None]
    prolong = constant - (matrix @ constant).multiply(step).tocsr()
    restrict = prolong.T.tocsr()
    coarse = multigrid(restrict @ (matrix @ prolong), coarse_region)

    def cycle(b: np.ndarray) -> np.ndarray:
        v = step * b
        v += prolong @ coarse(restrict @ (b - matrix @ v))
        v += step * (b - matrix @ v)
        return v

    return cycle
