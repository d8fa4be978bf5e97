"""Ranking: what CLIP is shown, and in which order the candidates come back."""

from __future__ import annotations

import pytest
import torch

from blended_latent_diffusion.bld import ranking


def test_the_order_is_best_first_with_ties_kept_and_nan_last():
    scores = torch.tensor([0.1, float("nan"), 0.5, 0.1, 0.9])
    assert ranking.order(scores).tolist() == [4, 2, 0, 3, 1]


def test_cosine_does_not_depend_on_length_or_batch():
    images, text = torch.randn(5, 8), torch.randn(8)
    expected = torch.nn.functional.cosine_similarity(images, text[None])
    assert torch.allclose(ranking.cosine(images * 7, text * 3), expected, atol=1e-6)
    assert torch.allclose(ranking.cosine(images[2:3], text), expected[2:3], atol=1e-6)


def test_the_views_of_a_candidate():
    picture = torch.rand(3, 32, 32)
    m = torch.zeros(32, 32)
    m[4:12, 8:24] = 1
    assert torch.allclose(ranking.view(picture, m, "masked", (32, 32)), picture * m, atol=1e-5)
    assert torch.allclose(ranking.view(picture, m, "whole", (32, 32)), picture, atol=1e-5)
    assert torch.allclose(ranking.view(picture, m, "box", (8, 16), context=0), picture[:, 4:12, 8:24], atol=1e-5)
    with pytest.raises(ValueError, match="scope was 'all'"):
        ranking.view(picture, m, "all", (8, 8))


def test_a_box_has_context_and_stays_in_the_picture():
    m = torch.zeros(20, 30)
    m[2:6, 20:30] = 1
    assert ranking.mask_box(m, 0.3) == (slice(0, 9), slice(17, 30))
    assert ranking.mask_box(torch.zeros(4, 4)) == (slice(None), slice(None))
