"""A folder of pictures through `run.py edit`, beside the same prompts queued by hand: memory that must not grow, and what the command costs.

``python run.py bench folder [--pictures N] [--json FILE]``.

Pictures of the demo's size go through the smallest example with few steps and the method paste, so that the command's own work counts as
much as it can. By hand means: all prompts queued at once with the uploaded pictures, and nothing fetched. They are the prompts that the command
queues, with the nodes that tell its figures, or the bare workflow. A tenth of the pictures is edited each way before the command and a tenth after
it, on the same server.

Memory is that of the server and of the client after each picture: the mean of the last hundred over that of the first hundred, or of the last
and first tenth if there are fewer than a thousand pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import psutil
from PIL import Image

from bench import _table
from bench._command import benchmark
from bench._trials import the_host
from host.client import Client
from host.demo import INPUTS
from host.edit.graph import Workflow, read_workflow
from host.edit.taps import Taps
from host.provision import Host
from host.server import ROOT, Server

Json = dict[str, Any]
STEPS = 2


def answer(options: argparse.Namespace) -> Json:
    """The table and its figures."""
    host = the_host()
    with tempfile.TemporaryDirectory(prefix="bld-folder-") as folder, Server(host, inputs=[INPUTS]) as server:
        place, client = Path(folder), Client(server.url)
        workflow = quick(client, place / "workflow.json")
        few = max(3, options.pictures // 10)
        draw(place / "pictures", options.pictures)
        pictures = sorted((place / "pictures").iterdir())
        by_hand(client, workflow, pictures[:3], same)  # the models are loaded
        hands = [[by_hand(client, workflow, pictures[:few], asked) for asked in (same, bare)]]
        command, used = by_command(server, host, place)
        hands += [[by_hand(client, workflow, pictures[-few:], asked) for asked in (same, bare)]]
    growths = {name: growth([one[name] for one in used]) for name in ("server", "client")}
    rows = {name: [growths[name], used[0][name] / 2**20, used[-1][name] / 2**20] for name in growths}
    _table.show(f"{options.pictures} pictures", {"last over first": "{:.3f}", "first, MiB": "{:.0f}", "last, MiB": "{:.0f}"}, rows)
    each, (same_each, bare_each) = command / options.pictures, (sum(seconds) / (2 * few) for seconds in zip(*hands, strict=True))
    print(f"{each:.2f} s a picture, {same_each:.2f} s by hand: throughput {same_each / each:.3f} of that by hand")
    print(f"by hand without the figures {bare_each:.2f} s: throughput {bare_each / each:.3f} of that")
    return {"pictures": options.pictures, "memory": growths, "throughput": same_each / each, "without figures": bare_each / each}


def quick(client: Client, path: Path) -> Workflow:
    """The smallest example with few steps, and its file."""
    smallest = Workflow(read_workflow("smallest_graph"), client.object_info())
    found = {node["class_type"]: key for key, node in smallest.prompt.items()}
    prompt = smallest.prompt
    prompt[found["BlendedLatentKSampler"]]["inputs"]["steps"] = STEPS
    prompt[found["DecoderFinetuneReconstruct"]]["inputs"]["method"] = "paste"
    path.write_text(json.dumps(prompt))
    return Workflow(prompt, client.object_info())


def draw(folder: Path, count: int) -> None:
    """As many pictures, each with noise of its own, and the demo's mask in their alpha channel."""
    folder.mkdir()
    pixels, random = np.asarray(Image.open(INPUTS / "bld_demo_edit.png")).astype(int), np.random.default_rng(0)
    for number in range(count):
        noisy = np.clip(pixels[..., :3] + random.integers(-8, 9, (*pixels.shape[:2], 3)), 0, 255)
        Image.fromarray(np.dstack([noisy, pixels[..., 3]]).astype(np.uint8)).save(folder / f"{number:04d}.png")


def same(workflow: Workflow, prompt: Json) -> Json:
    """What the command queues for a prompt."""
    return Taps(prompt, workflow.info).prompt


def bare(workflow: Workflow, prompt: Json) -> Json:
    """The prompt alone."""
    return prompt


def by_hand(client: Client, workflow: Workflow, pictures: list[Path], asked: Callable[[Workflow, Json], Json]) -> float:
    """Seconds for these pictures, all queued at once."""
    (loader,) = (node for node, entry in workflow.prompt.items() if entry["class_type"] == "LoadImage")
    client.post("/free", {"free_memory": True})  # else it takes from its memory what was drawn before
    start = time.monotonic()
    for path in pictures:
        prompt, _ = workflow.filled({(loader, "image"): client.upload(path.name, path.read_bytes())})
        client.queue(asked(workflow, prompt))
    while any(client.queued()):
        time.sleep(0.1)
    return time.monotonic() - start


def by_command(server: Server, host: Host, place: Path) -> tuple[float, list[dict[str, int]]]:
    """Seconds from the first to the last picture as the command has it, its start included, and the bytes held after each picture."""
    command = [sys.executable, "-m", "host.edit", f"--comfyui={host.comfyui}", f"--out={place / 'out'}", f"--server={server.url}",
               f"--workflow={place / 'workflow.json'}", str(place / "pictures")]  # fmt: skip
    used = []
    start = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True) as running:
        both = {"server": psutil.Process(server.pid), "client": psutil.Process(running.pid)}
        for line in running.stdout:
            if " left" in line:
                seconds = time.monotonic() - start
                used.append({name: process.memory_info().rss for name, process in both.items()})
    if running.returncode:
        raise SystemExit("the command failed")
    return seconds, used


def growth(held: list[int]) -> float:
    """What is held at the end over what is held at the start."""
    part = min(100, len(held) // 10)
    return mean(held[-part:]) / mean(held[:part])


def main() -> None:
    """The command line."""
    benchmark(answer, pictures=(1000, "how many pictures"))


if __name__ == "__main__":
    main()
