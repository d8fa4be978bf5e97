"""The node ClipRankBatch with the real open_clip and the demo CLIP."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from io import BytesIO

import comfy.model_management
import numpy as np
import open_clip
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image
from test_previews import opened as preview

from blended_latent_diffusion.bld import ranking
from blended_latent_diffusion.bld.masks import mask_box
from blended_latent_diffusion.bld.metrics import seam
from blended_latent_diffusion.bridge.clip.models import Memory
from blended_latent_diffusion.bridge.sampling.seeds import seeds_of, with_seeds
from blended_latent_diffusion.nodes.clip_rank_batch import ClipRankBatch
from blended_latent_diffusion.nodes.open_clip_loader import OpenClipLoader
from conftest import ROOT

FILE = "bld_demo_clip.safetensors"
SCOPES = ("masked", "box", "whole")
OFF = {"scope": "mix", "context": 0, "masked_weight": 0, "box_weight": 0, "whole_weight": 0}


@pytest.fixture(scope="module")
def clip(demo_pack):
    return OpenClipLoader.execute(FILE).args[0]


@pytest.fixture(scope="module")
def direct():
    """The small CLIP as open_clip alone gives it: model, preprocessing (stretched, as the paper does it) and tokenizer."""
    path = ROOT / "demo" / "small" / "models" / "open_clip" / FILE
    open_clip.add_model_config(path.with_suffix(".json"))
    model, _, preprocess = open_clip.create_model_and_transforms(path.stem, pretrained=str(path), image_resize_mode="squash")
    return model.eval(), preprocess, open_clip.get_tokenizer(path.stem)


def run(clip, images, mask, prompt="a fox", scope=None, **options):
    """What the node returns for one batch, as the host calls it: every value in a list."""
    given = {name: value if isinstance(value, list) else [value] for name, value in {"images": images, "mask": mask, **options}.items()}
    given["scope"] = {name: [value] for name, value in (scope or {"scope": "masked"}).items()}
    with torch.inference_mode():
        return ClipRankBatch.execute(clip=[clip], prompt=[prompt], **given)


def rank(clip, *args, **options):
    """The node's outputs, by a CLIP that remembers nothing."""
    return run(replace(clip), *args, **options).args


def by_index(clip, images, mask, **options):
    """The scores in the order of the input."""
    _, _, scores, order, _ = rank(clip, images, mask, **options)
    return torch.tensor([score for _, score in sorted(zip(order, scores, strict=True))])


@pytest.fixture
def images(edit):
    """Five pictures: crops and mirrors of a real one, so that their scores differ."""
    picture = edit.image.movedim(-1, 1)
    views = [picture, picture.flip(-1), picture.flip(-2), 1 - picture, picture.roll(40, -1)]
    return torch.cat(views).movedim(1, -1)


@pytest.mark.promise("ranked")
def test_masked_scores_are_a_direct_open_clip_computation(clip, edit, images, direct):
    model, _, tokenize = direct
    _, _, scores, order, _ = rank(clip, images, edit.mask)
    pixels = TF.resize((images * edit.mask[..., None]).movedim(-1, 1), [96, 96], TF.InterpolationMode.BICUBIC, antialias=True).clamp(0, 1)
    with torch.no_grad():
        image = model.encode_image(TF.normalize(pixels, model.visual.image_mean, model.visual.image_std), normalize=True)
        text = model.encode_text(tokenize(["a fox"]), normalize=True)
    expected = (image @ text.T).flatten()
    assert torch.allclose(torch.tensor(scores), expected[order], atol=1e-5)
    assert scores == sorted(scores, reverse=True)


