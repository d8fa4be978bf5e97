"""The candidates' seeds in a LATENT, where every later node finds them."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

# A dict from the fingerprint of a candidate's samples to its seed. ComfyUI's nodes hand on a key that they don't know as it is, so a
# list would be out of step after the first node that picks, repeats or batches latents.
KEY = "candidate_seeds"


def with_seeds(latent: dict, seeds: list[int]) -> dict:
    """The LATENT with one seed for each of its batch. Of equal ones, as with denoise 0, all have the seed of the first."""
    pairs = list(zip(map(fingerprint, latent["samples"]), seeds, strict=True))
    return {**latent, KEY: dict(reversed(pairs))}


def seeds_of(latent: dict) -> list[int | None]:
    """The seed that draws each latent of a batch. None for one that Blended Latent KSampler did not draw, or that was changed since."""
    seeds = latent.get(KEY)
    if not isinstance(seeds, dict):
        return [None] * len(latent["samples"])
    return [seeds.get(fingerprint(samples)) for samples in latent["samples"]]


def fingerprint(samples: Tensor) -> str:
    return hashlib.blake2b(samples.cpu().contiguous().view(torch.uint8).numpy(), digest_size=16).hexdigest()
