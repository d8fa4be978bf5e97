"""How often the candidate that is ranked first shows the prompt's object, what early pruning saves, and how small changes of the input hurt.

``python run.py bench ranking [--quick] [--json FILE]``, or this file with the ComfyUI tree on PYTHONPATH.

The edits are made like those of bench/edits.py: held-out scenes and wordings, an object that the scene does not show, strokes of 4 and 8
pixels. These masks were chosen for the success that bench/edits.py finds in them, about a half, before any ranking was looked at: in a broad box
nearly every candidate shows the object, and there is nothing to rank. Whether the object shows is the word of the stroke judge, a
classifier trained apart from the ranker (demo/train/stroke_judge.py).

The candidates of an edit are drawn once and ranked in every way. For the pruned rows what the model predicts is kept on the way, and
the rounds are held on that: a candidate that goes on comes out as without pruning (tests/test_pruning.py). Their times are those of real
runs, in turn with the full batch, on the first edits; how often these runs put the same candidate first is told, too.

The mix's weights and the settings of pruning were chosen on other edits (``--development``), never on those of the tables; the number of
pruning's rounds after an earlier table, whose 104 edits were given up for these.

On a CPU all but the judge runs in bfloat16, as it would in half precision on a GPU.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import functools
import io
import itertools
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))  # last: ComfyUI has a `nodes` too

from host.pack import make_importable, use_the_device_there_is  # noqa: E402

use_the_device_there_is()
make_importable()

import comfy.sample  # noqa: E402
import comfy.utils  # noqa: E402
import numpy as np  # noqa: E402
import scipy.ndimage  # noqa: E402
import scipy.stats  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from bench import edits  # noqa: E402
from bench._nodes import defaults  # noqa: E402
from blended_latent_diffusion.bld import metrics, ranking  # noqa: E402
from blended_latent_diffusion.bld.blending import keep_background  # noqa: E402
from blended_latent_diffusion.bridge.clip.rank import errors_of  # noqa: E402
from blended_latent_diffusion.bridge.sampling.pruning import Pruning  # noqa: E402
from blended_latent_diffusion.bridge.sampling.stages import stage_of_call  # noqa: E402
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler  # noqa: E402
from blended_latent_diffusion.nodes.clip_rank_batch import ClipRankBatch  # noqa: E402
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize  # noqa: E402
from blended_latent_diffusion.nodes.open_clip_loader import OpenClipLoader  # noqa: E402
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate  # noqa: E402
from blended_latent_diffusion.nodes.prune_candidates import PruneCandidates  # noqa: E402
from demo import loader  # noqa: E402
from demo.train import clip as ranker  # noqa: E402
from demo.train import common, data, sampling, stroke_judge  # noqa: E402

TEST, DEVELOPMENT = 170000, 140000
WIDTHS = (4, 8)
CANDIDATES, STEPS = 16, sampling.STEPS
SCOPES = (*ranking.SCOPES, "mix")
PAPER, DEFAULT = "masked", "mix"
# A GPU is shared badly, a CPU's cores well.
WORKERS = 1 if torch.cuda.is_available() else min(8, os.cpu_count() or 1)
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


@dataclass(frozen=True)
class Tools:
    """The demo model and those who look at its pictures. clip: the ranker; referee: the judge and its thresholds."""

    model: Any
    text: Any
    vae: Any
    clip: Any
    referee: tuple[stroke_judge.StrokeJudge, dict[int, float]]


def load() -> Tools:
    """The real parts, as a workflow has them."""
    import folder_paths

    from blended_latent_diffusion.bridge.clip import models as clips

    folder_paths.add_model_folder_path(clips.FOLDER, str(loader.OPEN_CLIP))
    return Tools(*loader.load(), OpenClipLoader.execute(f"{ranker.NAME}.safetensors").args[0], stroke_judge.load())


def half_precision(enabled: bool = True) -> torch.autocast:
    """bfloat16 for what the CPU computes inside; on a GPU the host's own choice stands."""
    return torch.autocast("cpu", torch.bfloat16, enabled)


