"""What the embedded demo model can do, on held-out scenes, prompts and seeds; one table with the floors beside.

``python run.py bench demo-model [--quick] [--json FILE]``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench import _table
from bench._command import benchmark
from bench._nodes import load_clip
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.clip_rank_batch import ClipRankBatch
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from demo import loader
from demo.train import clip as ranker
from demo.train import common, data, judge, sampling, sheets

FLOORS = {"judge, balanced query accuracy": 0.97, "generation, named object shown": 0.80,
          "edit in a box, each candidate": 0.60, "edit in a box, best of 8 by CLIP": 0.85,
          "VAE reconstruction, dB": 24.0, "CLIP top-1 over kinds": 0.90}
CANDIDATES = 8
Model = tuple[Any, Any, Any]
Draw = Callable[[Model, list, int], np.ndarray]


def scene_prompt(index: int) -> tuple[str, int, bool]:
    """Held-out prompt ``index``, the kind it names, and whether that kind was never trained on that background.

    The wording was never trained; every second prompt takes such a background, where the kind has one.
    """
    rng = np.random.default_rng((99, index))
    kind = index % len(data.KIND_NAMES)
    everything = range(len(data.BACKGROUNDS))
    unseen = [b for b in everything if data.held_out(kind, b)] if index // len(data.KIND_NAMES) % 2 == 0 else []
    background = int(rng.choice(unseen or [b for b in everything if not data.held_out(kind, b)]))
    wording = data.HELD_OUT_WORDINGS[int(rng.integers(len(data.HELD_OUT_WORDINGS)))]
    text = wording.format(s=data.article(data.KIND_NAMES[kind]), b=data.background_words(background, rng))
    return text, kind, bool(unseen)


def shows(referee: tuple[judge.Judge, float], pictures: np.ndarray, kinds: list[int]) -> np.ndarray:
    """Whether the judge sees each picture's kind, bool (N,)."""
    return judge.logits_of(referee[0], pictures)[np.arange(len(kinds)), kinds] > referee[1]


def generation(model: Model, referee: tuple[judge.Judge, float], count: int) -> dict[str, float]:
    """Share of held-out prompts whose picture shows the named object; also for never-trained pairs alone."""
    prompts, kinds, new = zip(*(scene_prompt(i) for i in range(count)), strict=True)
    hits = []
    for start in range(0, count, 48):
        part = list(prompts[start:start + 48])
        pictures = sampling.decode(model[2], sampling.sample(model[0], model[1], part, 700000 + start))
        hits.append(shows(referee, pictures, list(kinds[start:start + 48])))
    hit = np.concatenate(hits)
    return {"all": float(hit.mean()), "unseen pairs": float(hit[np.asarray(new)].mean())}


def edit_case(index: int) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Held-out picture, box mask, a kind that the picture does not show, prompt."""
    rng = np.random.default_rng((98, index))
    scene = data.plan("test", 40000 + index)
    kind = int(rng.choice([k for k in range(len(data.KIND_NAMES)) if k not in {i.kind for i in scene.items}]))
    prompt = data.article(data.KIND_NAMES[kind])
    return data.render(scene), sheets.box_mask(rng), kind, prompt


def edits(model: Model, clip: Any, referee: tuple[judge.Judge, float], count: int, draw: Draw) -> dict[str, float]:
    """Batch precision over the candidates, and the hit rate of the candidate that the pack's ranking puts first."""
    each, first, chance = [], [], []
    for start in range(0, count, 6):
        cases = [edit_case(i) for i in range(start, min(start + 6, count))]
        pictures = draw(model, cases, 800000 + start).reshape(len(cases), CANDIDATES, data.SIZE, data.SIZE, 3)
        for (_, mask, kind, prompt), candidates in zip(cases, pictures, strict=True):
            hit = shows(referee, candidates, [kind] * CANDIDATES)
            images, m = torch.from_numpy(candidates).float() / 255, torch.from_numpy(mask).float()[None]
            best = ClipRankBatch.execute([images], [clip], [prompt], [m], {"scope": ["masked"]}, top_k=[1]).args[3][0]
            each.append(hit.mean()), first.append(hit[best]), chance.append(hit.any())
    return {"each": float(np.mean(each)), "best": float(np.mean(first)), "any": float(np.mean(chance))}


