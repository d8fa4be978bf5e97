"""Odd inputs for every node, alone and in chains: each case ends in a right result or in one sentence that names the input at fault, and changes nothing else.

A share of what `python run.py bench endurance` does at length. What it found is kept here.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.odd.cases import CHAINS, NODES, Case, Cut, Prompted
from bench.odd.rules import BY_HOST, REFUSED, RIGHT, run
from bench.odd.survey import survey
from bench.odd.values import Latent, Lie, Many, Part, Pixels, Schedule

SEED = 16
SHARE = dict.fromkeys((*NODES, *CHAINS), 12) | {"crop": 25} | {"LatentMaskResize": 40, "ProgressiveMaskDilate": 40, "EditReport": 25, "PruneCandidates": 40} | {
    "DecoderFinetuneReconstruct": 8, "BlendedLatentKSampler": 25, "ApplyMaskSchedule": 30}  # fmt: skip
MASK, PICTURE, LATENT = Pixels((1, 32, 32), "stroke"), Pixels((1, 32, 32, 3)), Latent(Pixels((1, 4, 4, 4)))


def sampled(**odd: object) -> Case:
    """A run of Blended Latent KSampler with something odd."""
    sound = {"model": Part("model"), "seed": 0, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "positive": Prompted(),
             "negative": Prompted(), "latent_image": LATENT}  # fmt: skip
    return Case("BlendedLatentKSampler", sound | odd)


def ranked(latents: object) -> Case:
    """A run of CLIP Rank Batch with odd latents."""
    one = {"images": PICTURE, "clip": Part("clip"), "prompt": "a fox", "mask": MASK, "latents": latents}
    return Case("ClipRankBatch", {name: Many((value,)) for name, value in one.items()} | {"scope": {"scope": Many(("whole",))}})


FOUND = [
    (Case("LatentMaskResize", {"mask": MASK, "latent": LATENT, "image": Pixels((2, 2))}), REFUSED),
    (Case("LatentMaskResize", {"mask": MASK, "latent": LATENT, "image": Pixels(())}), REFUSED),
    (Case("ProgressiveMaskDilate", {"mask": Pixels((1, 4, 4)), "image": Pixels((0, 32, 32, 3))}), REFUSED),
    (Case("ProgressiveMaskDilate", {"mask": Pixels((1, 4, 4)), "stages": 2**63}), REFUSED),
    (Case("ProgressiveMaskDilate", {"mask": Pixels((1, 4, 4)), "takeover": math.nan}), REFUSED),
    (Case("ApplyMaskSchedule", {"model": Part("model"), "mask_schedule": Schedule(None, ())}), REFUSED),
    (Case("ApplyMaskSchedule", {"model": Part("model"), "mask_schedule": Schedule(Pixels((2, 1, 4, 4)), (math.nan, 1.0))}), REFUSED),
    (Case("ApplyMaskSchedule", {"model": Part("model"), "mask_schedule": Schedule(Pixels((0, 1, 4, 4)), ())}), REFUSED),
    (Case("ApplyMaskSchedule", {"model": Part("model"), "mask_schedule": Schedule(Pixels((1, 1, 4, 4), "nan"), (1.0,))}), REFUSED),
    (sampled(seed=2**64 - 1, sampler_name="lcm"), RIGHT),
    (sampled(steps=10**30), REFUSED),
    (sampled(steps=2, denoise=1e-9), REFUSED),
    (sampled(seed=True), REFUSED),
    (sampled(sampler_name="heunpp2"), RIGHT),
    (sampled(candidates=0), REFUSED),
    (sampled(cfg=math.nan), REFUSED),
    (sampled(vae=Part("clip"), pixel_blend=0.5), REFUSED),
    (Case("EditReport", {"source": Pixels((0, 32, 32, 3)), "edited": PICTURE, "mask": MASK}), REFUSED),
    (Case("EditReport", {"source": {}, "edited": PICTURE, "mask": Many((MASK,))}), REFUSED),
    (Case("ClipRankBatch", {"images": Many((PICTURE,)), "clip": Many((Part("clip"),)), "prompt": Many(("\ud800",)), "mask": Many((MASK,)),
                            "scope": {"scope": Many(("whole",))}}), REFUSED),
    (sampled(latent_image=Latent(Pixels((1, 4, 4, 4)), more=(("noise_mask", None),))), RIGHT),
    (sampled(latent_image=Latent(Pixels((1, 4, 4, 4)), more=(("noise_mask", 1),))), REFUSED),
    (sampled(latent_image={"samples": 1}), REFUSED),
    (ranked(Latent(Pixels((1, 4, 4, 4)), batch_index=())), REFUSED),
    (ranked(Latent(Pixels((1, 4, 4, 4)), more=(("batch_index", 3),))), REFUSED),
    (ranked(Latent(Pixels((1, 4, 4, 4)), more=(("candidate_seeds", None), ("dropped_candidates", 5), ("noise_mask", None)))), RIGHT),
    (ranked({}), REFUSED),
    (ranked(Latent(Pixels(()))), REFUSED),
    (Case("ClipRankBatch", {"images": Many((Pixels(()),)), "clip": Many((Part("clip"),)), "prompt": Many(("a fox",)), "mask": Many((MASK,)),
                            "scope": {"scope": Many(("whole",))}}), REFUSED),
    (Case("ClipRankBatch", {"images": Many((PICTURE,)), "clip": Many((Part("clip"),)), "prompt": Many(("a fox",)), "mask": Many((MASK,)),
                            "scope": {"scope": Many(("whole",))}, "against_lettering": None}), RIGHT),
    (Case("PruneCandidates", {"clip": Lie((("embed_images", None), ("embed_text", None))), "vae": Part("vae"), "prompt": "a fox", "mask": MASK}), REFUSED),
    (sampled(pruning=Lie((("judge", None), ("shares", ())))), REFUSED),
    (Case("EditPutBack", {"edited": PICTURE, "where": Lie((("image", None), ("window", ()), ("mask", "text"))), "method": {"method": "paste"}}), REFUSED),
    (Case("LatentMaskResize", {"mask": Pixels((2, 32, 32)), "latent": Latent(Pixels((1, 4, 3, 4, 4))), "vae": Part("other_vae")}), REFUSED),
    (Case("EditReport", {"source": PICTURE, "edited": Pixels((1, 32, 32, 3), "huge"), "mask": MASK}), RIGHT),
    (Case("EditReport", {"source": Pixels((2, 32, 32, 3)), "edited": Pixels((2, 32, 32, 3), "huge"), "mask": MASK, "frames": 0}), RIGHT),
    (Case("EditCutOut", {"image": Pixels((32, 32)), "mask": MASK}), REFUSED),
    (Case("EditCutOut", {"image": Pixels((1, 32, 32, 3), "levels", "uint8"), "mask": MASK, "size": 24, "multiple": 8}), RIGHT),
    (Case("EditPutBack", {"edited": Pixels(()), "where": Cut(), "method": {"method": "poisson"}}), REFUSED),
    (Case("EditPutBack", {"edited": Pixels((1, 16, 16, 3), "huge"), "where": Cut(), "method": {"method": "poisson"}}), RIGHT),
    (Case("EditPutBack", {"edited": Pixels((1, 8, 8, 3)), "where": Cut(), "image": Pixels((4, 4)), "method": {"method": "paste"}}), REFUSED),
    (Case("OpenClipLoader", {"clip_name": "bld_demo_clip.safetensors"}), RIGHT),
    (Case("OpenClipLoader", {"clip_name": "../../secret.safetensors"}), REFUSED),
]  # fmt: skip


def test_the_cases_are_of_every_node():
    assert set(NODES) == set(json.loads((Path(__file__).parent / "interface.json").read_text(encoding="utf-8")))


@pytest.mark.promise("latent-is-source", "limits", "asks-nobody", "no-programs", "folder-unchanged")
@pytest.mark.parametrize("name", SHARE)
def test_odd_inputs_give_a_right_result_or_one_sentence(demo_pack, name):
    endings, findings = survey(name, SHARE[name], SEED)
    assert findings == []
    assert set(endings) <= {RIGHT, REFUSED, BY_HOST} and endings[RIGHT] and endings[REFUSED]


@pytest.mark.promise("listed-files")
@pytest.mark.parametrize("case, ending", FOUND, ids=lambda value: getattr(value, "name", None))
def test_what_was_found_stays_mended(demo_pack, case, ending):
    assert run(case) == ending