def cases(first: int, count: int) -> list[edits.Case]:
    """Edits with masks of WIDTHS, all as often."""
    found = (case for case in map(edits.case, itertools.count(first)) if case.width in WIDTHS)
    return list(itertools.islice(found, count))


# ---------------------------------------------------------------- drawing and judging

def source_of(tools: Tools, case: edits.Case) -> dict:
    """The source as LATENT."""
    return {"samples": sampling.encode(tools.vae, case.source[None])}


def mask_of(case: edits.Case) -> torch.Tensor:
    """The mask at picture size, (1, H, W)."""
    return torch.from_numpy(case.mask).float()[None]


def draw(tools: Tools, case: edits.Case, seed: int, count: int, **options: Any) -> dict:
    """Candidates as LATENT, by Latent Mask Resize, Progressive Mask Dilate and Blended Latent KSampler."""
    latent = source_of(tools, case)
    schedule = ProgressiveMaskDilate.execute(LatentMaskResize.execute(mask_of(case), latent).args[0]).args[0]
    given = {"model": tools.model, "steps": STEPS, "sampler_name": sampling.SAMPLER, "scheduler": sampling.SCHEDULER, "chunk_size": count} | options
    positive, negative = (sampling.conditioning(tools.text, [prompt]) for prompt in (case.prompt, ""))
    return BlendedLatentKSampler.execute(
        seed=seed, cfg=sampling.CFG, positive=positive, negative=negative, latent_image=latent, mask_schedule=schedule, candidates=count, **given
    ).args[0]


def draw_with_the_host(tools: Tools, case: edits.Case, seed: int) -> torch.Tensor:
    """One latent by SetLatentNoiseMask and KSampler, with the same noise, steps and guidance."""
    z = source_of(tools, case)["samples"]
    positive, negative = (sampling.conditioning(tools.text, [prompt]) for prompt in (case.prompt, ""))
    return comfy.sample.sample(tools.model, comfy.sample.prepare_noise(z, seed), STEPS, sampling.CFG, sampling.SAMPLER, sampling.SCHEDULER, positive,
                               negative, z, noise_mask=mask_of(case)[:, None], disable_pbar=True, seed=seed)


def scores(tools: Tools, case: edits.Case, pictures: torch.Tensor, scope: str) -> torch.Tensor:
    """The score of each picture by CLIP Rank Batch with the scope's defaults, (N,)."""
    options = {name: [value] for name, value in defaults(ClipRankBatch, "scope", scope).items()}
    _, _, found, order, _ = ClipRankBatch.execute([pictures], [tools.clip], [case.prompt], [mask_of(case)], scope=options).args
    return torch.tensor(found)[torch.tensor(order).argsort()]


def shown(tools: Tools, case: edits.Case, pictures: torch.Tensor) -> np.ndarray:
    """Whether the judge sees the case's object in the mask of each picture, bool (N,)."""
    pixels = (pictures.float().clamp(0, 1).cpu().numpy() * 255 + 0.5).astype(np.uint8)
    with half_precision(False):
        return edits.judged(tools.referee, [case] * len(pixels), pixels)[0]


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


def prunings(tools: Tools, case: edits.Case, kinds: dict[str, dict[str, Any]]) -> dict[str, Pruning]:
    """What Prune Candidates makes of each kind of settings."""
    return {name: PruneCandidates.execute(tools.clip, tools.vae, case.prompt, mask_of(case), **options).args[0] for name, options in kinds.items()}