def draw_with_the_host(model: Model, cases: list, seed: int) -> np.ndarray:
    """Eight candidates per case by the host's own sampler and noise mask: uint8 (cases * 8, 128, 128, 3)."""
    latent = sampling.encode(model[2], np.stack([c[0] for c in cases])).repeat_interleave(CANDIDATES, 0)
    mask = sampling.latent_mask(np.stack([c[1] for c in cases])).repeat_interleave(CANDIDATES, 0)
    return sampling.decode(model[2], sampling.sample(model[0], model[1], _prompts(cases), seed, latent, mask))


def draw_with_the_pack(model: Model, cases: list, seed: int) -> np.ndarray:
    """The same by the pack's nodes: fresh background noise and the paper's shrinking mask, other settings alike."""
    latent = {"samples": sampling.encode(model[2], np.stack([c[0] for c in cases]))}
    small = LatentMaskResize.execute(torch.from_numpy(np.stack([c[1] for c in cases])).float(), latent).args[0]
    schedule = ProgressiveMaskDilate.execute(small, stages=3, takeover=0.78).args[0]
    positive, negative = (sampling.conditioning(model[1], p) for p in (_prompts(cases), [""] * len(cases) * CANDIDATES))
    result = BlendedLatentKSampler.execute(
        model[0], seed, sampling.STEPS, sampling.CFG, sampling.SAMPLER, sampling.SCHEDULER, positive, negative, latent,
        candidates=CANDIDATES, mask_schedule=schedule, chunk_size=CANDIDATES * len(cases))
    return sampling.decode(model[2], result.args[0]["samples"])


def _prompts(cases: list) -> list[str]:
    return [case[3] for case in cases for _ in range(CANDIDATES)]


def reconstruction(vae: Any, count: int) -> float:
    """PSNR in dB of encode and decode on held-out scenes."""
    source = common.pictures("test", 60000, count)
    back = sampling.decode(vae, sampling.encode(vae, source))
    error = ((source.astype(np.float64) - back) / 255) ** 2
    return float((-10 * np.log10(error.mean((1, 2, 3)))).mean())


def measure(quick: bool) -> dict[str, Any]:
    """All figures."""
    model, clip, referee = loader.load(), load_clip(), judge.load()
    accuracy = judge.accuracy(300 if quick else 2000)
    made = generation(model, referee, 48 if quick else 336)
    cases = 6 if quick else 40
    edited, stock = (edits(model, clip, referee, cases, draw) for draw in (draw_with_the_pack, draw_with_the_host))
    return {"judge, balanced query accuracy": accuracy["query"], "judge, exact set of kinds": accuracy["exact"],
            "generation, named object shown": made["all"], "generation, never-trained pairs": made["unseen pairs"],
            "edit in a box, each candidate": edited["each"], "edit in a box, best of 8 by CLIP": edited["best"],
            "edit in a box, any of 8 (the ranking's ceiling)": edited["any"],
            "  the same by the host's noise mask, each": stock["each"],
            "  the same by the host's noise mask, best of 8": stock["best"],
            "VAE reconstruction, dB": reconstruction(model[2], 32 if quick else 200),
            "CLIP top-1 over kinds": ranker.top1(200 if quick else 1000)}


def answer(options: argparse.Namespace) -> dict[str, float]:
    """The table and its figures."""
    figures = measure(options.quick)
    _table.show("question", {"figure": "{:.3f}", "floor": "{:.2f}"}, {name: [value, FLOORS.get(name)] for name, value in figures.items()})
    return figures


if __name__ == "__main__":
    benchmark(answer, quick="a smaller sample: two minutes instead of fifteen")
