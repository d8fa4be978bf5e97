"""Early pruning on the small model: who goes on, and that they come out as without it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import comfy.model_management
import comfy.samplers
import pytest
import torch
from families import FAMILIES, Loaded, load
from torch import Tensor

from blended_latent_diffusion.bld import ranking
from blended_latent_diffusion.bld.blending import keep_background
from blended_latent_diffusion.bridge.clip import models as clips
from blended_latent_diffusion.bridge.clip.similarity import similarity
from blended_latent_diffusion.bridge.sampling.pruning import Pruning
from blended_latent_diffusion.bridge.sampling.seeds import seeds_of
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.prune_candidates import PruneCandidates
from conftest import Edit, watched

N = 6


@pytest.fixture(autouse=True)
def as_in_a_workflow():
    """The host runs all nodes in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def clip(demo_pack) -> clips.OpenClip:
    return clips.load(clips.files()[0])


def draw(edit: Edit, steps: int = 8, sampler: str = "ddim", **options) -> dict:
    given = {"seed": 5, "model": edit.model, "latent_image": edit.latent, "positive": edit.positive, "negative": edit.negative, "mask": edit.mask}
    given |= {"cfg": 4.0, "scheduler": "normal", "candidates": N} | options
    return BlendedLatentKSampler.execute(steps=steps, sampler_name=sampler, **given).args[0]


def pruning(edit: Edit, clip: clips.OpenClip, **options):
    return PruneCandidates.execute(clip, edit.vae, "a fox", edit.mask, **({"rounds": 1} | options)).args[0]


def unit(edit: Edit, samples: Tensor) -> Tensor:
    return edit.model.model.process_latent_in(samples)


@pytest.mark.promise("pruned")
@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m_cfg_pp", "uni_pc"])
def test_who_goes_on_comes_out_as_without_pruning(edit, clip, sampler):
    full = draw(edit, sampler=sampler)["samples"]
    out = draw(edit, sampler=sampler, pruning=pruning(edit, clip, keep=0.5))
    assert len(out["samples"]) == 3 and out["batch_index"] == sorted(out["batch_index"])
    assert (unit(edit, out["samples"]) - unit(edit, full[out["batch_index"]])).abs().max() < 1e-4


def tiny_draw(loaded: Loaded, **options) -> dict:
    """Four candidates of a tiny model with random weights."""
    given = {"seed": 5, "model": loaded.model, "latent_image": {"samples": loaded.latent["samples"][:1]}, "positive": loaded.positive}
    given |= {"negative": loaded.negative, "steps": 5, "cfg": 3.0, "sampler_name": "euler", "scheduler": "simple", "candidates": 4}
    return BlendedLatentKSampler.execute(**(given | options)).args[0]


def tiny_race() -> Pruning:
    """Two rounds by a judge that needs no CLIP, after which one is left."""
    return Pruning(lambda z: -z.flatten(1).std(1), (0.3, 0.55), 0.5, 1)


def check_race(loaded: Loaded, caplog: pytest.LogCaptureFixture, **options) -> None:
    """The winner as without pruning, to the spread of its own values: with random weights some samplers run up to fifty."""
    full = tiny_draw(loaded, **options)["samples"]
    with caplog.at_level("INFO"):
        out = tiny_draw(loaded, chunk_size=3, pruning=tiny_race(), **options)
    units = loaded.model.model.process_latent_in
    winner = units(full[out["batch_index"]])
    assert len(winner) == 1
    assert (units(out["samples"]) - winner).abs().max() < 1e-4 * winner.std().clamp(min=1)
    assert "may remember" not in caplog.text, "no model is asked twice"


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_every_sampler_goes_through_a_race(caplog, sampler):
    check_race(load("SD1.5"), caplog, sampler_name=sampler)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if len(family.latent) == 3 or family.latent[1] == 1])
def test_every_family_of_pictures_goes_through_a_race(caplog, name):
    check_race(load(name), caplog)


