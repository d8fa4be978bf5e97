"""How often the candidate that is ranked first shows the prompt's object, what early pruning saves, and how small changes of the input hurt.

``python run.py bench ranking [--quick] [--json FILE]``.

The edits are made like those of bench/edits.py: held-out scenes and wordings, an object that the scene does not show, strokes of 4 and 8
pixels. These masks were chosen for the success that bench/edits.py finds in them, about a half, before any ranking was looked at: in a broad box
nearly every candidate shows the object, and there is nothing to rank. Whether the object shows is the word of the stroke judge, a
classifier trained apart from the ranker (demo/train/stroke_judge.py).

The candidates of an edit are drawn once and ranked in every way. For the pruned rows what the model predicts is kept on the way, and
the rounds are held on that: a candidate that goes on comes out as without pruning (tests/test_pruning.py). Their times are those of real
runs, in turn with the full batch, on the first edits; how often these runs put the same candidate first is told, too.

The mix and the settings of pruning were chosen on other edits, never on those of the tables: the views of the mix by hand ("Why a close-up" in
docs/FIGURES.md), weights and rounds among those that ``--development`` prints.

On a CPU that is quick at it, all but the judge runs in bfloat16, as it would in half precision on a GPU; on others in float32.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.sample
import numpy as np
import scipy.ndimage
import scipy.stats
import torch
from PIL import Image

from bench import _cases, _table
from bench._cases import Case, as_picture, mask_of, seed_of, width_name
from bench._command import benchmark
from bench._judge import against, interval, own_error, shown
from bench._nodes import Tools, defaults, draw, half_precision, load, prompts_of, prunings, scores, source_of
from bench._workers import OPTION, workers
from blended_latent_diffusion.bld import metrics, ranking
from blended_latent_diffusion.bld.blending import keep_background
from blended_latent_diffusion.bridge.clip.measure import errors_of
from blended_latent_diffusion.bridge.sampling.pruning import Pruning
from blended_latent_diffusion.bridge.sampling.stages import stage_of_call
from blended_latent_diffusion.nodes.clip_rank_batch import ClipRankBatch
from demo.train import data, sampling
from demo.train.wording import HELD_OUT_WORDINGS, article

TEST, DEVELOPMENT = 280000, 140000
WIDTHS = (4, 8)
CANDIDATES, STEPS = 16, sampling.STEPS
PAPER, DEFAULT, CLOSE_UP, BEFORE = "masked", "mix", "close-up", "a mix with all of masked"
SCOPES = (*ranking.SCOPES, CLOSE_UP, BEFORE, DEFAULT)
# The default mix before close-ups.
BEFORE_WEIGHTS = {"masked": 1, "box": 4, "whole": 2}
# Settings of Prune Candidates beside its defaults.
PRUNED: dict[str, dict[str, Any]] = {
    "default": {},
    "one round, keep 0.125": {"keep": 0.125, "rounds": 1},
    "one round, keep 0.25": {"keep": 0.25, "rounds": 1},
    "one round, keep 0.5": {"keep": 0.5, "rounds": 1},
    "one round at 0.35, keep 0.2": {"start": 0.35, "keep": 0.2, "rounds": 1},
}
# Weights of what the ranker finds against the source; the default is 1.
REALISM = 0, 0.3, 1, 3, 10


def cases(first: int, count: int) -> list[Case]:
    """Edits with masks of WIDTHS, all as often."""
    return _cases.cases(first, count, WIDTHS)


def draw_with_the_host(tools: Tools, case: Case, seed: int) -> torch.Tensor:
    """One latent by SetLatentNoiseMask and KSampler, with the same noise, steps and guidance."""
    z = source_of(tools, case)["samples"]
    return comfy.sample.sample(tools.model, comfy.sample.prepare_noise(z, seed), STEPS, sampling.CFG, sampling.SAMPLER, sampling.SCHEDULER,
                               *prompts_of(tools, case), z, noise_mask=mask_of(case)[:, None], disable_pbar=True, seed=seed)


# ---------------------------------------------------------------- ranking and pruning

@dataclass
class Drawn:
    """One edit's candidates: whether each shows the object, the scores by scope, who comes first after each kind of pruning, the error
    that the ranker adds up where it has the source, the seam and the background's dB of each; and seconds of real runs by kind of
    pruning, with the candidate that they put first."""

    hit: np.ndarray
    scores: dict[str, torch.Tensor]
    first: dict[str, int]
    error: torch.Tensor
    seam: np.ndarray
    background: np.ndarray
    seconds: dict[str, float] = field(default_factory=dict)
    first_of_run: dict[str, int] = field(default_factory=dict)


def recording(tools: Tools, shares: set[float], seen: dict[float, torch.Tensor]) -> Any:
    """A model that writes down what it predicts at the shares of the schedule at which rounds are held."""
    ends = sorted(shares)

    def watch(args: dict) -> torch.Tensor:
        levels = args["model_options"]["transformer_options"]["sample_sigmas"]
        due = stage_of_call(ends, args["sigma"], levels, args["model"].model_sampling)
        for share in ends[:due]:
            seen.setdefault(share, args["denoised"])
        return args["denoised"]

    model = tools.model.clone()
    model.set_model_sampler_post_cfg_function(watch)
    return model


def after_rounds(pruning: Pruning, latents: dict[float, torch.Tensor], final: torch.Tensor) -> int:
    """Who comes first by the final scores among those whom the rounds leave. latents: of all candidates, as predicted at each share."""
    alive = torch.arange(len(final))
    for share in pruning.shares:
        left = ranking.survivors(len(alive), pruning.keep, pruning.at_least)
        alive = alive[ranking.order(pruning.judge(latents[share][alive]))[:left].sort().values]
    return int(alive[ranking.order(final[alive])[0]])


def drawn(tools: Tools, case: Case, seed: int, kinds: dict[str, dict[str, Any]]) -> Drawn:
    """Draw the candidates of one edit, and rank them in every way."""
    pruned, seen = prunings(tools, case, kinds), {}
    latent = draw(tools, case, seed, CANDIDATES, model=recording(tools, {s for p in pruned.values() for s in p.shares}, seen))
    pictures = tools.vae.decode(latent["samples"])
    by_scope = scores_by_scope(tools, case, pictures)
    inner, thin = tools.model.model, latent["noise_mask"]
    source = inner.process_latent_in(source_of(tools, case)["samples"])
    predicted = {}
    for share, x0 in seen.items():
        blended = keep_background(x0.cpu().float(), source.expand_as(x0), thin.expand(len(x0), *thin.shape[1:]))
        predicted[share] = inner.process_latent_out(blended)
    first = {name: after_rounds(p, predicted, by_scope[DEFAULT]) for name, p in pruned.items()}
    return Drawn(shown(tools.referee, case, pictures), by_scope, first, *realism(case, pictures))


def scores_by_scope(tools: Tools, case: Case, pictures: torch.Tensor) -> dict[str, torch.Tensor]:
    """The scores of the pictures by each of SCOPES."""
    found = {scope: scores(tools, case, pictures, scope) for scope in (*ranking.SCOPES, DEFAULT)}
    found[CLOSE_UP] = scores(tools, case, pictures, DEFAULT, box_weight=0, whole_weight=0)
    found[BEFORE] = sum(weight * found[scope] for scope, weight in BEFORE_WEIGHTS.items()) / sum(BEFORE_WEIGHTS.values())
    return found


def realism(case: Case, pictures: torch.Tensor) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """The error that CLIP Rank Batch finds in each picture when it is given the source; its seam, and the background's dB."""
    x, m = as_picture(case.source), mask_of(case)
    error = sum(errors_of(list(pictures), [x[0].movedim(0, -1)] * len(pictures), [m[0]] * len(pictures)).values())
    found = [metrics.figures(picture[None].movedim(-1, 1).float().cpu(), x, m) for picture in pictures]
    return error, np.asarray([one.seam for one in found]), np.asarray([one.background_psnr for one in found])


