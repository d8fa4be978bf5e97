"""What the blending costs: Blended Latent KSampler beside the host's KSampler with a noise mask, in time and memory.

``python run.py bench sampler [--rounds N] [--json FILE]``. Same model, steps, batch and mask; the rounds alternate, so that a busy
machine hurts all alike, and the figure is the median of the rounds' ratios. Peak memory is that of a process of its own for each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sample
import torch

from bench import _table
from bench._command import benchmark, quiet
from bench._process import apart, peak
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from demo import loader
from demo.train import sampling

STEPS, BATCH, SEED, CFG, SAMPLER, SCHEDULER = 20, 4, 7, 4.0, "euler", "normal"
BASELINE = "host: KSampler, noise mask"


def runs() -> dict[str, Callable[[], object]]:
    """The baseline and ours, ready to run."""
    model, clip, _ = loader.load()
    source = torch.randn(BATCH, 4, 16, 16, generator=torch.Generator().manual_seed(0)) * 5
    mask = torch.zeros(1, 16, 16)
    mask[0, 6:9, 3:13] = 1
    schedule = ProgressiveMaskDilate.execute(mask, stages=3, takeover=0.78).args[0]
    positive, negative = sampling.conditioning(clip, ["a fox"]), sampling.conditioning(clip, [""])
    common_arguments = (STEPS, CFG, SAMPLER, SCHEDULER, positive, negative)

    def host() -> object:
        noise = comfy.sample.prepare_noise(source, SEED)
        return comfy.sample.sample(model, noise, *common_arguments, source, noise_mask=mask[:, None], disable_pbar=True, seed=SEED)

    def ours(**options) -> Callable[[], object]:
        return lambda: BlendedLatentKSampler.execute(model, SEED, *common_arguments, {"samples": source}, chunk_size=BATCH, **options)

    return {
        BASELINE: host,
        "ours: one mask, fixed noise": ours(mask=mask, background_noise="fixed"),
        "ours: one mask, fresh noise": ours(mask=mask),
        "ours: shrinking, fresh noise (the paper)": ours(mask_schedule=schedule),
    }


def peak_memory(name: str) -> float:
    """MiB at most held by this process, which does one run: of the GPU where there is one, else of the whole process."""
    quiet()
    with torch.inference_mode(), peak() as most:
        runs()[name]()
    on_gpu = comfy.model_management.get_torch_device().type == "cuda"
    return (torch.cuda.max_memory_allocated() if on_gpu else most[0]) / 2**20


def times(rounds: int) -> dict[str, list[float]]:
    """Seconds of every run, a list of rounds by name."""
    all_runs = runs()
    found: dict[str, list[float]] = {name: [] for name in all_runs}
    for one in range(rounds + 1):
        for name, go in all_runs.items():
            start = time.perf_counter()
            go()
            if one:  # the first round warms up
                found[name].append(time.perf_counter() - start)
    return found


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The table and its figures."""
    found, figures, rows = times(options.rounds), {}, {}
    for name, seconds in found.items():
        ratios = [ours / host for ours, host in zip(seconds, found[BASELINE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        figures[name] = {"ratio": middle, "low": low, "high": high, "peak": apart(peak_memory, name)}
        rows[name] = [middle, f"{low:.3f} to {high:.3f}", figures[name]["peak"]]
    title = f"{STEPS} steps, batch {BATCH}, {options.rounds} rounds in turn"
    _table.show(title, {"time / host": "{:.3f}", "middle half": "{}", "peak MiB": "{:.0f}"}, rows)
    return figures


def main() -> None:
    """The command line."""
    benchmark(answer, rounds=(9, "how often each of them runs"))


if __name__ == "__main__":
    main()
