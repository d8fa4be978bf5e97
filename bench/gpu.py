"""Time and memory with the full-size decoders and UNets of SD1.5 and SDXL, with ComfyUI's dynamic VRAM on and off.

``python run.py bench gpu [--quick] [--size N] [--json FILE]``, or this file with the ComfyUI tree on PYTHONPATH.

The weights are random, since neither time nor memory depends on them; no figure here says anything about quality. For every model and every
setting of dynamic VRAM a process of its own is set up as ComfyUI's main.py sets itself up (bench/_gpu.py), on the device that it
chooses. Without a GPU of the kind that dynamic VRAM is for there is one setting, and no figure for memory.

Reconstruction: a 25 % mask; a plain decode, the authors' procedure (75 Adam steps on the whole decoder and the whole picture in float32, one
picture at a time), and Decoder Finetune Reconstruct with its defaults, for one candidate and for a batch. Of the defaults two are changed,
neither of which costs time, so that random weights do all steps: the target is out of reach, and the learning rate next to nothing. What the node
says of its steps stands beside the figures. The VAE is in float32 and in bfloat16. A whole edit: as in bench/pipeline.py, with the
same settings; its ranking is done by the demo model's small CLIP.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

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
    print(f"{'reconstruction':58}{'seconds':>12}{'of the authors':>16}{'peak MiB':>10}")
    for row in (row for one in found for row in one["rows"]):
        memory = "-" if row["peak"] is None else f"{row['peak'] / 2**20:.0f}"
        print(f"{row['label']:58}{row['seconds']:12.3f}{row['ratio']:16.4f}{memory:>10}  {row['said']}")
    parts = list(found[0]["edits"][0]["seconds"])
    print(f"{'whole edit':58}{'seconds':>12}{'of the authors':>16}" + "".join(f"{part:>16}" for part in parts))
    for row in (row for one in found for row in one["edits"]):
        seconds = row["seconds"]
        print(f"{row['label']:58}{sum(seconds.values()):12.1f}{row['ratio']:16.4f}" + "".join(f"{seconds[part]:16.1f}" for part in parts) + f"  {row['said']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="SD1.5 alone, few steps and candidates: shows that all works, the figures mean nothing")
    parser.add_argument("--size", type=int, help="pixels a side instead of 512 for SD1.5 and 1024 for SDXL; a multiple of 64")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    if options.size is not None and (options.size < 64 or options.size % 64):
        parser.error(f"--size was {options.size}, must be a multiple of 64.")
    sizes = {"SD1.5": SIZES["SD1.5"]} if options.quick else SIZES
    tables = []
    for flags in settings():
        tables.append([ask(flags, model=name, size=options.size or size, quick=options.quick) for name, size in sizes.items()])
        show(tables[-1])
    if options.quick:
        print("quick: steps and candidates were cut, these times mean nothing")
    if options.json:
        options.json.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