def time_runs(tools: Tools, case: Case, seed: int, kinds: dict[str, dict[str, Any]], out: Drawn) -> None:
    """Real runs in turn, from the source to the ranked pictures: the full batch, and each kind of pruning."""
    for name, pruning in [("", None), *prunings(tools, case, kinds).items()]:
        start = time.perf_counter()
        latent = draw(tools, case, seed, CANDIDATES, pruning=pruning)
        best = int(ranking.order(scores(tools, case, tools.vae.decode(latent["samples"]), DEFAULT))[0])
        out.seconds[name] = time.perf_counter() - start
        out.first_of_run[name] = latent["batch_index"][best]


# ---------------------------------------------------------------- small changes of the input

def reworded(case: Case) -> Case:
    """The same object in another held-out wording."""
    name = article(data.KIND_NAMES[case.kind])
    wordings = [wording.replace(" {b}", "").format(s=name) for wording in HELD_OUT_WORDINGS]
    return dataclasses.replace(case, prompt=wordings[(wordings.index(case.prompt) + 1) % len(wordings)])


def with_mask(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Case], Case]:
    """A change of the mask."""
    return lambda case: dataclasses.replace(case, mask=change(case.mask))


def as_jpeg(case: Case) -> Case:
    """The picture as a JPEG of quality 75."""
    file = io.BytesIO()
    Image.fromarray(case.source).save(file, "JPEG", quality=75)
    return dataclasses.replace(case, source=np.array(Image.open(file)))


