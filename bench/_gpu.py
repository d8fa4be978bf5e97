"""What bench/gpu.py measures of one model, in a host of its own: the command line is the host's; the request comes as JSON on standard
input, the figures go as JSON to the last line of standard output."""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    # Before anything else of the host: its main.py reads the command line and sets dynamic VRAM up.
    importlib.import_module("main")
    importlib.import_module("demo.small.run")

import gc
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.memory_management
import comfy.model_management as management
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from bench import _full_size, _nodes, pipeline, ranking
from bench._full_size import KINDS, by_the_node, diffusion_model, edit_of, host_vae, random_prompt, random_weights, shapes_of, vae_weights
from bench.reconstruction import AUTHORS, BATCH, OURS, PHOTOS, Case, authors, box, photo


@dataclass(frozen=True)
class Amount:
    """How much is done: Adam steps of the authors and of ours, candidates of an edit, and the settings of both samplers."""

    theirs: int
    ours: int
    candidates: int
    samplers: tuple[dict[str, Any], dict[str, Any]]


FULL = Amount(75, OURS["iterations"], pipeline.CANDIDATES, (pipeline.AUTHORS, pipeline.OURS))
QUICK = Amount(2, 2, 3, (pipeline.AUTHORS | {"steps": 2}, pipeline.OURS | {"steps": 2}))


# ---------------------------------------------------------------- reconstruction

def by_the_authors(vae: comfy.sd.VAE, one: Case, steps: int) -> str:
    """The paper's procedure, as it says of itself."""
    authors(vae, one, steps)
    return f"{steps} steps"


def by_the_decoder(vae: comfy.sd.VAE, one: Case, steps: int) -> str:
    """No reconstruction."""
    vae.decode(one.z)
    return ""


def measured(run: Callable[[int], str], steps: int) -> dict[str, Any]:
    """Seconds, peak bytes of GPU memory beyond what was loaded, and what there is to say, of run(steps) after run(1) as a warm-up."""
    try:
        run(1)
        # What is left of the warm-up must not count as loaded.
        gc.collect()
        management.soft_empty_cache()
        before, start = loaded(), now()
        said = run(steps)
        seconds = now() - start
        return {"seconds": seconds, "peak": None if before is None else torch.cuda.max_memory_allocated() - before, "said": said}
    except Exception as error:
        management.raise_non_oom(error)
        return {"seconds": math.nan, "peak": None, "said": "out of memory"}


def now() -> float:
    """Seconds, once the device has done all that it was told."""
    management.synchronize()
    return time.perf_counter()


def loaded() -> int | None:
    """Bytes that tensors hold on the GPU, from which on the peak is counted; None without one. What dynamic VRAM holds torch does not count."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def reconstructions(name: str, weights: dict[str, Tensor], size: int, amount: Amount) -> Iterator[dict[str, Any]]:
    """The rows of the first table."""
    z = torch.randn(BATCH, KINDS[name].channels, size // 8, size // 8, generator=torch.Generator().manual_seed(1))
    many = Case(photo(PHOTOS[0], size), box(size, 0.25), z)
    one = replace(many, z=z[:1])
    for dtype in (torch.float32, torch.bfloat16):
        vae = host_vae(weights, dtype)
        rows = {
            AUTHORS: (partial(by_the_authors, vae, one), amount.theirs, 1),
            "plain decode": (partial(by_the_decoder, vae, one), 1, 1),
            "ours": (partial(by_the_node, vae, one), amount.ours, 1),
            f"ours, {BATCH} candidates, each": (partial(by_the_node, vae, many), amount.ours, BATCH),
        }
        theirs = math.nan
        for label, (run, steps, count) in rows.items():
            found = measured(run, steps)
            found["seconds"] /= count
            theirs = found["seconds"] if label == AUTHORS else theirs
            yield found | {"label": f"{name}, {size} px, {str(dtype).removeprefix('torch.')}: {label}", "ratio": found["seconds"] / theirs}


# ---------------------------------------------------------------- a whole edit

def edit(tools: _nodes.Tools, *arguments: Any, **options: Any) -> dict[str, Any]:
    """`_full_size.edit`: seconds by part, and what there is to say."""
    seconds: dict[str, float] = {}

    @contextmanager
    def part(name: str) -> Iterator[None]:
        start = now()
        yield
        seconds[name] = now() - start

    said = _full_size.edit(tools, *arguments, part=part, **options)
    return {"seconds": seconds, "said": said}


def whole_edits(name: str, weights: dict[str, Tensor], size: int, amount: Amount) -> Iterator[dict[str, Any]]:
    """The rows of the second table; the VAE is in the precision that the host chooses."""
    kind, vae = KINDS[name], host_vae(weights)
    # Each with memory of its own, as a file's: with dynamic VRAM the host keeps what it is given.
    checkpoint = {key: weight.clone() for key, weight in random_weights(shapes_of(kind), torch.float16).items()}
    tools = replace(_nodes.load(), model=diffusion_model(checkpoint), vae=vae)
    prompts, case = [random_prompt(kind, seed) for seed in (0, 1)], edit_of(size, 0.25)
    fits = (partial(by_the_authors, vae), amount.theirs), (partial(by_the_node, vae), amount.ours)
    theirs, ours = amount.samplers
    rows = ("the authors'", fits[0], theirs, ranking.PAPER, False), ("ours", fits[1], ours, ranking.DEFAULT, True)
    seconds = math.nan
    for label, (fit, steps), settings, scope, prune in rows:
        run = partial(edit, tools, case, prompts, candidates=amount.candidates, scope=scope, prune=prune)
        try:
            run(settings=settings | {"cfg": kind.cfg, "steps": 2}, reconstruct=lambda one, fit=fit: fit(one, 1))
            found = run(settings=settings | {"cfg": kind.cfg}, reconstruct=lambda one, fit=fit, steps=steps: fit(one, steps))
        except Exception as error:
            management.raise_non_oom(error)
            found = {"seconds": dict.fromkeys(_full_size.PARTS, math.nan), "said": "out of memory"}
        total = sum(found["seconds"].values())
        seconds = total if math.isnan(seconds) else seconds
        yield found | {"label": f"{name}, {size} px, {amount.candidates} candidates: {label}", "ratio": total / seconds}


def told(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of them, each told of as it comes."""
    found = []
    for row in rows:
        print(f"  {row['label']}: {row['seconds']}", file=sys.stderr, flush=True)
        found.append(row)
    return found


def main() -> None:
    request = json.load(sys.stdin)
    name, size, amount = request["model"], request["size"], QUICK if request["quick"] else FULL
    comfy.utils.set_progress_bar_enabled(False)
    torch.set_flush_denormal(True)
    weights = vae_weights(KINDS[name].channels)
    dynamic = f"dynamic VRAM {'on' if comfy.memory_management.aimdo_enabled else 'off'}"
    alone = "no GPU that has dynamic VRAM or counts memory, so this is the only table"
    host = f"{management.get_torch_device_name(management.get_torch_device())}: {dynamic if torch.cuda.is_available() else alone}"
    with torch.inference_mode():
        rows = told(reconstructions(name, weights, size, amount))
        management.unload_all_models()
        found = {"host": host, "rows": rows, "edits": told(whole_edits(name, weights, size, amount))}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