def drawn(tools: Tools, case: edits.Case, seed: int, kinds: dict[str, dict[str, Any]]) -> Drawn:
    """Draw the candidates of one edit, and rank them in every way."""
    pruned, seen = prunings(tools, case, kinds), {}
    latent = draw(tools, case, seed, CANDIDATES, model=recording(tools, {s for p in pruned.values() for s in p.shares}, seen))
    pictures = tools.vae.decode(latent["samples"])
    by_scope = {scope: scores(tools, case, pictures, scope) for scope in SCOPES}
    inner, thin = tools.model.model, latent["noise_mask"]
    source = inner.process_latent_in(source_of(tools, case)["samples"])
    predicted = {}
    for share, x0 in seen.items():
        blended = keep_background(x0.cpu().float(), source.expand_as(x0), thin.expand(len(x0), *thin.shape[1:]))
        predicted[share] = inner.process_latent_out(blended)
    first = {name: after_rounds(p, predicted, by_scope[DEFAULT]) for name, p in pruned.items()}
    return Drawn(shown(tools, case, pictures), by_scope, first, *realism(case, pictures))


def realism(case: edits.Case, pictures: torch.Tensor) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """The error that CLIP Rank Batch finds in each picture when it is given the source; its seam, and the background's dB."""
    x, m = edits.as_picture(case.source), mask_of(case)
    error = sum(errors_of(list(pictures), [x[0].movedim(0, -1)] * len(pictures), [m[0]] * len(pictures)).values())
    found = [metrics.figures(picture[None].movedim(-1, 1).float().cpu(), x, m) for picture in pictures]
    return error, np.asarray([one.seam for one in found]), np.asarray([one.background_psnr for one in found])


def time_runs(tools: Tools, case: edits.Case, seed: int, kinds: dict[str, dict[str, Any]], out: Drawn) -> None:
    """Real runs in turn, from the source to the ranked pictures: the full batch, and each kind of pruning."""
    for name, pruning in [("", None), *prunings(tools, case, kinds).items()]:
        start = time.perf_counter()
        latent = draw(tools, case, seed, CANDIDATES, pruning=pruning)
        best = int(ranking.order(scores(tools, case, tools.vae.decode(latent["samples"]), DEFAULT))[0])
        out.seconds[name] = time.perf_counter() - start
        out.first_of_run[name] = latent["batch_index"][best]


# ---------------------------------------------------------------- small changes of the input

def reworded(case: edits.Case) -> edits.Case:
    """The same object in another held-out wording."""
    name = data.article(data.KIND_NAMES[case.kind])
    wordings = [wording.replace(" {b}", "").format(s=name) for wording in data.HELD_OUT_WORDINGS]
    return dataclasses.replace(case, prompt=wordings[(wordings.index(case.prompt) + 1) % len(wordings)])


def with_mask(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[edits.Case], edits.Case]:
    """A change of the mask."""
    return lambda case: dataclasses.replace(case, mask=change(case.mask))


def as_jpeg(case: edits.Case) -> edits.Case:
    """The picture as a JPEG of quality 75."""
    file = io.BytesIO()
    Image.fromarray(case.source).save(file, "JPEG", quality=75)
    return dataclasses.replace(case, source=np.array(Image.open(file)))


CHANGES: dict[str, Callable[[edits.Case], edits.Case]] = {
    "none": lambda case: case,
    "other wording": reworded,
    "mask 1 px wider": with_mask(lambda mask: scipy.ndimage.binary_dilation(mask, np.ones((3, 3)))),
    "mask 1 px narrower": with_mask(lambda mask: scipy.ndimage.binary_erosion(mask, np.ones((3, 3)))),
    "mask shifted by 3 px": with_mask(lambda mask: scipy.ndimage.shift(mask, (3, -3), order=0)),
    "picture as JPEG": as_jpeg,
}


