"""A ranked batch with the reconstruction of the best, end to end: the authors' procedure and ours, same model, same machine, in turn.

``python run.py bench pipeline [--quick] [--json FILE]``.

The authors': 24 candidates of 50 DDIM steps, fresh background noise at each step, all of them decoded and ranked by CLIP on the masked
picture, then 75 Adam steps of the whole decoder in float32 on the whole picture, from whose result the picture is taken. Ours: as many
candidates, with the settings OURS, pruned, ranked with the default mix, and the best is reconstructed by Decoder Finetune Reconstruct with its defaults
and the mask as it was painted, as in a workflow. The authors reconstruct with the mask that was sampled, in whole cells of the latent. Two more rows
reconstruct the best of ours again: without keep_thin_edits, and with whole cells. The seam, the background and what is inside are those of the mask that
a row was given.
OURS was set before any edit of the table was made; ``--development`` compares other numbers of steps, on other edits.

The masks: strokes of 2 to 16 pixels and broad areas, by turns. The judge is that of bench/ranking.py; what it says about half
precision holds here but for the reconstruction, which is in float32.
Each edit is made by both before the next one, so that a busy machine hurts both.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional

from bench import _judge, _table, edits, ranking, reconstruction
from bench._cases import Case, as_picture, cases, mask_of, seed_of
from bench._command import benchmark
from bench._judge import against, interval
from bench._nodes import Tools, best_of, defaults, draw, half_precision, load, prunings
from bench._workers import OPTION, workers
from blended_latent_diffusion.bld import metrics
from blended_latent_diffusion.bridge.vae.reconstruct import DECODER
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct

TEST, DEVELOPMENT = 195000, 160000
CANDIDATES, CELL = 24, 8
AUTHORS: dict[str, Any] = {"steps": 50, "sampler_name": "ddim", "scheduler": "ddim_uniform", "shrinking": edits.PAPER}
OURS: dict[str, Any] = {"steps": 20, "sampler_name": "ddim", "scheduler": "normal"}
AUTHORS_NAME, OUR_NAME, PARTS = "the authors'", "ours", ("drawing", "ranking", "reconstruction")
TRIED: dict[str, dict[str, Any]] = {f"{steps} steps": OURS | {"steps": steps} for steps in (12, 16, 20)}


@dataclass
class Made:
    """One edit by one procedure: the best as LATENT, as decoded and as reconstructed, (1, H, W, 3) in 0..1, the mask that it was reconstructed with,
    seconds by part, and which of the candidates that were finished show the object."""

    best: dict
    plain: torch.Tensor
    picture: torch.Tensor
    mask: torch.Tensor
    seconds: dict[str, float]
    shown: np.ndarray


def sampled(case: Case, latent: dict) -> torch.Tensor:
    """The area that was sampled, (1, H, W): the cells of the latent's mask. A stroke that is thinner than a cell hides most of its edit."""
    m = latent["noise_mask"][:1]
    return functional.interpolate(m.reshape(1, 1, *m.shape[-2:]).float(), case.mask.shape)[0]


def painted(case: Case, latent: dict) -> torch.Tensor:
    """The mask as it was painted, (1, H, W)."""
    return mask_of(case)


def to_reconstruct(case: Case, latent: dict, mask: torch.Tensor) -> reconstruction.Case:
    """The edit as bench/reconstruction.py has them."""
    return reconstruction.Case(torch.from_numpy(case.source).float()[None] / 255, mask, latent["samples"])


def by_the_paper(tools: Tools, case: Case, latent: dict, mask: torch.Tensor) -> torch.Tensor:
    """75 steps of Adam at 1e-4 on all weights of the decoder, in float32; lambda is 100, and means are over the whole picture."""
    return reconstruction.authors(tools.vae, to_reconstruct(case, latent, mask))


def by_the_node(tools: Tools, case: Case, latent: dict, mask: torch.Tensor, keep_thin_edits: bool = True) -> torch.Tensor:
    """Decoder Finetune Reconstruct as it is when it is new, but for `keep_thin_edits`."""
    one, method = to_reconstruct(case, latent, mask), defaults(DecoderFinetuneReconstruct, "method", DECODER)
    return DecoderFinetuneReconstruct.execute({"samples": one.z}, tools.vae, one.source, one.mask, method, keep_thin_edits).args[0].cpu()


def by_nothing(tools: Tools, case: Case, latent: dict, mask: torch.Tensor) -> torch.Tensor:
    """The plain decode."""
    return tools.vae.decode(latent["samples"])


def otherwise(tools: Tools, case: Case, made: Made) -> dict[str, Made]:
    """The same edit, reconstructed in the other ways of the table, by their names."""
    cells = sampled(case, made.best)
    with half_precision(False):
        return {
            "without keep_thin_edits": replace(made, picture=by_the_node(tools, case, made.best, made.mask, keep_thin_edits=False)),
            "whole cells": replace(made, picture=by_the_node(tools, case, made.best, cells, keep_thin_edits=False), mask=cells),
        }


def make(
    tools: Tools,
    case: Case,
    seed: int,
    settings: dict[str, Any],
    scope: str,
    prune: bool,
    area: Callable[[Case, dict], torch.Tensor],
    reconstruct: Callable[..., torch.Tensor],
) -> Made:
    """One edit, from the source to the reconstructed picture. area: the mask to reconstruct with, of a case and its LATENT."""
    clock = [time.perf_counter()]
    pruning = prunings(tools, case, {"": {}})[""] if prune else None
    latent = draw(tools, case, seed, CANDIDATES, pruning=pruning, **settings)
    clock.append(time.perf_counter())
    pictures = tools.vae.decode(latent["samples"])
    best = best_of(tools, case, latent, pictures, scope)
    clock.append(time.perf_counter())
    with half_precision(False):
        picture = reconstruct(tools, case, best, mask := area(case, best))
    clock.append(time.perf_counter())
    parts = {name: after - before for name, (before, after) in zip(PARTS, itertools.pairwise(clock), strict=True)}
    return Made(best, tools.vae.decode(best["samples"]).float(), picture, mask, parts, _judge.shown(tools.referee, case, pictures))