CHANGES: dict[str, Callable[[Case], Case]] = {
    "none": lambda case: case,
    "other wording": reworded,
    "mask 1 px wider": with_mask(lambda mask: scipy.ndimage.binary_dilation(mask, np.ones((3, 3)))),
    "mask 1 px narrower": with_mask(lambda mask: scipy.ndimage.binary_erosion(mask, np.ones((3, 3)))),
    "mask shifted by 3 px": with_mask(lambda mask: scipy.ndimage.shift(mask, (3, -3), order=0)),
    "picture as JPEG": as_jpeg,
}


def changed(tools: Tools, case: Case, seed: int, count: int) -> dict[str, tuple[bool, bool]]:
    """For each change: whether our first of a pruned batch shows the object, and whether the host's single draw does."""
    out = {}
    for name, change in CHANGES.items():
        other = change(case)
        pruning = prunings(tools, other, {"default": {}})["default"]
        pictures = tools.vae.decode(draw(tools, other, seed, count, pruning=pruning)["samples"])
        best = ranking.order(scores(tools, other, pictures, DEFAULT))[:1]
        single = tools.vae.decode(draw_with_the_host(tools, other, seed))
        out[name] = bool(shown(tools.referee, other, pictures[best])[0]), bool(shown(tools.referee, other, single)[0])
    return out


# ---------------------------------------------------------------- tables

def first_by(scope: str, edits_drawn: list[Drawn]) -> np.ndarray:
    """Whether the candidate that the scope puts first shows the object, for each edit."""
    return np.asarray([d.hit[int(ranking.order(d.scores[scope])[0])] for d in edits_drawn])


def order_right(d: Drawn, score: torch.Tensor) -> float:
    """Of the pairs of a candidate that shows the object and one that does not, the share that the score puts in this order; NaN without such pairs."""
    yes, no = score[torch.from_numpy(d.hit)], score[torch.from_numpy(~d.hit)]
    return float((yes[:, None] > no).float().mean()) if len(yes) and len(no) else float("nan")


def in_order(scope: str, edits_drawn: list[Drawn]) -> np.ndarray:
    """`order_right` of each edit that has such pairs."""
    shares = np.asarray([order_right(d, d.scores[scope]) for d in edits_drawn])
    return shares[~np.isnan(shares)]


def show_ranking(out: list[Drawn], figures: dict[str, Any]) -> None:
    """Who comes first, and how well the whole order is, by scope."""
    print(f"{len(out)} edits, {CANDIDATES} candidates each, {STEPS} steps; default mix: {mix_in_words()}")
    each = np.asarray([d.hit.mean() for d in out])
    shares = {"each candidate: a random pick": each.mean(), "any candidate: the most that ranking can reach": np.mean([d.hit.any() for d in out])}
    rows = {name: [value] for name, value in shares.items()}
    paper, paper_order = first_by(PAPER, out), in_order(PAPER, out)
    for scope in SCOPES:
        hit, right, told = first_by(scope, out), in_order(scope, out), {PAPER: " (the paper)", DEFAULT: " (default)"}.get(scope, "")
        p = 1 if scope == PAPER else scipy.stats.wilcoxon(right, paper_order).pvalue
        rows[f"first by {scope}{told}"] = [hit.mean(), interval(hit), against(hit, paper), right.mean(), p]
        figures.setdefault("in order", {})[scope] = float(right.mean())
        shares[f"first by {scope}"] = hit.mean()
    columns = {"share": "{:.1%}", "95 % interval": "{}", "pairs with masked": "{}", "in order": "{:.1%}", "p with masked": "{:.1g}"}
    _table.show("shows the object", columns, rows)
    gain = first_by(DEFAULT, out) - each
    print(f"default mix less a random pick, edit by edit: {gain.mean():+.1%}, Wilcoxon p {scipy.stats.wilcoxon(gain).pvalue:.1g}")
    figures["ranking"] = {name: float(value) for name, value in shares.items()}


