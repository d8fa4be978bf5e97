"""What the blending costs: Blended Latent KSampler beside the host's KSampler with a noise mask, in time and memory.

``python run.py bench sampler [--rounds N] [--json FILE]``. Same model, steps, batch and mask; the rounds alternate, so that a busy
machine hurts all alike, and the figure is the median of the rounds' ratios. Peak memory is that of a process of its own for each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # last: ComfyUI has a `nodes` too

from host.pack import make_importable, use_the_device_there_is  # noqa: E402

use_the_device_there_is()
make_importable()

import comfy.model_management  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402

from demo import loader  # noqa: E402
from demo.train import common, sampling  # noqa: E402

STEPS, BATCH, SEED, CFG, SAMPLER, SCHEDULER = 20, 4, 7, 4.0, "euler", "normal"
BASELINE = "host: KSampler, noise mask"


def runs() -> dict[str, Callable[[], object]]:
    """The baseline and ours, ready to run."""
    import comfy.sample

    from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
    from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate

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
    """MiB at most held by a process that does one run: of the GPU where there is one, else of the whole process."""
    told = subprocess.run([sys.executable, __file__, "--peak-of", name], capture_output=True, text=True, check=True).stdout
    return float(told.split()[-1])


def print_peak(run: Callable[[], object]) -> None:
    import resource

    run()
    on_gpu = comfy.model_management.get_torch_device().type == "cuda"
    print(torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--peak-of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    common.prepare(0, 0)
    comfy.utils.set_progress_bar_enabled(False)
    with torch.inference_mode():
        all_runs = runs()
        if options.peak_of:
            print_peak(all_runs[options.peak_of])
            return
        times: dict[str, list[float]] = {name: [] for name in all_runs}
        for one in range(options.rounds + 1):
            for name, run in all_runs.items():
                start = time.perf_counter()
                run()
                if one:  # the first round warms up
                    times[name].append(time.perf_counter() - start)
    figures = {}
    print(f"{STEPS} steps, batch {BATCH}, {options.rounds} rounds in turn\n{'':42} {'time / host':>12} {'middle half':>16} {'peak MiB':>9}")
    for name, of_name in times.items():
        ratios = [ours / host for ours, host in zip(of_name, times[BASELINE], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        figures[name] = {"ratio": middle, "low": low, "high": high, "peak": peak_memory(name)}
        print(f"{name:42} {middle:12.3f} {f'{low:.3f} to {high:.3f}':>16} {figures[name]['peak']:9.0f}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
