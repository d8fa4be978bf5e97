"""The seed of each candidate."""

from __future__ import annotations

MAX_SEED = 2**64 - 1
MAX_CANDIDATES = 256
# As the seeds that ComfyUI's browser draws, whose numbers are exact up to 2^53.
LIMIT = 2**50


def candidate_seed(seed: int, candidate: int, source: int = 0) -> int:
    """The seed that draws one candidate of a run alone: the run's own for the first candidate of the first source, then
    (seed + output n of SplitMix64) mod 2^50, where n = 256 · source + candidate.

    So a candidate has the same seed however many are drawn beside it. Two runs share no noise for certain if each draws up to 256
    candidates of one source and their seeds differ, but by less than 150,000; nor do they if one run's seed is that of another's
    candidate, apart from this candidate itself. PyTorch's generator on the CPU reads 32 bits of a seed, so any other two runs of
    256 candidates share one with a probability of 1.5e-5.

    Args:
        seed: of the run, 0..2^64 - 1.
        candidate: 0..255, counted within its source.
        source: >= 0.
    """
    number = MAX_CANDIDATES * source + candidate
    return seed if number == 0 else (seed + splitmix64(number)) % LIMIT


def splitmix64(number: int) -> int:
    """Output `number`, 1, 2, ..., of SplitMix64 (Steele, Lea and Flood 2014) from the state 1. From the state 0, output 2n would often be twice output n."""
    z = (1 + number * 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31
