"""The wiring of docs/SCALING.md on two real servers: each finishes its own best, and only pictures travel."""
from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from test_workflows import nodes_of, workflow

from host.client import Client, Run

Json = dict[str, Any]
EACH = 6


@pytest.fixture(scope="module")
def machines(server: Any, open_server: Any, set_up: dict[str, Any]) -> Iterator[tuple[Client, Client]]:
    """The master, which is the server of all tests, and a worker."""
    with open_server(**set_up) as worker:
        with Client(server.url, diagnose=server.log) as one, Client(worker.url, diagnose=worker.log) as other:
            yield one, other


def example(client: Client, machine: int, received: str = "") -> tuple[Json, dict[str, str]]:
    """The example many_machines with few steps, as ComfyUI-Distributed sends it to a machine, and its nodes by name."""
    prompt = client.prompt(workflow("many_machines"))
    (seed,), (sample,), (decode,), (restore,), (collect,) = (nodes_of(prompt, kind) for kind in (
        "DistributedSeed", "BlendedLatentKSampler", "VAEDecode", "DecoderFinetuneReconstruct", "DistributedCollector"))
    again, rank = sorted(nodes_of(prompt, "ClipRankBatch"), key=lambda node: prompt[node]["inputs"]["images"] != [collect, 0])
    prompt[seed]["inputs"]["machine"] = machine
    prompt[sample]["inputs"] |= {"steps": 5, "candidates": EACH}
    prompt[restore]["inputs"]["method.iterations"] = 10
    prompt[collect]["inputs"]["received"] = received
    return prompt, {"seed": seed, "sample": sample, "decode": decode, "rank": rank, "restore": restore, "collect": collect, "again": again}


def watch(prompt: Json, pictures: dict[str, list[Any]], texts: dict[str, list[Any]]) -> Json:
    """The prompt with nodes that show these outputs."""
    shows = {name: {"class_type": "PreviewImage", "inputs": {"images": link}} for name, link in pictures.items()}
    return prompt | shows | {name: {"class_type": "PreviewAny", "inputs": {"source": link}} for name, link in texts.items()}


def wired(client: Client, machine: int, received: str = "") -> Json:
    """The example on one machine, with what it makes to be looked at."""
    prompt, by = example(client, machine, received)
    prompt["latents"] = {"class_type": "SaveLatent", "inputs": {"samples": [by["sample"], 0], "filename_prefix": "latents"}}
    return watch(prompt, {"own": [by["restore"], 0], "all": [by["collect"], 0], "result": [by["again"], 0]},
                 {"seeds": [by["sample"], 1], "order": [by["again"], 3], "scores": [by["again"], 2], "own_order": [by["rank"], 3]})


def in_one_batch(client: Client) -> Json:
    """What the two machines draw, ranked as a single batch on one server, and the best of it finished there."""
    prompt, by = example(client, 0)
    both = {}
    for machine in (0, 1):
        for name in ("seed", "sample", "decode"):
            both[f"{name} {machine}"] = {**prompt[by[name]], "inputs": dict(prompt[by[name]]["inputs"])}
        both[f"seed {machine}"]["inputs"]["machine"] = machine
        both[f"sample {machine}"]["inputs"]["seed"] = [f"seed {machine}", 0]
        both[f"decode {machine}"]["inputs"]["samples"] = [f"sample {machine}", 0]
    both["pictures"] = {"class_type": "ImageBatch", "inputs": {"image1": ["decode 0", 0], "image2": ["decode 1", 0]}}
    both["latents"] = {"class_type": "LatentBatch", "inputs": {"samples1": ["sample 0", 0], "samples2": ["sample 1", 0]}}
    prompt[by["rank"]]["inputs"] |= {"images": ["pictures", 0], "latents": ["latents", 0]}
    prompt["save"] = {"class_type": "SaveLatent", "inputs": {"samples": ["latents", 0], "filename_prefix": "latents"}}
    return watch(prompt | both, {"own": [by["restore"], 0]}, {"own_order": [by["rank"], 3]})


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def numbers(run: Run, name: str) -> list[float]:
    return [float(text) for text in run.outputs[name]["text"]]


def latents(client: Client, run: Run, node: str) -> torch.Tensor:
    """What SaveLatent saved, (B, C, h, w)."""
    (file,) = run.outputs[node]["latents"]
    return load(client.view(file))["latent_tensor"]


def test_two_machines_draw_choose_and_finish_what_one_would(machines):
    master, worker = machines
    theirs = worker.run(wired(worker, 1))
    (picture,) = worker.images(theirs, "own")
    ours = master.run(wired(master, 0, master.upload("from_worker.png", picture)))
    seeds = [run.outputs["seeds"]["text"] for run in (ours, theirs)]
    assert len({*seeds[0], *seeds[1]}) == 2 * EACH, "no candidate is drawn twice"

    collected = [pixels(data) for data in master.images(ours, "all")]
    assert len(collected) == 2 and np.array_equal(collected[1], pixels(picture))
    best = int(numbers(ours, "order")[0])
    result = pixels(master.images(ours, "result")[0])
    assert np.array_equal(result, collected[best])
    assert numbers(ours, "scores") == sorted(numbers(ours, "scores"), reverse=True)

    master.post("/free", {"free_memory": True})  # else half of it comes from what this server remembers
    alone = master.run(in_one_batch(master))
    assert not alone.cached
    drawn = torch.cat([latents(master, ours, "latents"), latents(worker, theirs, "latents")])
    assert drawn.shape[0] == 2 * EACH and (latents(master, alone, "save") - drawn).abs().max() <= 1e-4
    # What belongs to the winner is made again from its place in the order: the machine, and there the candidate that it chose.
    assert numbers(alone, "own_order")[0] == best * EACH + numbers((ours, theirs)[best], "own_order")[0]
    assert np.abs(pixels(master.images(alone, "own")[0]).astype(int) - result).max() <= 1
