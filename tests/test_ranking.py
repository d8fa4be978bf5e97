"""Ranking: what CLIP is shown, what it is compared with, and in which order the candidates come back."""

from __future__ import annotations

import math

import pytest
import torch

from blended_latent_diffusion.bld import ranking

NAN = float("nan")


def test_the_order_is_best_first_with_ties_kept_and_nan_last():
    scores = torch.tensor([0.1, NAN, 0.5, 0.1, 0.9])
    assert ranking.order(scores).tolist() == [4, 2, 0, 3, 1]
    assert ranking.order(torch.full((256,), 0.3)).tolist() == list(range(256))


@pytest.mark.parametrize(
    "limits, kept",
    [
        ({}, [4, 2, 0, 3, 1]),
        ({"top_k": 2}, [4, 2]),
        ({"top_k": 9}, [4, 2, 0, 3, 1]),
        ({"min_score": 0.1}, [4, 2, 0, 3]),
        ({"min_score": 0.4}, [4, 2]),
        ({"min_score": 0.4, "top_k": 1}, [4]),
        ({"min_score": 0.95}, [4]),
        ({"min_score": -99.0}, [4, 2, 0, 3]),
    ],
)
def test_the_best_are_kept_and_at_least_one(limits, kept):
    assert ranking.best(torch.tensor([0.1, NAN, 0.5, 0.1, 0.9]), **limits).tolist() == kept


def test_a_sole_candidate_without_a_score_is_kept():
    assert ranking.best(torch.tensor([NAN]), 1, 0.5).tolist() == [0]


def test_cosine_does_not_depend_on_length_or_batch():
    images, text = torch.randn(5, 8), torch.randn(8)
    expected = torch.nn.functional.cosine_similarity(images, text[None])
    assert torch.allclose(ranking.cosine(images * 7, text * 3), expected, atol=1e-6)
    assert torch.allclose(ranking.cosine(images[2:3], text), expected[2:3], atol=1e-6)


def test_an_ensemble_orders_as_the_mean_of_the_similarities():
    images, texts = torch.randn(50, 8), torch.randn(4, 8) * torch.tensor([[1.0], [10.0], [0.1], [3.0]])
    together = ranking.ensemble(texts)
    assert together.norm() == pytest.approx(1, abs=1e-6)
    mean = torch.stack([ranking.cosine(images, text) for text in texts]).mean(0)
    assert torch.equal(ranking.order(ranking.cosine(images, together)), ranking.order(mean))
    assert torch.allclose(ranking.cosine(images, ranking.ensemble(texts[:1])), ranking.cosine(images, texts[0]), atol=1e-6)


def test_each_line_of_a_prompt_is_a_wording_of_its_own():
    assert ranking.phrases(" a fox\n\n  a red fox \n") == [["a fox"], ["a red fox"]]
    assert ranking.phrases(" \n ") == []
    photo = ranking.phrases("a fox {1}\na cat", "photo")
    assert [len(group) for group in photo] == [len(ranking.TEMPLATES["photo"])] * 2
    assert photo[0][0] == "a fox {1}" and all("a fox {1}" in phrase for phrase in photo[0])


def test_the_views_of_a_candidate():
    picture = torch.rand(3, 32, 32)
    m = torch.zeros(32, 32)
    m[4:12, 8:24] = 1
    assert torch.allclose(ranking.view(picture, m, "masked", (32, 32)), picture * m, atol=1e-5)
    assert torch.allclose(ranking.view(picture, m, "whole", (32, 32)), picture, atol=1e-5)
    assert torch.allclose(ranking.view(picture, m, "box", (8, 16), context=0), picture[:, 4:12, 8:24], atol=1e-5)
    seen = (picture * m)[:, 2:14, 6:26]
    assert torch.allclose(ranking.view(picture, m, "close-up", (12, 20)), seen, atol=1e-5), "the mask's box and a tenth of its 16 pixels around it"
    smooth = torch.nn.functional.interpolate(picture[None], size=(20, 20), mode="bilinear", antialias=True)[0]
    assert torch.equal(ranking.view(picture, m, "whole", (20, 20), interpolation="bilinear"), smooth)
    with pytest.raises(ValueError, match="scope is 'all'"):
        ranking.view(picture, m, "all", (8, 8))


def test_a_box_has_context_and_stays_in_the_picture():
    m = torch.zeros(20, 30)
    m[2:6, 20:30] = 1
    assert ranking.mask_box(m, 0.3) == (slice(0, 9), slice(17, 30))
    assert ranking.mask_box(torch.zeros(4, 4)) == (slice(None), slice(None))


def test_the_background_error_is_the_rmse_outside_the_mask():
    x, m = torch.rand(3, 16, 16), torch.zeros(16, 16)
    m[:8] = 1
    x_hat = x + torch.where(m > 0, 0.5, 0.02)
    assert ranking.background_error(x_hat, x, m) == pytest.approx(0.02, rel=1e-4)
    assert ranking.background_error(x, x, m) == 0
    assert ranking.background_error(x_hat, x, torch.ones(16, 16)) == 0
    assert not math.isnan(ranking.background_error(x, x, m))