@contextmanager
def calls_of(model) -> Iterator[list[int]]:
    """How many candidates each call of the network inside is for; the prompt and the empty one go together."""
    seen = []
    hook = model.model.diffusion_model.register_forward_pre_hook(lambda network, args: seen.append(len(args[0]) // 2))
    yield seen
    hook.remove()


def test_the_same_go_on_whatever_the_chunks():
    """A race of 16, counted over all of them, however few the memory has room for at once."""
    loaded, kept = load("SD1.5"), None
    units = loaded.model.model.process_latent_in
    full = tiny_draw(loaded, candidates=16)["samples"]
    for chunk in (16, 4, 2, 1):
        race = Pruning(lambda z: -z.flatten(1).std(1), (0.3, 0.55), 0.4, 1)
        with calls_of(loaded.model) as calls:
            out = tiny_draw(loaded, candidates=16, pruning=race, chunk_size=chunk)
        kept = kept or out["batch_index"]
        assert out["batch_index"] == kept and len(kept) == 3
        assert (units(out["samples"]) - units(full[kept])).abs().max() < 1e-4
        assert max(calls) == chunk and sum(calls) == 3 * 16 + 7 + 3, "as many predictions as with one chunk, no more than a chunk at once"


def test_a_patch_that_only_looks_leaves_the_race_as_it_is(edit, clip):
    """It may remember something, so those that go on are sampled again from the start, and come out the same."""
    seen = []
    race = {"pruning": pruning(edit, clip, start=0.3, keep=0.5), "scheduler": "simple"}
    patched = draw(edit, 4, model=watched(edit.model, lambda args: seen.append(len(args["denoised"]))), **race)
    assert (unit(edit, patched["samples"]) - unit(edit, draw(edit, 4, **race)["samples"])).abs().max() < 1e-4
    assert seen == [6, 6, 6, 3, 3, 3, 3]


def test_where_nothing_can_be_dropped_the_log_says_so(edit, clip, caplog):
    with caplog.at_level("INFO"):
        out = draw(edit, 2, candidates=2, pruning=pruning(edit, clip))
    assert len(out["samples"]) == 2
    assert "pruning drops none of 2 candidates, since keep is 0.5 and at_least is 2" in caplog.text


def test_memory_that_runs_out_in_the_race_halves_the_chunk(edit, clip, monkeypatch):
    """Made up, since this machine's memory can't be filled to order: no more than two at once fit."""
    full = draw(edit, 4)["samples"]

    def network(module, args) -> None:
        if len(args[0]) > 2 * 2:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")

    hook = edit.model.model.diffusion_model.register_forward_pre_hook(network)
    try:
        out = draw(edit, 4, pruning=pruning(edit, clip, keep=0.5))
    finally:
        hook.remove()
    assert len(out["samples"]) == 3
    assert (unit(edit, out["samples"]) - unit(edit, full[out["batch_index"]])).abs().max() < 1e-4


@pytest.mark.promise("pruned")
def test_the_model_is_not_asked_for_those_that_are_out(edit, clip):
    """8 steps begin at 0, 1/8, ... of the schedule; a round is held with what the first step in it predicts."""
    race = pruning(edit, clip, start=0.3, keep=0.5, rounds=2, interval=0.25)
    with calls_of(edit.model) as calls:
        draw(edit, scheduler="simple", pruning=race)
        draw(edit, scheduler="simple", pruning=pruning(edit, clip, start=0.3, keep=0.01, at_least=4))
    assert calls == [6, 6, 6, 6, 3, 3, 2, 2] + [6] * 4 + [4] * 4


def test_those_with_the_best_predictions_go_on(edit, clip):
    """Judged by hand: all candidates up to the same step, what is predicted there put into the source, decoded and ranked.

    With this seed the third leads the fourth by 0.05. Pruning decodes a part of the picture, and its scores differ by up to 0.01.
    """
    seen, seed = [], 8
    full = draw(edit, model=watched(edit.model, lambda args: seen.append(args["denoised"])), scheduler="simple", seed=seed)
    z = keep_background(edit.model.model.process_latent_out(seen[4].float()), edit.latent["samples"], full["noise_mask"])
    scores = similarity(list(edit.vae.decode(z)), [edit.mask[0]] * N, clip, ranking.phrases("a fox"), [], ["masked"], 0.0)[:, 0]
    out = draw(edit, scheduler="simple", pruning=pruning(edit, clip, start=0.5, keep=0.5, scope="masked"), seed=seed)
    assert out["batch_index"] == sorted(ranking.order(scores)[:3].tolist())


def test_the_latent_says_who_was_dropped_when_and_how_it_scored(edit, clip):
    everyone = seeds_of(draw(edit, steps=1))
    latent = draw(edit, pruning=pruning(edit, clip, start=0.5, keep=0.5))
    dropped = latent["dropped_candidates"]
    assert sorted([*seeds_of(latent), *(one["seed"] for one in dropped)]) == sorted(everyone)
    assert {one["share"] for one in dropped} == {0.5} and all(-1 <= one["score"] <= 1 for one in dropped)
    assert "dropped_candidates" not in draw(edit, steps=1)


def test_a_round_decodes_what_it_judges(edit, clip, monkeypatch):
    """The box of the mask and a quarter around, 24 to 72 and 56 to 104 in pixels, and two cells more; not the picture."""
    mask, sizes, decode = torch.zeros(1, 128, 128), [], edit.vae.decode
    mask[:, 32:64, 64:96] = 1
    monkeypatch.setattr(edit.vae, "decode", lambda z: sizes.append(tuple(z.shape)) or decode(z))
    z = torch.cat([edit.latent["samples"], edit.latent["samples"].flip(-1), edit.latent["samples"].flip(-2)])
    judged = PruneCandidates.execute(clip, edit.vae, "a fox", mask).args[0].judge(z)
    assert sizes == 3 * [(1, z.shape[1], 10, 10)]
    whole = similarity(list(decode(z)), [mask[0]] * 3, clip, ranking.phrases("a fox"), [], ["box"], 0.25)[:, 0]
    assert (judged - whole).abs().mean() < 0.01


def test_it_judges_with_a_vae_that_says_a_wrong_ratio(edit, clip):
    wrong = copy.copy(edit.vae)
    wrong.upscale_ratio = wrong.downscale_ratio = 32
    mask = torch.zeros(1, 130, 135)
    mask[:, 33:65, 67:99] = 1
    right, other = (PruneCandidates.execute(clip, vae, "a fox", mask).args[0].judge(edit.latent["samples"]) for vae in (edit.vae, wrong))
    assert torch.equal(right, other)


def test_each_source_keeps_its_own_share_of_its_candidates(edit, clip):
    latent = {"samples": torch.cat([edit.latent["samples"], edit.latent["samples"].flip(-1)])}
    both = {"latent_image": latent, "mask": edit.mask.expand(2, -1, -1), "candidates": 4, "cfg": 1.0}
    out = draw(edit, 4, pruning=pruning(edit, clip, keep=0.5), **both)
    assert [index // 4 for index in out["batch_index"]] == [0, 0, 1, 1]
    full = draw(edit, 4, **both)["samples"]
    assert (unit(edit, out["samples"]) - unit(edit, full[out["batch_index"]])).abs().max() < 1e-4


def test_a_prompt_for_each_candidate_stays_with_its_candidate(edit, clip):
    prompts = [[torch.cat([edit.positive[0][0], edit.negative[0][0]] * 3), {}]]
    out = draw(edit, 4, positive=prompts, pruning=pruning(edit, clip, keep=0.5))
    full = draw(edit, 4, positive=prompts)["samples"]
    assert (unit(edit, out["samples"]) - unit(edit, full[out["batch_index"]])).abs().max() < 1e-4


@pytest.mark.parametrize("options", [{"chunk_size": 4}, {"resample_steps": 2}, {"denoise": 0.6}])
def test_pruning_goes_with_the_other_options(edit, clip, options):
    out = draw(edit, 5, pruning=pruning(edit, clip, keep=0.5), **options)
    full = draw(edit, 5, **options)["samples"]
    assert len(out["samples"]) == 3
    assert (unit(edit, out["samples"]) - unit(edit, full[out["batch_index"]])).abs().max() < 1e-4


def test_pixel_blend_and_pruning_go_together(edit, clip):
    blend = {"pixel_blend": 0.5, "vae": edit.vae, "pixels": edit.image}
    assert len(draw(edit, 4, pruning=pruning(edit, clip, keep=0.5), **blend)["samples"]) == 3


def test_keeping_all_changes_nothing_and_asks_nobody(edit, clip):
    def never(z):
        raise AssertionError("was asked")

    out = draw(edit, 4, pruning=replace(pruning(edit, clip, keep=1.0), judge=never))
    assert out["batch_index"] == list(range(N)) and torch.equal(out["samples"], draw(edit, 4)["samples"])


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"prompt": " \n"}, "prompt is empty: describe what you want to see inside the mask"),
        ({"mask": torch.ones(2, 128, 128)}, "mask has 2 in its batch, but pruning needs a single one: connect one mask for all candidates"),
        ({"mask": torch.ones(1, 64, 64)}, "mask is 64x64, but the candidates decode to 128x128"),
    ],
)
def test_bad_input_gets_one_clear_sentence(edit, clip, change, sentence):
    given = {"clip": clip, "vae": edit.vae, "prompt": "a fox", "mask": edit.mask} | change
    with pytest.raises(ValueError, match=sentence):
        draw(edit, 2, pruning=PruneCandidates.execute(**given).args[0])
