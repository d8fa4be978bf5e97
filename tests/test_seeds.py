"""The seeds of the candidates: no two runs that a user starts one after the other draw the same candidate."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from blended_latent_diffusion.bld.seeds import MAX_CANDIDATES, MAX_SEED, candidate_seed

# All that PyTorch's generator on the CPU reads of a seed.
READ = 2**32
OFFSETS = torch.tensor([candidate_seed(0, candidate) % READ for candidate in range(MAX_CANDIDATES)])
seeds = st.integers(0, MAX_SEED)


def noise(seed: int) -> torch.Tensor:
    return torch.randn(8, generator=torch.Generator().manual_seed(seed))


@given(seeds)
def test_the_generator_reads_32_bits(seed):
    assert torch.equal(noise(seed), noise(seed % READ)) and not torch.equal(noise(seed), noise((seed + 1) % READ))


@given(seeds, st.integers(0, MAX_CANDIDATES - 1), st.integers(0, 100))
def test_the_first_keeps_the_nodes_seed_and_the_browser_can_show_the_others(seed, candidate, source):
    assert candidate_seed(seed, 0) == seed
    drawn = candidate_seed(seed, candidate, source)
    assert drawn == seed or 0 <= drawn < 2**53


@given(seeds, st.integers(0, MAX_CANDIDATES - 1))
def test_what_the_generator_reads_is_the_seed_and_an_offset(seed, candidate):
    """So what the next two tests find out holds for every seed."""
    assert candidate_seed(seed, candidate) % READ == (seed + int(OFFSETS[candidate])) % READ


def test_no_two_seeds_nearer_than_150_000_share_a_candidate():
    between = (OFFSETS[:, None] - OFFSETS) % READ
    assert between[~torch.eye(MAX_CANDIDATES, dtype=torch.bool)].min() > 150_000


def test_a_run_from_a_candidates_seed_shares_no_other_candidate():
    """As when you liked number 5 and draw more from its seed."""
    again = (OFFSETS[1:, None] + OFFSETS[1:]) % READ
    assert not torch.isin(again, OFFSETS).any()


def test_neighboring_seeds_with_many_sources_share_none():
    runs = [{candidate_seed(seed, i, source) % READ for source in range(16) for i in range(MAX_CANDIDATES)} for seed in range(1000, 1020)]
    assert len(set.union(*runs)) == 20 * 16 * MAX_CANDIDATES