def mix_in_words() -> str:
    """The default weights."""
    weights = defaults(ClipRankBatch, "scope", "mix")
    return ", ".join(f"{view} {weights[f'{scope}_weight']:g}" for scope, view in zip(ranking.SCOPES, ranking.MIXED, strict=True))


def show_pruning(out: list[Drawn], kinds: dict[str, dict[str, Any]], figures: dict[str, Any]) -> None:
    """What pruning saves, and what it loses."""
    timed, full = [d for d in out if d.seconds], first_by(DEFAULT, out)
    rows: dict[str, list[Any]] = {"none": [full.mean(), interval(full), None, 1.0]}
    for name in kinds:
        hit = np.asarray([d.hit[d.first[name]] for d in out])
        low, middle, high = statistics.quantiles([d.seconds[name] / d.seconds[""] for d in timed], n=4)
        same = np.mean([d.first_of_run[name] == d.first[name] for d in timed])
        rows[name] = [hit.mean(), interval(hit), against(hit, full), middle, f"{low:.2f} to {high:.2f}", same]
        figures.setdefault("pruning", {})[name] = {"share": float(hit.mean()), "time": middle, "low": low, "high": high, "same": float(same)}
    columns = {"share": "{:.1%}", "95 % interval": "{}", "pairs with none": "{}", "time": "{:.2f}", "middle half": "{}", "same first": "{:.0%}"}
    print()
    _table.show("pruning (default mix)", columns, rows)


def show_realism(out: list[Drawn], figures: dict[str, Any]) -> None:
    """Who comes first where the ranker is given the source, by the weight of what it finds there."""
    plain = np.asarray([int(ranking.order(d.scores[DEFAULT])[0]) for d in out])
    rows = {}
    for weight in REALISM:
        first = [int(ranking.order(d.scores[DEFAULT] - weight * d.error)[0]) for d in out]
        hit, seam, db = (np.asarray([values[i] for values, i in zip(column, first, strict=True)])
                         for column in zip(*((d.hit, d.seam, d.background) for d in out), strict=True))
        pairs = against(hit, first_by(DEFAULT, out)) if weight else None
        rows[f"{weight:g}"] = [hit.mean(), pairs, np.nanmean(seam), db.mean(), (plain != first).mean()]
        figures.setdefault("realism", {})[f"{weight:g}"] = {"share": float(hit.mean()), "seam": float(np.nanmean(seam)), "background": float(db.mean())}
    columns = {"share": "{:.1%}", "pairs with none": "{}", "seam": "{:.2f}", "background": "{:.2f} dB", "another first": "{:.0%}"}
    print()
    _table.show("realism_weight (default mix)", columns, rows)


def show_changes(out: list[dict[str, tuple[bool, bool]]], count: int, figures: dict[str, Any]) -> None:
    """How often the object still shows after a small change."""
    seen = {name: np.asarray([one[name] for one in out]).T for name in CHANGES}
    rows = {name: [share for hit, before in zip(pair, seen["none"], strict=True) for share in shares_of(hit, before)] for name, pair in seen.items()}
    later = [np.concatenate([seen[name][who] for name in list(CHANGES)[1:]]) for who in (0, 1)]
    before = [np.tile(seen["none"][who], len(CHANGES) - 1) for who in (0, 1)]
    rows["all changes"] = [share for hit, was in zip(later, before, strict=True) for share in shares_of(hit, was)]
    ours, host = f"best of {count}, pruned", "host, a single draw"
    print()
    _table.show(f"small changes, {len(out)} edits", {f"{who}: {what}": "{:.1%}" for who in (ours, host) for what in ("shows", "still shows")}, rows)
    print(f"pairs, all changes: {against(later[0], later[1])} (not independent: each edit counts {len(CHANGES) - 1} times)")
    figures["changes"] = {name: {"ours": float(pair[0].mean()), "host": float(pair[1].mean())} for name, pair in seen.items()}
    figures["changes"]["still shows"] = {"ours": rows["all changes"][1], "host": rows["all changes"][3]}


def shares_of(hit: np.ndarray, before: np.ndarray) -> tuple[float, float]:
    """How often the object shows, and how often it does where it showed before."""
    return float(hit.mean()), float(hit[before].mean()) if before.any() else float("nan")