def changed(tools: Tools, case: edits.Case, seed: int, count: int) -> dict[str, tuple[bool, bool]]:
    """For each change: whether our first of a pruned batch shows the object, and whether the host's single draw does."""
    out = {}
    for name, change in CHANGES.items():
        other = change(case)
        pruning = prunings(tools, other, {"default": {}})["default"]
        pictures = tools.vae.decode(draw(tools, other, seed, count, pruning=pruning)["samples"])
        best = ranking.order(scores(tools, other, pictures, DEFAULT))[:1]
        single = tools.vae.decode(draw_with_the_host(tools, other, seed))
        out[name] = bool(shown(tools, other, pictures[best])[0]), bool(shown(tools, other, single)[0])
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
    print(f"{'shows the object':48}{'share':>8}{'95 % interval':>16}{'pairs with masked':>19}{'in order':>10}{'p with masked':>15}")
    each = np.asarray([d.hit.mean() for d in out])
    rows = {"each candidate: a random pick": each.mean(), "any candidate: the most that ranking can reach": np.mean([d.hit.any() for d in out])}
    for name, value in rows.items():
        print(f"{name:48}{value:8.1%}")
    paper, paper_order = first_by(PAPER, out), in_order(PAPER, out)
    for scope in SCOPES:
        hit, right, told = first_by(scope, out), in_order(scope, out), {PAPER: " (the paper)", DEFAULT: " (default)"}.get(scope, "")
        p = 1 if scope == PAPER else scipy.stats.wilcoxon(right, paper_order).pvalue
        print(f"{f'first by {scope}{told}':48}{hit.mean():8.1%}{edits.interval(hit):>16}{edits.against(hit, paper):>19}{right.mean():10.1%}{p:15.1g}")
        figures.setdefault("in order", {})[scope] = float(right.mean())
        rows[f"first by {scope}"] = hit.mean()
    gain = first_by(DEFAULT, out) - each
    print(f"default mix less a random pick, edit by edit: {gain.mean():+.1%}, Wilcoxon p {scipy.stats.wilcoxon(gain).pvalue:.1g}")
    figures["ranking"] = {name: float(value) for name, value in rows.items()}


def mix_in_words() -> str:
    """The default weights."""
    weights = defaults(ClipRankBatch, "scope", "mix")
    return ", ".join(f"{scope} {weights[f'{scope}_weight']:g}" for scope in ranking.SCOPES)


def show_pruning(out: list[Drawn], kinds: dict[str, dict[str, Any]], figures: dict[str, Any]) -> None:
    """What pruning saves, and what it loses."""
    timed, full = [d for d in out if d.seconds], first_by(DEFAULT, out)
    print(f"\n{'pruning (default mix)':48}{'share':>8}{'95 % interval':>16}{'pairs with none':>18}{'time':>8}{'middle half':>16}{'same first':>12}")
    print(f"{'none':48}{full.mean():8.1%}{edits.interval(full):>16}{'':18}{1:8.2f}")
    for name in kinds:
        hit = np.asarray([d.hit[d.first[name]] for d in out])
        ratios = [d.seconds[name] / d.seconds[""] for d in timed]
        low, middle, high = statistics.quantiles(ratios, n=4)
        same = np.mean([d.first_of_run[name] == d.first[name] for d in timed])
        print(f"{name:48}{hit.mean():8.1%}{edits.interval(hit):>16}{edits.against(hit, full):>18}{middle:8.2f}{f'{low:.2f} to {high:.2f}':>16}{same:12.0%}")
        figures.setdefault("pruning", {})[name] = {"share": float(hit.mean()), "time": middle, "low": low, "high": high, "same": float(same)}


