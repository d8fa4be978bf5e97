"""The ranking nodes with the real open_clip and the demo CLIP."""

from __future__ import annotations

import sys

import open_clip
import pytest
import torch
import torchvision.transforms.functional as TF

from blended_latent_diffusion.nodes.clip_rank_batch import ClipRankBatch
from blended_latent_diffusion.nodes.open_clip_loader import OpenClipLoader
from conftest import ROOT

FILE = "bld_demo_clip.safetensors"


@pytest.fixture(scope="module")
def clip(demo_pack):
    return OpenClipLoader.execute(FILE).args[0]


def rank(clip, images, mask, prompt="a fox", **options):
    with torch.inference_mode():
        return ClipRankBatch.execute(images, clip, prompt, mask, **options).args


@pytest.fixture
def images(edit):
    """Five pictures: crops and mirrors of a real one, so that their scores differ."""
    picture = edit.image.movedim(-1, 1)
    views = [picture, picture.flip(-1), picture.flip(-2), 1 - picture, picture.roll(40, -1)]
    return torch.cat(views).movedim(1, -1)


def test_masked_scores_are_a_direct_open_clip_computation(clip, edit, images):
    _, _, scores, order, _ = rank(clip, images, edit.mask)
    path = ROOT / "demo" / "models" / "open_clip" / FILE
    open_clip.add_model_config(path.with_suffix(".json"))
    model = open_clip.create_model(path.stem, pretrained=str(path)).eval()
    size = model.visual.image_size
    size = size if isinstance(size, tuple) else (size, size)
    pixels = TF.resize((images * edit.mask[..., None]).movedim(-1, 1), list(size), TF.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    with torch.no_grad():
        image = model.encode_image(TF.normalize(pixels, model.visual.image_mean, model.visual.image_std), normalize=True)
        text = model.encode_text(open_clip.get_tokenizer(path.stem)(["a fox"]), normalize=True)
    expected = (image @ text.T).flatten()
    assert torch.allclose(torch.tensor(scores), expected[order], atol=1e-5)
    assert scores == sorted(scores, reverse=True)


def test_everything_returned_is_in_step(clip, edit, images):
    samples = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 4, 16, 16)
    latents = {"samples": samples, "noise_mask": samples[:, :1] / 10, "batch_index": [10, 11, 12, 13, 14]}
    best, kept, scores, order, report = rank(clip, images, edit.mask, top_k=3, latents=latents)
    assert len(order) == len(scores) == len(best) == len(kept["samples"]) == 3
    assert torch.equal(best, images[order])
    assert kept["samples"][:, 0, 0, 0].tolist() == order
    assert torch.allclose(kept["noise_mask"][:, 0, 0, 0] * 10, torch.tensor(order, dtype=torch.float))
    assert kept["batch_index"] == [10 + index for index in order]
    assert report.count("\n") == 4, "the report names all five"
    assert latents["samples"].shape[0] == 5, "the latents passed in are untouched"


def test_a_score_does_not_depend_on_its_batch(clip, edit, images):
    _, _, scores, order, _ = rank(clip, images, edit.mask)
    for score, index in zip(scores, order, strict=True):
        assert rank(clip, images[index : index + 1], edit.mask)[2][0] == pytest.approx(score, abs=1e-5)


def test_a_negative_prompt_is_subtracted(clip, edit, images):
    def by_index(**options):
        _, _, scores, order, _ = rank(clip, images, edit.mask, **options)
        return dict(zip(order, scores, strict=True))

    plain, other, both = by_index(), by_index(prompt="a pizza"), by_index(negative_prompt="a pizza")
    assert all(both[i] == pytest.approx(plain[i] - other[i], abs=1e-5) for i in range(5))


def test_a_mix_is_the_weighted_mean_of_its_scopes(clip, edit, images):
    def by_index(**scope):
        _, _, scores, order, _ = rank(clip, images, edit.mask, scope=scope)
        return torch.tensor([score for _, score in sorted(zip(order, scores, strict=True))])

    single = {name: by_index(scope=name, context=0.25) for name in ("masked", "box", "whole")}
    mixed = by_index(scope="mix", context=0.25, masked_weight=1.0, box_weight=0.0, whole_weight=3.0)
    assert torch.allclose(mixed, 0.25 * single["masked"] + 0.75 * single["whole"], atol=1e-5)
    assert (single["masked"] - single["box"]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"images": torch.full((1, 128, 128, 3), float("nan"))}, "images contains NaN"),
        ({"scope": {"scope": "mix", "context": 0, "masked_weight": 0, "box_weight": 0, "whole_weight": 0}}, "all its weights are 0"),
        ({"mask": torch.zeros(1, 64, 64)}, "mask is 64x64, but images are 128x128"),
        ({"mask": torch.zeros(2, 128, 128)}, "mask has 2 in its batch, but images has 5"),
        ({"latents": {"samples": torch.zeros(4, 4, 16, 16)}}, "latents has 4 in its batch, but images has 5"),
    ],
)
def test_bad_input_gets_one_clear_sentence(clip, edit, images, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        rank(clip, **({"images": images, "mask": edit.mask} | change))


def test_nothing_is_downloaded_unless_asked(demo_pack):
    with pytest.raises(ValueError, match="download is off: switch it on"):
        OpenClipLoader.execute("ViT-B-16-quickgelu openai")


def test_without_open_clip_the_node_says_what_to_install(monkeypatch, demo_pack):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ImportError, match="pip install open_clip_torch"):
        OpenClipLoader.execute(FILE)
