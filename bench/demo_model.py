"""What the embedded demo model can do, on held-out scenes, prompts and seeds; one table with the floors beside.

``python run.py bench demo-model [--quick] [--json FILE]``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bench import _table
from bench._command import benchmark
from bench._likeness import frechet, gradients
from bench._nodes import defaults, load_clip
from blended_latent_diffusion.bld.metrics import seam
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.clip_rank_batch import ClipRankBatch
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from demo import loader
from demo.train import clip as ranker
from demo.train import common, data, judge, sampling, sheets
from demo.train.wording import HELD_OUT_WORDINGS, article

# The least, or the range, that a figure must reach.
FLOORS = {"judge, balanced query accuracy": 0.97, "generation, named object shown": 0.95,
          "generation, sharpness (real scenes: 1)": "0.85 to 1.15", "edit in a box, each candidate": 0.95,
          "edit in a box, best of 8 by CLIP": 0.98, "edit in a box, sharpness (ideal edits: 1)": "0.85 to 1.15",
          "edit in a box, seam after reconstruction, levels": "at most 2", "VAE reconstruction, dB": 31, "CLIP top-1 over kinds": 0.90}
CANDIDATES = 8
Model = tuple[Any, Any, Any]
Draw = Callable[[Model, list, int], torch.Tensor]


@dataclass(frozen=True)
class Edit:
    """A source uint8 (H, W, 3), its mask (1, H, W), and the latent of the candidate that the ranking put first, (1, C, h, w)."""

    source: np.ndarray
    mask: torch.Tensor
    latent: torch.Tensor


def scene_prompt(index: int) -> tuple[str, int, int, bool]:
    """Held-out prompt ``index``, the kind and the background it names, and whether that kind was never trained on that background.

    The wording was never trained; every second prompt takes such a background, where the kind has one.
    """
    rng = np.random.default_rng((99, index))
    kind = index % len(data.KIND_NAMES)
    everything = range(len(data.BACKGROUNDS))
    unseen = [b for b in everything if data.held_out(kind, b)] if index // len(data.KIND_NAMES) % 2 == 0 else []
    background = int(rng.choice(unseen or [b for b in everything if not data.held_out(kind, b)]))
    wording = HELD_OUT_WORDINGS[int(rng.integers(len(HELD_OUT_WORDINGS)))]
    text = wording.format(s=article(data.KIND_NAMES[kind]), b=data.background_words(background, rng))
    return text, kind, background, bool(unseen)


def shows(referee: tuple[judge.Judge, float], pictures: np.ndarray, kinds: list[int]) -> np.ndarray:
    """Whether the judge sees each picture's kind, bool (N,)."""
    return judge.logits_of(referee[0], pictures)[np.arange(len(kinds)), kinds] > referee[1]


def generation(model: Model, referee: tuple[judge.Judge, float], count: int) -> dict[str, float]:
    """Share of held-out prompts whose picture shows the named object, also for never-trained pairs alone; beside real scenes of the same
    kinds and backgrounds, how sharp the pictures are and how far the judge's features of them lie.
    """
    prompts, kinds, backgrounds, new = zip(*(scene_prompt(i) for i in range(count)), strict=True)
    hits, drawn = [], []
    for start in range(0, count, 48):
        part = list(prompts[start:start + 48])
        pictures = sampling.decode(model[2], sampling.sample(model[0], model[1], part, 700000 + start))
        hits.append(shows(referee, pictures, list(kinds[start:start + 48]))), drawn.append(pictures)
    hit, made = np.concatenate(hits), np.concatenate(drawn)
    real = np.stack([data.render(data.alone("test", 80000 + i, kind, background)) for i, (kind, background) in enumerate(zip(kinds, backgrounds, strict=True))])
    everywhere = np.ones(made.shape[:3], bool)
    return {"all": float(hit.mean()), "unseen pairs": float(hit[np.asarray(new)].mean()),
            "sharpness": float(gradients(made, everywhere).mean() / gradients(real, everywhere).mean()),
            "distance": frechet(judge.features_of(referee[0], made), judge.features_of(referee[0], real))}


def edit_case(index: int) -> tuple[np.ndarray, np.ndarray, int, str]:
    """Held-out picture, box mask, a kind that the picture does not show, prompt."""
    rng = np.random.default_rng((98, index))
    scene = data.plan("test", 40000 + index)
    kind = int(rng.choice([k for k in range(len(data.KIND_NAMES)) if k not in {i.kind for i in scene.items}]))
    prompt = article(data.KIND_NAMES[kind])
    return data.render(scene), sheets.box_mask(rng), kind, prompt


def ideal_edit(index: int) -> np.ndarray:
    """Edit case ``index`` as the painter of the scenes would do it: in the box, the new object on the scene's background; uint8 (H, W, 3)."""
    source, mask, kind, _ = edit_case(index)
    (top, bottom), (left, right) = (np.flatnonzero(mask.any(axis))[[0, -1]] for axis in (1, 0))
    scene = data.plan("test", 40000 + index)
    new = replace(data.alone("test", 90000 + index, kind, scene.background).items[0],
                  x=(left + right) / 2, y=(top + bottom) / 2, side=int(0.9 * min(right - left, bottom - top)))
    return np.where(mask[..., None], data.render(replace(scene, items=(new,))), source)