def show_realism(out: list[Drawn], figures: dict[str, Any]) -> None:
    """Who comes first where the ranker is given the source, by the weight of what it finds there."""
    print(f"\n{'realism_weight (default mix)':48}{'share':>8}{'pairs with none':>18}{'seam':>8}{'background':>13}{'another first':>15}")
    plain = np.asarray([int(ranking.order(d.scores[DEFAULT])[0]) for d in out])
    for weight in REALISM:
        first = [int(ranking.order(d.scores[DEFAULT] - weight * d.error)[0]) for d in out]
        hit, seam, db = (np.asarray([values[i] for values, i in zip(column, first, strict=True)])
                         for column in zip(*((d.hit, d.seam, d.background) for d in out), strict=True))
        pairs = edits.against(hit, first_by(DEFAULT, out)) if weight else ""
        print(f"{weight:<48g}{hit.mean():8.1%}{pairs:>18}{np.nanmean(seam):8.2f}{db.mean():10.2f} dB{(plain != first).mean():15.0%}")
        figures.setdefault("realism", {})[f"{weight:g}"] = {"share": float(hit.mean()), "seam": float(np.nanmean(seam)), "background": float(db.mean())}


def show_changes(out: list[dict[str, tuple[bool, bool]]], count: int, figures: dict[str, Any]) -> None:
    """How often the object still shows after a small change."""
    seen = {name: np.asarray([one[name] for one in out]).T for name in CHANGES}
    print(f"\n{f'small changes, {len(out)} edits':30}{f'best of {count}, pruned':>30}{'host: a single draw':>30}")
    print(f"{'':30}" + f"{'shows':>15}{'still shows':>15}" * 2)
    for name, pair in seen.items():
        cells = [f"{hit.mean():15.1%}{hit[before].mean() if before.any() else np.nan:15.1%}" for hit, before in zip(pair, seen["none"], strict=True)]
        print(f"{name:30}" + "".join(cells))
    later = [np.concatenate([seen[name][who] for name in list(CHANGES)[1:]]) for who in (0, 1)]
    before = [np.tile(seen["none"][who], len(CHANGES) - 1) for who in (0, 1)]
    still = [float(hit[was].mean()) if was.any() else float("nan") for hit, was in zip(later, before, strict=True)]
    print(f"{'all changes':30}" + "".join(f"{hit.mean():15.1%}{share:15.1%}" for hit, share in zip(later, still, strict=True)))
    print(f"pairs, all changes: {edits.against(later[0], later[1])} (not independent: each edit counts {len(CHANGES) - 1} times)")
    figures["changes"] = {name: {"ours": float(pair[0].mean()), "host": float(pair[1].mean())} for name, pair in seen.items()}
    figures["changes"]["still shows"] = {"ours": still[0], "host": still[1]}


NOTES = """pairs: edits that show here and not there, and the reverse (exact McNemar test). in order: of the pairs of a candidate that shows the object
and one that does not, those that the score puts in this order, edit by edit; p by Wilcoxon's signed ranks. time: from the source to
the ranked pictures, over the full batch's, in turn on {timed} edits, median. same first: how often these runs put first the candidate of the share
column. still shows: of the edits that showed the object without a change. The stroke judge, on ideal edits of held-out scenes: of
windows that a kind covers by half or more it misses {missed:.1%} of {shown:.0f}; of the kinds that a window does not show it claims {claimed:.2%}."""


def judge_error(tools: Tools, scenes: int) -> dict[str, float]:
    """The judge's own error over the masks of WIDTHS."""
    with half_precision(False):
        by_width = edits.own_error(tools.vae, tools.referee, scenes)
    told = [by_width[width] for width in WIDTHS]
    total = sum(error["shown"] for error in told)
    missed = sum(error["missed"] * error["shown"] for error in told) / total
    return {"missed": missed, "claimed": statistics.mean(error["claimed"] for error in told), "shown": total}


# ---------------------------------------------------------------- choosing

def grid() -> dict[str, dict[str, Any]]:
    """The settings of pruning among which the default was chosen."""
    starts, keeps = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4), (0.125, 0.18, 0.25, 0.5)
    every = itertools.product(starts, keeps, ranking.SCOPES)
    one = {f"start {start} keep {keep} {scope}": {"start": start, "keep": keep, "scope": scope, "rounds": 1} for start, keep, scope in every}
    return one | {f"start {start} two rounds of keep 0.5": {"start": start, "keep": 0.5, "rounds": 2} for start in starts[:3]}