def test_scores_are_what_open_clips_own_preprocessing_gives(clip, edit, images, direct):
    """8-bit pictures of the model's size, so that PIL's rounding after its resize does not come in between."""
    model, preprocess, tokenize = direct
    bytes_ = (images[:, :96, :96] * edit.mask[:, :96, :96, None] * 255).round().byte()
    with torch.no_grad():
        pixels = torch.stack([preprocess(Image.fromarray(np.asarray(one))) for one in bytes_])
        expected = model.encode_image(pixels, normalize=True) @ model.encode_text(tokenize(["a fox"]), normalize=True)[0]
    assert torch.allclose(by_index(clip, bytes_ / 255, edit.mask[:, :96, :96]), expected, atol=1e-5)


@pytest.mark.promise("ranked", "sorted")
def test_everything_returned_is_in_step(clip, edit, images):
    samples = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 4, 16, 16)
    latents = {"samples": samples, "noise_mask": samples[:, :1] / 10, "batch_index": [10, 11, 12, 13, 14]}
    latents = with_seeds(latents, list(range(100, 105)))
    (best,), (kept,), scores, order, report = rank(clip, images, edit.mask, top_k=3, latents=latents)
    assert len(order) == len(scores) == len(best) == len(kept["samples"]) == 3
    assert torch.equal(best, images[order])
    assert kept["samples"][:, 0, 0, 0].tolist() == order
    assert torch.allclose(kept["noise_mask"][:, 0, 0, 0] * 10, torch.tensor(order, dtype=torch.float))
    assert kept["batch_index"] == [10 + index for index in order]
    assert seeds_of(kept) == [100 + index for index in order]
    assert report.count("\n") == 4, "the report names all five"
    assert latents["samples"].shape[0] == 5, "the latents passed in are untouched"


def test_masks_that_the_host_would_repeat_stay_with_their_latents(clip, edit, images):
    latents = {"samples": torch.zeros(5, 4, 16, 16), "noise_mask": torch.tensor([0.1, 0.9]).view(2, 1, 1, 1).expand(2, 1, 16, 16)}
    _, (kept,), _, order, _ = rank(clip, images, edit.mask, latents=latents)
    assert kept["noise_mask"][:, 0, 0, 0].tolist() == pytest.approx([0.9 if index % 2 else 0.1 for index in order])


def test_a_score_does_not_depend_on_its_batch(clip, edit, images):
    _, _, scores, order, _ = rank(clip, images, edit.mask)
    for score, index in zip(scores, order, strict=True):
        assert rank(clip, images[index : index + 1], edit.mask)[2][0] == pytest.approx(score, abs=1e-5)


@pytest.mark.promise("sorted")
@pytest.mark.parametrize("form", ["batch", "list"])
def test_256_pictures_with_equal_ones_in_their_order(clip, edit, images, form):
    many = images[:4].repeat(64, 1, 1, 1)
    best, _, scores, order, _ = rank(clip, many if form == "batch" else list(many.split(1)), edit.mask)
    assert torch.equal(torch.cat(best), many[order]) and sorted(order) == list(range(256))
    groups = [order[start : start + 64] for start in range(0, 256, 64)]
    assert all(group == sorted(group) and len({index % 4 for index in group}) == 1 for group in groups)


