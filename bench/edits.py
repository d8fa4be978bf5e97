"""How often an edit shows in a thin mask, and what it costs the background: the host's samplers and the pack's in one table.

``python run.py bench edits [--quick] [--json FILE]``.

The pictures are held-out scenes, the prompts held-out wordings that name a kind of object which the picture does not show, the
masks strokes of 2 to 16 pixels and blobs. All methods get the same pictures, prompts, masks, start noise, steps and guidance.
Whether the kind shows is the stroke judge's word (demo/train/stroke_judge.py), which sees only the latent cells that the
mask touches. Its thresholds come from the split ``calibrate``, its error and every edit here from other scenes.

The defaults were chosen by ``bench shrinking --development``, on edits of other scenes, masks and noises than those of the table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from bench import _table
from bench._cases import WIDTHS, Case, as_picture, cases, width_name
from bench._command import benchmark
from bench._judge import against, interval, judged, own_error
from bench._nodes import settings
from blended_latent_diffusion.bld import metrics
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from demo.train import sampling, stroke_judge

TEST = 110000
BATCH = 40
# The authors' 13, 13, 13 and 11 of 50 steps.
PAPER: dict[str, Any] = {"stages": 3, "growth": 1, "takeover": 0.78, "where": "everywhere"}
Model = tuple[Any, Any, Any]


# ---------------------------------------------------------------- methods

@dataclass(frozen=True)
class Batch:
    """What every method gets: source latents, masks (B, 128, 128), conditionings, the seed of the first edit, and how it is sampled."""

    z: torch.Tensor
    masks: torch.Tensor
    positive: list
    negative: list
    seed: int
    steps: int = sampling.STEPS
    sampler: str = sampling.SAMPLER
    scheduler: str = sampling.SCHEDULER


def by_the_host(model: Any, batch: Batch) -> torch.Tensor:
    """SetLatentNoiseMask, which keeps the mask at picture size, and KSampler, from the noise that the pack starts from."""
    import comfy.sample

    from blended_latent_diffusion.bld.blending import NoiseDraws
    from blended_latent_diffusion.bld.seeds import candidate_seed

    noise = NoiseDraws([candidate_seed(batch.seed, 0, source) for source in range(len(batch.z))], tuple(batch.z.shape[1:])).draw()
    return comfy.sample.sample(model, noise, batch.steps, sampling.CFG, batch.sampler, batch.scheduler, batch.positive, batch.negative, batch.z,
                               noise_mask=batch.masks[:, None], disable_pbar=True, seed=batch.seed)


def by_differential_diffusion(model: Any, batch: Batch) -> torch.Tensor:
    """The same with the host's DifferentialDiffusion, which reads the mask's resized values as the share of the steps that a place may change."""
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion

    return by_the_host(DifferentialDiffusion.execute(model).args[0], batch)


def by_the_pack(model: Any, batch: Batch, **shrinking: Any) -> torch.Tensor:
    """LatentMaskResize in mode max, ProgressiveMaskDilate with these settings and BlendedLatentKSampler."""
    latent = {"samples": batch.z}
    schedule = ProgressiveMaskDilate.execute(LatentMaskResize.execute(batch.masks, latent).args[0], **shrinking).args[0]
    result = BlendedLatentKSampler.execute(model, batch.seed, batch.steps, sampling.CFG, batch.sampler, batch.scheduler, batch.positive, batch.negative, latent,
                                           mask_schedule=schedule, chunk_size=len(batch.z))
    return result.args[0]["samples"]


BASELINE, PLAIN = "host: SetLatentNoiseMask", "pack: no shrinking"
Method = Callable[[Any, Batch], torch.Tensor]
PACK: dict[str, Method] = {
    PLAIN: partial(by_the_pack, stages=0),
    "pack: the paper's shrinking": partial(by_the_pack, **PAPER),
    "pack: thin parts, the default": partial(by_the_pack, **settings(ProgressiveMaskDilate)),
}
METHODS: dict[str, Method] = {BASELINE: by_the_host, "host: DifferentialDiffusion": by_differential_diffusion, **PACK}


# ---------------------------------------------------------------- judging

@dataclass(frozen=True)
class Outcome:
    """What a method made of N edits.

    hit: the prompt's kind shows in the mask. other: how many of the kinds that are neither in the prompt nor in the picture the
    judge claims to see, in 0..1. db: PSNR of the decoded picture against the source picture, and levels: mean absolute difference from
    the decoded source, of 255, both without the masked latent cells and one cell around them. latent: largest difference of the
    latent outside the masked cells.
    """

    hit: np.ndarray
    other: np.ndarray
    db: np.ndarray
    levels: np.ndarray
    latent: np.ndarray


def outcome(vae: Any, referee: Any, cases: list[Case], source: torch.Tensor, z: torch.Tensor) -> Outcome:
    """The figures of one method's latents z, (N, 4, 16, 16)."""
    masked = torch.from_numpy(stroke_judge.cells(np.stack([c.mask for c in cases])) > 0)[:, None].float()
    near = stroke_judge.enlarge(torch.nn.functional.max_pool2d(masked, 3, 1, 1)[:, 0].numpy())
    pictures = decode(vae, z)
    hit, other = judged(referee, cases, pictures)
    changed = np.abs(pictures.astype(np.float32) - decode(vae, source)).mean(-1)
    db = [metrics.background_psnr(as_picture(a), as_picture(c.source), torch.from_numpy(m)[None]) for a, c, m in zip(pictures, cases, near, strict=True)]
    return Outcome(hit, other, np.asarray(db), (changed * (near == 0)).sum((1, 2)) / (near == 0).sum((1, 2)),
                   ((z - source).abs() * (1 - masked)).amax((1, 2, 3)).numpy())