def authors(tools: Tools, case: Case, seed: int) -> Made:
    """The procedure of the paper."""
    return make(tools, case, seed, AUTHORS, ranking.PAPER, False, sampled, by_the_paper)


def ours(tools: Tools, case: Case, seed: int) -> Made:
    """The pack's."""
    return make(tools, case, seed, OURS, ranking.DEFAULT, True, painted, by_the_node)


def in_all_ways(tools: Tools, case: Case, seed: int) -> dict[str, Made]:
    """One edit by both procedures, and in the other ways, by their names in the table."""
    rows = {AUTHORS_NAME: authors(tools, case, seed), OUR_NAME: (made := ours(tools, case, seed))}
    return rows | {f"{OUR_NAME}, {name}": other for name, other in otherwise(tools, case, made).items()}


def measured(case: Case, made: Made) -> tuple[float, float, float]:
    """Of the reconstructed picture: PSNR in dB of what lies more than a cell of the latent from the mask; the seam, and the mean change of the edit, in
    levels of 255."""
    picture, source = made.picture.movedim(-1, 1), as_picture(case.source)
    inside = reconstruction.changed_inside(picture, made.plain.movedim(-1, 1), made.mask)
    far = functional.max_pool2d(made.mask[:, None], 2 * CELL + 1, 1, CELL)[:, 0]
    return metrics.background_psnr(picture, source, far), metrics.seam(picture, source, made.mask), inside


def shows(tools: Tools, cases: list[Case], pictures: Iterable[torch.Tensor]) -> np.ndarray:
    """Whether the object shows in one picture of each case."""
    return np.asarray([_judge.shown(tools.referee, case, picture)[0] for case, picture in zip(cases, pictures, strict=True)])


def show(tools: Tools, cases: list[Case], rows: dict[str, list[Made]]) -> dict[str, Any]:
    """Print the table; returns its figures. rows: the edits by procedure, the authors' and ours before others."""
    figures: dict[str, Any] = {}
    table, hits = {}, {name: shows(tools, cases, (made.picture for made in column)) for name, column in rows.items()}
    for name, column in rows.items():
        far, seam, inside = np.mean([measured(case, made) for case, made in zip(cases, column, strict=True)], 0).tolist()
        decoded, hit = shows(tools, cases, (made.plain for made in column)), hits[name]
        each, total = float(np.mean([made.shown.mean() for made in column])), statistics.median(sum(made.seconds.values()) for made in column)
        kept, medians = float(hit[decoded].mean()), [statistics.median(made.seconds[part] for made in column) for part in PARTS]
        table[name] = [each, decoded.mean(), hit.mean(), interval(hit), kept, far, seam, inside, total, *medians]
        figures[name] = {"finished show": each, "best decoded": float(decoded.mean()), "shows": float(hit.mean()), "kept": kept, "far": far, "seam": seam,
                         "inside": inside, "seconds": total}
    columns = {"finished show": "{:.1%}", "best decoded": "{:.1%}", "result shows": "{:.1%}", "95 % interval": "{}", "of those decoded": "{:.1%}",
               "background beyond a cell": "{:.2f} dB", "seam": "{:.2f}", "inside": "{:.1f}", "seconds": "{:.1f}"}
    _table.show(f"{len(cases)} edits, {CANDIDATES} candidates", columns | dict.fromkeys(PARTS, "{:.1f}"), table)
    theirs, ours_made = rows[AUTHORS_NAME], rows[OUR_NAME]
    low, middle, high = statistics.quantiles([sum(b.seconds.values()) / sum(a.seconds.values()) for a, b in zip(theirs, ours_made, strict=True)], n=4)
    print(f"time, ours over the authors', edit by edit: median {middle:.3f}, middle half {low:.3f} to {high:.3f}")
    for name in list(rows)[1:]:
        print(f"shows, {name} against the authors': {against(hits[name], hits[AUTHORS_NAME])} (exact McNemar)")
    print("background: inf is the source's own pixels")
    return figures | {"ratio": middle, "low": low, "high": high}


def choose(tools: Tools, cases: list[Case]) -> None:
    """Steps and samplers on development edits: how often the first of a pruned and ranked batch shows the object, and the seconds to there."""
    rows = {}
    for name, settings in TRIED.items():
        made = [make(tools, case, seed_of(DEVELOPMENT, i), settings, ranking.DEFAULT, True, painted, by_nothing) for i, case in enumerate(cases)]
        hit = shows(tools, cases, (one.picture for one in made)).mean()
        rows[name] = [hit, np.mean([one.shown.mean() for one in made]), statistics.median(sum(one.seconds.values()) for one in made)]
    _table.show("steps", {"first shows": "{:.1%}", "each": "{:.1%}", "seconds": "{:.1f}"}, rows)


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The table and its figures."""
    count = 5 if options.quick else 40
    found = cases(DEVELOPMENT if options.development else TEST, count)
    if options.development:
        with half_precision():
            choose(load(), found)
        return {}
    with workers(options.workers) as each:
        made = list(each(in_all_ways, found, [seed_of(TEST, i) for i in range(count)]))
    with half_precision():
        return show(load(), found, {name: [one[name] for one in made] for name in made[0]})


def main() -> None:
    """The command line."""
    benchmark(answer, quick="5 edits instead of 40", development="the edits and settings among which OURS was chosen", workers=OPTION)


if __name__ == "__main__":
    main()
