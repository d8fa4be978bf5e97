"""The blend of two latents and the noise of its background (paper, section 3.2 and algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def keep_background(z: Tensor, z_init: Tensor, m: Tensor) -> Tensor:
    """The last blend, at noise level 0: z where the mask reaches, z_init itself, bit for bit, where it does not.

    Args:
        z: (B, C, ..., h, w) result.
        z_init: the source latent, broadcastable to z.
        m: broadcastable to z, in 0..1; > 0 counts as reached, since a soft edge was mixed before.
    """
    return torch.where(m > 0, z, z_init)


def fresh_noise_gain(m: Tensor) -> Tensor:
    """How much stronger background noise must be for a blend under m to have the noise of its level.

    The blend is linear: z · m + z_bg · (1 - m), with z = a · z_0 + s · ε at the level and z_bg = a · z_init + s · g · ε_bg. Fresh
    noise ε_bg is independent of ε, so the variances of the two add up, and the noise of the blend is s · sqrt(m² + (1 - m)² · g²). With
    g = 1 that is only 0.71 · s where m is 0.5, less than a model is told. It is s, whatever m is, for g = sqrt((1 + m) / (1 - m)).
    The clean parts stay mixed by m : 1 - m.

    Args:
        m: in 0..1.

    Returns: g in the shape of m, >= 1, and exactly 1 where m is 0. Where m is 1 it is some large number, which the blend multiplies by 0.
    """
    return m.clamp(max=1 - 1e-6).atanh().exp()


def noise_again(z: Tensor, noise: Tensor, level: tuple[Tensor, Tensor], higher: tuple[Tensor, Tensor]) -> Tensor:
    """z at a noise level noised up to a higher one, as the forward process would: RePaint's jump back (Lugmayr et al. 2022).

    Args:
        z: (B, ...) at `level`.
        noise: unit noise, as z.
        level, higher: each the (signal, noise) factors of a level: z = signal · z_0 + noise · ε.
    """
    ratio = higher[0] / level[0]
    return ratio * z + (higher[1] ** 2 - (ratio * level[1]) ** 2).clamp(min=0).sqrt() * noise


class NoiseDraws:
    """Unit noise for each sample of a batch from a generator of the sample's own, on the CPU: alike on every device and for
    every batch that the sample is drawn in. No global random state moves.

    The first draw of a seed is the noise that ComfyUI's samplers start from with that seed.
    """

    def __init__(self, seeds: list[int], shape: tuple[int, ...]) -> None:
        """seeds: one a sample, 0..2^64 - 1. shape: of one sample, (C, ..., h, w)."""
        self.generators = [torch.Generator(device="cpu").manual_seed(seed) for seed in seeds]
        self.shape = shape

    def draw(self) -> Tensor:
        """The next noise, (B, C, ..., h, w), float32, on the CPU."""
        return torch.stack([torch.randn(self.shape, generator=generator) for generator in self.generators])

    def seeds(self) -> list[int]:
        """A new seed for each sample, 0..2^63 - 1, for randomness that another generator draws."""
        return [int(torch.randint(2**63 - 1, (), generator=generator)) for generator in self.generators]