def decode(vae: Any, z: torch.Tensor) -> np.ndarray:
    """uint8 pictures (N, 128, 128, 3), a batch at a time."""
    return np.concatenate([sampling.decode(vae, part) for part in z.split(BATCH)])


# ---------------------------------------------------------------- the table

OUTSIDE = ("outside, dB", "levels", "latent")
NOTES = f"""
{sampling.STEPS} steps of {sampling.SAMPLER}, guidance {sampling.CFG:g}. absent kinds: how often the judge claims one that neither prompt nor picture shows.
outside: beyond one latent cell around the mask, PSNR against the source picture and mean change of 255 levels against the decoded source;
latent: largest change of the latent outside the mask (DifferentialDiffusion's threshold falls to 0, so that its last step has no mask).
pairs: edits that show here and not there, and the reverse (exact McNemar test). misses: of windows that a kind covers by half or more;
claims: of the kinds that a window does not show."""


def batches_of(vae: Any, clip: Any, found: list[Case], first: int, **sampled: Any) -> list[Batch]:
    """The edits for the methods. sampled: steps, sampler and scheduler, where they aren't the usual ones."""
    made = []
    for i in range(0, len(found), BATCH):
        part = found[i:i + BATCH]
        made.append(Batch(sampling.encode(vae, np.stack([c.source for c in part])), torch.from_numpy(np.stack([c.mask for c in part])).float(),
                          sampling.conditioning(clip, [c.prompt for c in part]), sampling.conditioning(clip, [""] * len(part)), 10 * first + i, **sampled))
    return made


def measure(count: int, first: int, judge_scenes: int) -> dict[str, Any]:
    """All figures: the outcome of every method, by name, and the judge's own error, by width."""
    from demo import loader

    model, clip, vae = loader.load()
    referee = stroke_judge.load()
    found = cases(first, count)
    batches = batches_of(vae, clip, found, first)
    source = torch.cat([batch.z for batch in batches])
    outcomes = {}
    for name, draw in ({"source, not edited": lambda model, batch: batch.z} | METHODS).items():
        start = time.monotonic()
        z = torch.cat([draw(model, batch) for batch in batches])
        outcomes[name] = outcome(vae, referee, found, source, z)
        print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return {"width": np.asarray([c.width for c in found]), "outcomes": outcomes, "judge": own_error(vae, referee, judge_scenes)}


def figures(measured: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The table: for each method its rates of success by width of the stroke, on all strokes and on blobs, and what it did elsewhere."""
    width, rows = measured["width"], {}
    for name, out in measured["outcomes"].items():
        rows[name] = {width_name(w): float(out.hit[width == w].mean()) for w in WIDTHS if w} | {
            "strokes": float(out.hit[width > 0].mean()), "blobs": float(out.hit[width == 0].mean()), "absent kinds": float(out.other.mean()),
            **dict(zip(OUTSIDE, (float(out.db.mean()), float(out.levels.mean()), float(out.latent.max())), strict=True))}
    return rows


def show(measured: dict[str, Any]) -> None:
    """Print the tables and what their figures are worth."""
    rows, width, outcomes = figures(measured), measured["width"], measured["outcomes"]
    columns = {c: "{:.3g}" if c in OUTSIDE else "{:.1%}" for c in rows[BASELINE]}
    _table.show("shown in the mask", columns, {name: list(row.values()) for name, row in rows.items()})
    print()
    strokes, blobs, baseline = width > 0, width == 0, outcomes[BASELINE].hit
    columns = {heading: "{}" for heading in (f"{strokes.sum()} strokes", "pairs", f"{blobs.sum()} blobs", "pairs of blobs")}
    pairs = {name: [text for g in (strokes, blobs) for text in (interval(out.hit[g]), against(out.hit[g], baseline[g]))] for name, out in outcomes.items()}
    _table.show(f"95 % intervals; pairs with {BASELINE}", columns, pairs)
    print()
    errors = {width_name(w): [error["missed"], error["shown"], error["claimed"]] for w, error in measured["judge"].items()}
    _table.show("The judge on ideal edits", {"misses": "{:.1%}", "of": "{:.0f}", "claims": "{:.2%}"}, errors)
    print(NOTES)


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The tables and their figures."""
    measured = measure(40 if options.quick else 200, TEST, 40 if options.quick else 400)
    show(measured)
    return {"methods": figures(measured), "judge": measured["judge"]}


def main() -> None:
    """The command line."""
    benchmark(answer, quick="40 edits instead of 200")


if __name__ == "__main__":
    main()