def test_a_list_of_pictures_of_mixed_sizes_is_ranked_together(clip, edit, images):
    sizes = [(128, 128), (96, 128), (128, 64), (48, 48), (128, 128)]
    pictures = [images[i : i + 1, :height, :width] for i, (height, width) in enumerate(sizes)]
    masks = [edit.mask[:, :height, :width] for height, width in sizes]
    latents = [{"samples": torch.full((1, 4, height // 8, width // 8), float(i))} for i, (height, width) in enumerate(sizes)]
    best, kept, scores, order, _ = rank(clip, pictures, masks, latents=latents, top_k=4)
    alone = [rank(clip, picture, mask)[2][0] for picture, mask in zip(pictures, masks, strict=True)]
    assert scores == pytest.approx(sorted(alone, reverse=True)[:4], abs=1e-5)
    assert [picture.shape for picture in best] == [pictures[index].shape for index in order]
    assert all(torch.equal(picture, pictures[index]) for picture, index in zip(best, order, strict=True))
    assert [latent["samples"].unique().tolist() for latent in kept] == [[float(index)] for index in order]


def test_the_host_hands_over_a_list_of_mixed_sizes(client):
    """With a scope that has settings of its own, each of which the host puts into a list, too."""

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    prompt = {
        "clip": node("OpenClipLoader", clip_name=FILE, download=False),
        "picture": node("LoadImage", image="bld_demo_edit.png"),
        "small": node("ImageScale", image=["picture", 0], upscale_method="bilinear", width=96, height=64, crop="disabled"),
        "images": node("CreateList", **{"inputs.input0": ["picture", 0], "inputs.input1": ["small", 0], "inputs.input2": ["picture", 0]}),
        "mask": node("SolidMask", value=1.0, width=128, height=128),
        "small_mask": node("SolidMask", value=1.0, width=96, height=64),
        "masks": node("CreateList", **{"inputs.input0": ["mask", 0], "inputs.input1": ["small_mask", 0], "inputs.input2": ["mask", 0]}),
        "rank": node("ClipRankBatch", images=["images", 0], clip=["clip", 0], prompt="a fox", mask=["masks", 0], top_k=2, negative_prompt="", scope="mix"),
        "view": node("PreviewImage", images=["rank", 0]),
        "report": node("PreviewAny", source=["rank", 4]),
    }
    weights = {"context": 0.25, "masked_weight": 1.0, "box_weight": 1.0, "whole_weight": 1.0}
    prompt["rank"]["inputs"] |= {f"scope.{name}": value for name, value in weights.items()}
    run = client.run(prompt)
    (report,) = run.outputs["report"]["text"]
    order = [int(line.split()[2][:-1]) for line in report.splitlines()]
    assert order in ([0, 2, 1], [1, 0, 2])
    sizes = [Image.open(BytesIO(data)).size for data in client.images(run, "view")]
    assert sizes == [(96, 64) if index == 1 else (128, 128) for index in order[:2]]


def test_videos_are_judged_by_frames_over_time_and_stay_whole(clip, edit, images):
    """Two videos of ten frames; each frame of the second is another picture than that of the first."""
    videos = torch.cat([images, images.flip(0), images.flip(-1), images.roll(1, 0)])
    seen, _, scores, order, _ = rank(clip, videos, edit.mask, frames=10)
    alone = by_index(clip, videos, edit.mask)
    means = alone.view(2, 10)[:, [1, 3, 6, 8]].mean(1)
    best = int(means.argmax())
    assert order == [best, 1 - best] and torch.allclose(torch.tensor(scores), means[order], atol=1e-6)
    assert torch.equal(seen[0], torch.cat([videos[10 * i : 10 * i + 10] for i in order]))
    (first,) = rank(clip, videos, edit.mask, frames=10, top_k=1)[0]
    assert torch.equal(first, seen[0][:10])
    listed = rank(clip, list(videos.split(5)), edit.mask, frames=10)
    assert [len(one) for one in listed[0]] == [10, 10] and listed[3] == order


def test_latents_of_videos_tell_the_frames(clip, edit, images):
    latents = {"samples": torch.arange(2.0)[:, None, None, None, None].expand(2, 16, 3, 4, 4)}
    out = run(replace(clip), torch.cat([images, images.flip(-1)]), edit.mask, latents=latents)
    seen, kept, _, order, _ = out.args
    assert len(seen[0]) == 10 and kept[0]["samples"][:, 0, 0, 0, 0].tolist() == [float(i) for i in order]
    assert len(out.ui["gallery"]) == 2
    with pytest.raises(ValueError, match="frames is 3, but images has 10 pictures, which is not a multiple of it"):
        rank(clip, torch.cat([images, images]), edit.mask, frames=3)


def test_a_list_of_one_is_a_batch(clip, edit, images):
    (best,), (latents,), scores, order, _ = rank(clip, images[:1], edit.mask)
    assert torch.equal(best, images[:1]) and latents is None and len(scores) == 1 and order == [0]


def test_a_negative_prompt_is_subtracted(clip, edit, images):
    plain, other, both = (by_index(clip, images, edit.mask, **options) for options in ({}, {"prompt": "a pizza"}, {"negative_prompt": "a pizza"}))
    assert torch.allclose(both, plain - other, atol=1e-5)


def test_lettering_is_one_more_line_of_the_negative_prompt(clip, edit, images):
    def against(**options):
        return by_index(clip, images, edit.mask) - by_index(clip, images, edit.mask, **options)

    with torch.inference_mode():
        pizza, letters = (ranking.ensemble(clip.embed_text(texts)) for texts in (["a pizza"], list(ranking.LETTERING)))
    share = float((pizza + letters).norm() / 2)
    alone, both = against(against_lettering=True), against(against_lettering=True, negative_prompt="a pizza")
    assert torch.allclose(both, (alone + against(negative_prompt="a pizza")) / 2 / share, atol=1e-5)
    assert not torch.allclose(alone, both, atol=1e-4)


def test_several_lines_order_as_the_mean_of_their_scores(clip, edit, images):
    _, _, _, order, _ = rank(clip, images, edit.mask, prompt="a fox\n\na pizza ")
    mean = by_index(clip, images, edit.mask) + by_index(clip, images, edit.mask, prompt="a pizza")
    assert order == ranking.order(mean).tolist()


def test_templates_average_phrases_with_the_prompt(clip, edit, images):
    lines = "\n".join(phrase for (phrase,) in ranking.phrases("\n".join(t.format("a fox") for t in ranking.TEMPLATES["photo"])))
    photo = by_index(clip, images, edit.mask, prompt_templates="photo")
    assert torch.allclose(photo, by_index(clip, images, edit.mask, prompt=lines), atol=1e-5)
    assert not torch.allclose(photo, by_index(clip, images, edit.mask), atol=1e-5)


def test_a_mix_is_the_weighted_mean_of_its_views(clip, edit, images):
    """The close-up is what scope masked would see of a picture that is no larger than the mask's box and a tenth around it."""
    single = {name: by_index(clip, images, edit.mask, scope={"scope": name, "context": 0.25}) for name in SCOPES}
    rows, columns = mask_box(edit.mask[0], 0.1)
    close = by_index(clip, images[:, rows, columns], edit.mask[:, rows, columns], scope={"scope": "masked"})

    def mix(*weights: float) -> torch.Tensor:
        names = [f"{scope}_weight" for scope in SCOPES]
        return by_index(clip, images, edit.mask, scope={"scope": "mix", "context": 0.25, **dict(zip(names, weights, strict=True))})

    assert torch.allclose(mix(1, 0, 3), 0.25 * close + 0.75 * single["whole"], atol=1e-5)
    assert torch.allclose(mix(0, 2, 2), 0.5 * single["box"] + 0.5 * single["whole"], atol=1e-5)
    assert (close - single["masked"]).abs().max() > 1e-3


def test_with_a_source_every_error_against_it_counts(clip, edit, images):
    worse = images[:1].repeat(3, 1, 1, 1)
    for index, factor in ((1, 0.9), (2, 0.5)):
        worse[index] = torch.where(edit.mask[0, ..., None] > 0, worse[index], worse[index] * factor)
    plain, real = (by_index(clip, worse, edit.mask, **options) for options in ({}, {"source": images[:1], "realism_weight": 2.0}))
    changes = [change - images[0] for change in worse]
    steps = [seam(one[None].movedim(-1, 1), images[:1].movedim(-1, 1), edit.mask) / 255 for one in worse]
    errors = [(float(change[edit.mask[0] == 0].square().mean().sqrt()), step) for change, step in zip(changes, steps, strict=True)]
    assert torch.allclose(plain - real, 2 * torch.tensor(errors).sum(1), atol=1e-5) and errors[2] > errors[1] > errors[0] == (0, 0)
    report = rank(clip, worse, edit.mask, source=images[:1], realism_weight=0.0)[4]
    lines = [f"candidate {i} against the source: background error {errors[i][0]:.4f}, seam error {errors[i][1]:.4f}" for i in range(3)]
    assert report.splitlines()[3:] == lines, "the scope is masked, so all are equal without it"


def test_the_background_behind_the_best_is_measured_unless_told_otherwise(clip, edit, images):
    assert "candidate 0 against the source: background error 0.0000" in rank(clip, images, edit.mask, source=edit.image)[4]


def test_pictures_with_nan_come_last_and_are_named(clip, edit, images):
    plain = by_index(clip, images, edit.mask)
    images[1, 3, 3, 0], images[3, 0, 0, 2] = float("nan"), float("inf")
    (best,), _, scores, order, report = rank(clip, images, edit.mask, source=edit.image, realism_weight=0.0)
    assert order[3:] == [1, 3] and torch.isnan(torch.tensor(scores)[3:]).all() and len(best) == 5
    assert torch.allclose(torch.tensor(scores[:3]), plain[order[:3]], atol=1e-6), "the others are not touched"
    assert "5. candidate 3: nan" in report and "candidate 1 contains NaN or infinite values, so it comes last." in report
    assert rank(clip, images, edit.mask, min_score=-99.0)[3] == order[:3]


def test_a_prompt_longer_than_the_context_says_where_it_was_cut(clip, edit, images, caplog):
    words = [f"fox {i}" for i in range(10, 60)]  # 3 tokens each: fox, and two digits
    _, _, scores, order, report = rank(clip, images, edit.mask, prompt="a pizza\n" + " ".join(words), negative_prompt="a cat")
    assert 'prompt was cut after "... fox 32 fox 33 fox 34": this CLIP reads no further, so shorten it.' in report
    assert report.count("was cut") == 1 and report.splitlines()[-1] in caplog.text
    assert rank(clip, images, edit.mask, prompt="a pizza\n" + " ".join(words[:25]), negative_prompt="a cat")[2:4] == (scores, order)
    assert "was cut" not in rank(clip, images, edit.mask, prompt=" ".join(words[:25]))[4], "25 * 3 tokens, start and end fill it exactly"


@pytest.mark.parametrize(
    "options, sentence, count",
    [
        ({"top_k": 12}, "top_k is 12, but there are only 5 candidates.", 5),
        ({"min_score": 50.0}, "no candidate reaches min_score 50, so only the best one is returned.", 1),
        ({"min_score": -50.0, "top_k": 2}, "5 of 5 candidates reach min_score -50.", 2),
    ],
)
def test_the_report_says_what_was_left_out(clip, edit, images, options, sentence, count):
    (best,), _, scores, _, report = rank(clip, images, edit.mask, **options)
    assert report.splitlines()[-1] == sentence and len(best) == len(scores) == count


def test_picked_candidates_come_in_the_order_of_the_picks_with_their_latents_and_scores(clip, edit, images):
    latents = {"samples": torch.arange(5.0).view(5, 1, 1, 1).expand(5, 4, 16, 16), "batch_index": [10, 11, 12, 13, 14]}
    scores = by_index(clip, images, edit.mask)
    for pick, picked in (("3,0", [3, 0]), (" 1 ", [1]), ("4, 4,2", [4, 2])):
        (best,), (kept,), found, order, report = rank(clip, images, edit.mask, pick=pick, latents=latents, top_k=1, min_score=50.0)
        assert order == picked and torch.equal(best, images[picked]) and found == pytest.approx(scores[picked].tolist(), abs=1e-5)
        assert kept["samples"][:, 0, 0, 0].tolist() == picked and kept["batch_index"] == [10 + index for index in picked]
        assert report.splitlines()[-1] == f"pick is {pick}, so top_k and min_score don't count."
    best, kept, _, order, _ = rank(clip, list(images.split(1)), edit.mask, pick="2,1")
    assert order == [2, 1] and torch.equal(torch.cat(best), images[[2, 1]])


def test_a_pick_or_a_weight_does_not_measure_again(clip, edit, images, monkeypatch):
    clip, looks = replace(clip), []
    watch_images(clip, monkeypatch, looks)
    measured = {**ranking.ERRORS, "background": lambda *args: looks.append("background") or ranking.background_error(*args)}
    monkeypatch.setattr(ranking, "ERRORS", measured)
    mix = {"scope": "mix", "context": 0.5, "masked_weight": 1.0, "box_weight": 1.0, "whole_weight": 1.0}
    first = run(clip, images, edit.mask, scope=mix, source=edit.image)
    assert looks.count("picture") == looks.count("background") == 5
    again = run(clip, images.clone(), edit.mask, scope=mix | {"box_weight": 3.0}, source=edit.image, pick="4,1", min_score=0.1, realism_weight=2.0)
    assert len(looks) == 10 and again.args[3] == [4, 1]
    assert again.args[2] == rank(clip, images, edit.mask, scope=mix | {"box_weight": 3.0}, source=edit.image, pick="4,1", realism_weight=2.0)[2]
    looks.clear()
    for change in ({"prompt": "a pizza"}, {"mask": 1 - edit.mask}, {"source": 1 - edit.image}, {"scope": mix | {"context": 0.1}}):
        run(clip, **({"images": images, "mask": edit.mask, "scope": mix, "source": edit.image} | change))
    assert looks.count("picture") == 20, "each of these changes what is measured"
    images[3] += 0.01
    run(clip, images, edit.mask, scope=mix, source=edit.image)
    assert looks.count("picture") == 21, "only the new picture"
    assert run(clip, images, edit.mask, scope=mix, source=edit.image).args[2] == rank(clip, images, edit.mask, scope=mix, source=edit.image)[2]
    assert first.args[3] != [4, 1]


def watch_images(clip, monkeypatch, looks):
    """Notes each picture that the CLIP is shown."""
    encode = clip.patcher.model.encode_image
    monkeypatch.setattr(clip.patcher.model, "encode_image", lambda pixels: looks.append("picture") or encode(pixels))


def test_memory_of_a_clip_has_an_end(clip, edit, images, monkeypatch):
    monkeypatch.setattr(Memory, "LIMIT", 3)
    clip = replace(clip)
    assert run(clip, images, edit.mask).args[2] == rank(clip, images, edit.mask)[2]
    assert len(clip.memory) == 3


def test_the_gallery_shows_every_candidate_with_all_that_its_score_is_made_of(clip, edit, images):
    images[2, 0, 0, 0] = float("nan")
    options = {"source": edit.image, "realism_weight": 2.0, "scope": {"scope": "mix", "context": 0.5, "masked_weight": 1, "box_weight": 4, "whole_weight": 2}}
    result = run(clip, images, edit.mask, **options, top_k=2)
    shown = json.loads(json.dumps(result.ui["gallery"], allow_nan=False))
    assert len(shown) == 5 and shown[-1]["index"] == 2 and shown[-1]["score"] is None and "NaN" in shown[-1]["out"]
    assert [one["index"] for one in shown[:4]] == [int(line.split()[2][:-1]) for line in result.args[4].splitlines()[:4]], "best first, as in the report"
    for candidate in shown[:-1]:
        assert [part["name"] for part in candidate["parts"]] == ["close-up", "box", "whole", "background", "seam"]
        assert candidate["score"] == pytest.approx(sum(part["value"] * part["weight"] for part in candidate["parts"]), abs=1e-6)
        assert candidate["out"] == "" and candidate["seed"] is None
        assert np.abs(np.asarray(preview(candidate["tile"])) / 255 - images[candidate["index"]].numpy()).mean() < 0.02
        assert preview(candidate["large"]).size == (128, 128) and candidate["size"] == [128, 128] and candidate["picked"] is None
    limit = (shown[1]["score"] + shown[2]["score"]) / 2
    out = [bool(one["out"]) for one in run(clip, images, edit.mask, **options, min_score=limit).ui["gallery"]]
    assert out == [False, False, True, True, True]
    latents = with_seeds({"samples": torch.arange(5.0).view(5, 1, 1, 1).expand(5, 4, 16, 16)}, [2**64 - 1, 5, 6, 7, 8])
    seen = {one["index"]: one["seed"] for one in run(clip, images, edit.mask, **options, latents=latents).ui["gallery"]}
    assert seen == {0: "18446744073709551615", 1: "5", 2: "6", 3: "7", 4: "8"}
    latents["dropped_candidates"] = [{"seed": 11, "score": 0.1, "share": 0.25}, {"seed": 12, "score": 0.2, "share": 0.5}]
    dropped = run(clip, images, edit.mask, **options, latents=latents).ui["gallery"][5:]
    assert [(one["seed"], one["tile"]) for one in dropped] == [("12", None), ("11", None)]
    assert dropped[0]["out"] == "Pruning dropped it at 50% of the schedule, where it scored 0.2000."
    picked = run(clip, images, edit.mask, **options, pick="2,0").ui["gallery"]
    assert {one["index"]: one["picked"] for one in picked} == {0: 1, 1: None, 2: 0, 3: None, 4: None}


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"prompt": "  "}, "prompt is empty"),
        ({"images": torch.zeros(0, 128, 128, 3)}, "images is empty: connect at least one picture"),
        ({"images": []}, "images is empty: connect at least one picture"),
        ({"images": torch.full((2, 128, 128, 3), float("nan"))}, "images contains NaN or infinite values in every picture"),
        ({"images": torch.zeros(2, 128, 128, 1)}, r"images has shape \[2, 128, 128, 1\]"),
        ({"scope": OFF}, "all its weights are 0"),
        ({"mask": torch.zeros(1, 64, 64)}, "mask is 64x64, but images are 128x128"),
        ({"mask": [torch.zeros(1, 64, 64)] * 5}, "mask is 64x64, but images are 128x128"),
        ({"mask": torch.zeros(2, 128, 128)}, "mask has 2 in its batch, but images has 5"),
        ({"source": torch.zeros(1, 128, 64, 3)}, "source is 64x128, but images are 128x128"),
        ({"source": torch.zeros(3, 128, 128, 3)}, "source has 3 in its batch, but images has 5"),
        ({"latents": {"samples": torch.zeros(4, 4, 16, 16)}}, "latents has 4 in its batch, but images has 5"),
        ({"pick": "3,5"}, "pick is '3,5', but there are only 5 candidates: choose numbers from 0 to 4, or leave it empty for the best"),
        ({"pick": "3;0"}, "pick is '3;0', but must be numbers of candidates such as 3,0: click them in the gallery, or leave it empty for the best"),
        ({"pick": "-1"}, "pick is '-1', but must be numbers"),
        ({"pick": "3,"}, "pick is '3,', but must be numbers"),
        ({"top_k": [1, 2]}, "top_k is a list of 2, but all images are ranked together: connect a single one"),
    ],
)
def test_bad_input_gets_one_clear_sentence(clip, edit, images, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        rank(clip, **({"images": images, "mask": edit.mask} | change))


def test_a_clip_that_gives_nan_is_refused(clip, edit, images):
    damaged = replace(clip, patcher=copy.copy(clip.patcher))
    damaged.patcher.model = copy.deepcopy(clip.patcher.model)
    with torch.no_grad():
        next(damaged.patcher.model.visual.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="gives no finite embedding in torch.float32: its weights are damaged, so choose another model"):
        rank(damaged, images, edit.mask)


def test_cancel_is_heard_between_pictures(clip, edit, images):
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        rank(clip, images, edit.mask)
    assert len(rank(clip, images, edit.mask)[2]) == 5