def edits(model: Model, clip: Any, referee: tuple[judge.Judge, float], count: int, draw: Draw) -> tuple[dict[str, float], list[Edit]]:
    """Batch precision over the candidates, the hit rate of the candidate that the pack's ranking puts first, and how sharp the candidates
    are inside the box beside ideal edits; and those first candidates.
    """
    each, first, chance, chosen, sharp = [], [], [], [], []
    for start in range(0, count, 6):
        cases = [edit_case(i) for i in range(start, min(start + 6, count))]
        latents = draw(model, cases, 800000 + start).unflatten(0, (len(cases), CANDIDATES))
        for index, (source, mask, kind, prompt), z in zip(range(start, start + len(cases)), cases, latents, strict=True):
            candidates = sampling.decode(model[2], z)
            hit = shows(referee, candidates, [kind] * CANDIDATES)
            images, m = torch.from_numpy(candidates).float() / 255, torch.from_numpy(mask).float()[None]
            best = ClipRankBatch.execute([images], [clip], [prompt], [m], {"scope": ["masked"]}, top_k=[1]).args[3][0]
            each.append(hit.mean()), first.append(hit[best]), chance.append(hit.any())
            chosen.append(Edit(source, m, z[best][None]))
            inside = np.broadcast_to(mask, candidates.shape[:3])
            sharp.append([gradients(pictures, inside).mean() for pictures in (candidates, ideal_edit(index)[None].repeat(CANDIDATES, 0))])
    drawn, real = np.mean(sharp, 0)
    return {"each": float(np.mean(each)), "best": float(np.mean(first)), "any": float(np.mean(chance)), "sharpness": float(drawn / real)}, chosen


def seams(vae: Any, chosen: list[Edit]) -> float:
    """The mean seam, beyond the sources' own, of edits whose background the pack's reconstruction brought back, in 8-bit levels."""
    method, found = defaults(DecoderFinetuneReconstruct, "method", "decoder weights"), []
    for edit in chosen:
        x = torch.from_numpy(edit.source).float()[None] / 255
        picture = DecoderFinetuneReconstruct.execute({"samples": edit.latent}, vae, x, edit.mask, method).args[0]
        found.append(seam(picture.movedim(-1, 1), x.movedim(-1, 1), edit.mask))
    return float(np.mean(found))


def draw_with_the_host(model: Model, cases: list, seed: int) -> torch.Tensor:
    """Eight candidates per case by the host's own sampler and noise mask: latents (cases * 8, C, h, w)."""
    latent = sampling.encode(model[2], np.stack([c[0] for c in cases])).repeat_interleave(CANDIDATES, 0)
    mask = sampling.latent_mask(np.stack([c[1] for c in cases])).repeat_interleave(CANDIDATES, 0)
    return sampling.sample(model[0], model[1], _prompts(cases), seed, latent, mask)


def draw_with_the_pack(model: Model, cases: list, seed: int) -> torch.Tensor:
    """The same by the pack's nodes: fresh background noise and the paper's shrinking mask, other settings alike."""
    latent = {"samples": sampling.encode(model[2], np.stack([c[0] for c in cases]))}
    small = LatentMaskResize.execute(torch.from_numpy(np.stack([c[1] for c in cases])).float(), latent).args[0]
    schedule = ProgressiveMaskDilate.execute(small, stages=3, takeover=0.78).args[0]
    positive, negative = (sampling.conditioning(model[1], p) for p in (_prompts(cases), [""] * len(cases) * CANDIDATES))
    result = BlendedLatentKSampler.execute(
        model[0], seed, sampling.STEPS, sampling.CFG, sampling.SAMPLER, sampling.SCHEDULER, positive, negative, latent,
        candidates=CANDIDATES, mask_schedule=schedule, chunk_size=CANDIDATES * len(cases))
    return result.args[0]["samples"]


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
    (edited, chosen), (stock, _) = (edits(model, clip, referee, cases, draw) for draw in (draw_with_the_pack, draw_with_the_host))
    return {"judge, balanced query accuracy": accuracy["query"], "judge, exact set of kinds": accuracy["exact"],
            "generation, named object shown": made["all"], "generation, never-trained pairs": made["unseen pairs"],
            "generation, sharpness (real scenes: 1)": made["sharpness"], "generation, Fréchet distance to real scenes": made["distance"],
            "edit in a box, each candidate": edited["each"], "edit in a box, best of 8 by CLIP": edited["best"],
            "edit in a box, any of 8 (the ranking's ceiling)": edited["any"],
            "edit in a box, sharpness (ideal edits: 1)": edited["sharpness"],
            "edit in a box, seam after reconstruction, levels": seams(model[2], chosen),
            "  the same by the host's noise mask, each": stock["each"],
            "  the same by the host's noise mask, best of 8": stock["best"],
            "VAE reconstruction, dB": reconstruction(model[2], 32 if quick else 200),
            "CLIP top-1 over kinds": ranker.top1(200 if quick else 1000)}


def answer(options: argparse.Namespace) -> dict[str, float]:
    """The table and its figures."""
    figures = measure(options.quick)
    _table.show("question", {"figure": "{:.3f}", "the demo model must reach": "{}"}, {name: [value, FLOORS.get(name)] for name, value in figures.items()})
    return figures


def main() -> None:
    """The command line."""
    benchmark(answer, quick="a smaller sample, nine minutes on two slow cores")


if __name__ == "__main__":
    main()