NOTES = """pairs: edits that show here and not there, and the reverse (exact McNemar test). in order: of the pairs of a candidate that shows the object
and one that does not, those that the score puts in this order, edit by edit; p by Wilcoxon's signed ranks. time: from the source to
the ranked pictures, over the full batch's, in turn on {timed} edits, median. same first: how often these runs put first the candidate of the share
column. still shows: of the edits that showed the object without a change. The stroke judge, on ideal edits of held-out scenes: of
windows that a kind covers by half or more it misses {missed:.1%} of {shown:.0f}; of the kinds that a window does not show it claims {claimed:.2%}."""


def judge_error(tools: Tools, scenes: int) -> dict[str, float]:
    """The judge's own error over the masks of WIDTHS."""
    by_width = own_error(tools.vae, tools.referee, scenes)
    told = [by_width[width] for width in WIDTHS]
    total = sum(error["shown"] for error in told)
    missed = sum(error["missed"] * error["shown"] for error in told) / total
    return {"missed": missed, "claimed": statistics.mean(error["claimed"] for error in told), "shown": total}


# ---------------------------------------------------------------- choosing

def grid() -> dict[str, dict[str, Any]]:
    """The settings of pruning among which the default was chosen."""
    starts, keeps = (0.1, 0.15, 0.25, 0.35), (0.125, 0.18, 0.25, 0.5)
    every = itertools.product(starts, keeps, ranking.SCOPES)
    one = {f"start {start} keep {keep} {scope}": {"start": start, "keep": keep, "scope": scope, "rounds": 1} for start, keep, scope in every}
    return one | {
        f"start {start}, then {interval} later": {"start": start, "keep": 0.5, "rounds": 2, "interval": interval}
        for start, interval in ((0.1, 0.15), (0.1, 0.25), (0.15, 0.1), (0.15, 0.2), (0.25, 0.1))
    }


def show_choice(out: list[Drawn], kinds: dict[str, dict[str, Any]]) -> None:
    """Weights of the mix, and settings of pruning, on development edits."""
    print(f"{len(out)} edits, each candidate {np.mean([d.hit.mean() for d in out]):.1%}, any {np.mean([d.hit.any() for d in out]):.1%}")
    for row, width in enumerate(WIDTHS):
        print(f"  {width_name(width)}: {np.mean([d.hit.mean() for d in out[row :: len(WIDTHS)]]):.1%}")
    rows = {}
    for weights in itertools.product((0, 1, 2), repeat=3):
        if np.gcd.reduce(weights) == 1:
            mixed = [sum(w * d.scores[view] for w, view in zip(weights, ranking.MIXED, strict=True)) for d in out]
            first = np.mean([d.hit[int(ranking.order(s)[0])] for d, s in zip(out, mixed, strict=True)])
            rows[str(weights)] = [first, np.nanmean([order_right(d, s) for d, s in zip(out, mixed, strict=True)])]
    _table.show("close-up, box, whole", {"first": "{:.1%}", "pairs in order": "{:.3f}"}, rows)
    _table.show("pruning", {"first": "{:.1%}"}, {name: [np.mean([d.hit[d.first[name]] for d in out])] for name in kinds})
    show_realism(out, {})


# ---------------------------------------------------------------- running

def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The tables and their figures."""
    count, timed, many, of_change, scenes, tried = (8, 2, 2, 4, 40, 8) if options.quick else (208, 6, 24, 8, 200, 80)
    figures: dict[str, Any] = {}
    with workers(options.workers) as in_parallel:

        def each(measure: Callable[..., Any], first: int, count: int, seeds: int, option: Any) -> list[Any]:
            return list(in_parallel(measure, cases(first, count), [seed_of(seeds, i) for i in range(count)], itertools.repeat(option)))

        if options.development:
            kinds = grid()
            show_choice(each(drawn, DEVELOPMENT, tried, DEVELOPMENT, kinds), kinds)
            return figures
        out = each(drawn, TEST, count, TEST, PRUNED)
        changes = each(changed, TEST, many, 2 * TEST, of_change)
    with half_precision():
        tools = load()
        for i, (case, one) in enumerate(zip(cases(TEST, timed), out, strict=False)):
            time_runs(tools, case, seed_of(TEST, i), PRUNED, one)
        show_ranking(out, figures)
        show_pruning(out, PRUNED, figures)
        show_realism(out, figures)
        show_changes(changes, of_change, figures)
        figures["judge"] = judge_error(tools, scenes)
    print("\n" + NOTES.format(timed=timed, **figures["judge"]))
    return figures


def main() -> None:
    """The command line."""
    benchmark(
        answer,
        quick="a small sample",
        development="the edits and settings among which the defaults were chosen",
        workers=OPTION,
    )


if __name__ == "__main__":
    main()