def show_choice(out: list[Drawn], kinds: dict[str, dict[str, Any]]) -> None:
    """Weights of the mix, and settings of pruning, on development edits."""
    print(f"{len(out)} edits, each candidate {np.mean([d.hit.mean() for d in out]):.1%}, any {np.mean([d.hit.any() for d in out]):.1%}")
    for row, width in enumerate(WIDTHS):
        print(f"  {edits.group_name(width)}: {np.mean([d.hit.mean() for d in out[row :: len(WIDTHS)]]):.1%}")
    print(f"{'masked, box, whole':24}{'first':>8}{'pairs in order':>16}")
    for weights in itertools.product((0, 1, 2), repeat=3):
        if np.gcd.reduce(weights) == 1:
            mixed = [sum(w * d.scores[scope] for w, scope in zip(weights, ranking.SCOPES, strict=True)) for d in out]
            first = np.mean([d.hit[int(ranking.order(s)[0])] for d, s in zip(out, mixed, strict=True)])
            print(f"{str(weights):24}{first:8.1%}{np.nanmean([order_right(d, s) for d, s in zip(out, mixed, strict=True)]):16.3f}")
    for name in kinds:
        print(f"{name:40}{np.mean([d.hit[d.first[name]] for d in out]):8.1%}")
    show_realism(out, {})


# ---------------------------------------------------------------- running

def in_a_worker(measure: Callable[..., Any], *edit: Any) -> Any:
    """What `measure` finds on one edit, in a process that keeps the tools."""
    with torch.inference_mode(), half_precision():
        return measure(tools_of_this_process(), *edit)


@functools.cache
def tools_of_this_process() -> Tools:
    """The tools, on one thread: two such processes draw more than one with two threads does."""
    prepare(1)
    return load()


def prepare(threads: int = 0) -> None:
    """Repeatable, quiet."""
    common.prepare(threads, 0)
    comfy.utils.set_progress_bar_enabled(False)


def seed_of(first: int, index: int) -> int:
    """Far enough apart for the seeds of all candidates."""
    return 10 * first + 100 * index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small sample")
    parser.add_argument("--development", action="store_true", help="the edits and settings among which the defaults were chosen")
    parser.add_argument("--workers", type=int, default=WORKERS, help=f"processes that draw at once, {WORKERS} here")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    count, timed, many, of_change, scenes, tried = (8, 2, 2, 4, 40, 8) if options.quick else (104, 6, 24, 8, 200, 100)
    prepare()
    start, figures = time.monotonic(), {}
    with concurrent.futures.ProcessPoolExecutor(options.workers, multiprocessing.get_context("spawn")) as pool:

        def each(measure: Callable[..., Any], first: int, count: int, seeds: int, option: Any) -> list[Any]:
            return list(pool.map(in_a_worker, *zip(*[(measure, case, seed_of(seeds, i), option) for i, case in enumerate(cases(first, count))], strict=True)))

        if options.development:
            kinds = grid()
            show_choice(each(drawn, DEVELOPMENT, tried, DEVELOPMENT, kinds), kinds)
            return
        out = each(drawn, TEST, count, TEST, PRUNED)
        changes = each(changed, TEST, many, 2 * TEST, of_change)
    with torch.inference_mode(), half_precision():
        tools = load()
        for i, (case, one) in enumerate(zip(cases(TEST, timed), out, strict=False)):
            time_runs(tools, case, seed_of(TEST, i), PRUNED, one)
        show_ranking(out, figures)
        show_pruning(out, PRUNED, figures)
        show_realism(out, figures)
        show_changes(changes, of_change, figures)
        figures["judge"] = judge_error(tools, scenes)
    print("\n" + NOTES.format(timed=timed, **figures["judge"]))
    print(f"{time.monotonic() - start:.0f} s{', quick sample' if options.quick else ''}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
