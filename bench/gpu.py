"""Time and memory with the full-size decoders and UNets of SD1.5 and SDXL, with ComfyUI's dynamic VRAM on and off.

``python run.py bench gpu [--quick] [--size N] [--json FILE]``.

The weights are random, since neither time nor memory depends on them; no figure here says anything about quality. For every model and every
setting of dynamic VRAM a process of its own is set up as ComfyUI's main.py sets itself up (bench/_gpu.py), on the device that it
chooses. Without a GPU of the kind that dynamic VRAM is for there is one setting, and no figure for memory.

Reconstruction: a 25 % mask; a plain decode, the authors' procedure (75 Adam steps on the whole decoder and the whole picture in float32, one
picture at a time), and Decoder Finetune Reconstruct with its defaults, for one candidate and for a batch. Of the defaults two are changed,
neither of which costs time, so that random weights do all steps: the target is out of reach, and the learning rate next to nothing. What the node
says of its steps stands beside the figures. The VAE is in float32 and in bfloat16. A whole edit: as in bench/pipeline.py, with the
same settings; its ranking is done by the small model's CLIP.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bench import _table
from bench._command import benchmark

SIZES = {"SD1.5": 512, "SDXL": 1024}
REQUEST = Path(__file__).with_name("_gpu.py")


def settings() -> list[list[str]]:
    """What the host is started with, one list of arguments for each table."""
    if torch.cuda.is_available():
        return [[], ["--disable-dynamic-vram"]]
    return [[] if torch.backends.mps.is_available() else ["--cpu"]]


def ask(flags: list[str], **request: Any) -> dict[str, Any]:
    """What a host that is started with these arguments measures. What it says meanwhile goes to standard error."""
    command = [sys.executable, str(REQUEST), "--disable-all-custom-nodes", *flags]
    done = subprocess.run(command, input=json.dumps(request), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(found: list[dict[str, Any]]) -> None:
    """Print the tables of one setting."""
    print(f"\n{found[0]['host']}")
    rows = {row["label"]: [row["seconds"], row["ratio"], None if row["peak"] is None else row["peak"] / 2**20, row["said"]]
            for one in found for row in one["rows"]}  # fmt: skip
    _table.show("reconstruction", {"seconds": "{:.3f}", "of the authors": "{:.4f}", "peak MiB": "{:.0f}", "": "{}"}, rows)
    edits = {row["label"]: [sum(row["seconds"].values()), row["ratio"], *row["seconds"].values(), row["said"]] for one in found for row in one["edits"]}
    parts = dict.fromkeys(found[0]["edits"][0]["seconds"], "{:.1f}")
    _table.show("whole edit", {"seconds": "{:.1f}", "of the authors": "{:.4f}", **parts, "": "{}"}, edits)


def answer(options: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """The tables and their figures."""
    if options.size is not None and (options.size < 64 or options.size % 64):
        sys.exit(f"--size was {options.size}, must be a multiple of 64.")
    sizes = {"SD1.5": SIZES["SD1.5"]} if options.quick else SIZES
    tables = []
    for flags in settings():
        tables.append([ask(flags, model=name, size=options.size or size, quick=options.quick) for name, size in sizes.items()])
        show(tables[-1])
    if options.quick:
        print("quick: steps and candidates were cut, these times mean nothing")
    return tables


def main() -> None:
    """The command line."""
    benchmark(
        answer,
        quick="SD1.5 alone, few steps and candidates: shows that all works, the figures mean nothing",
        size=(None, "pixels a side instead of 512 for SD1.5 and 1024 for SDXL; a multiple of 64"),
    )


if __name__ == "__main__":
    main()
