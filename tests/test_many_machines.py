"""The wiring of docs/SCALING.md on two real servers: each finishes its own best, and only pictures travel."""
from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_workflows import nodes_of, workflow

from conftest import ROOT
from host.client import Client, Run
from host.demo import INPUTS
from host.server import PACKS

Json = dict[str, Any]
SEED, EACH = 40, 3


@pytest.fixture(scope="module")
def machines(open_server: Any) -> Iterator[tuple[Client, Client]]:
    """The master and a worker."""
    packs = PACKS | {"distributed": ROOT / "tests" / "distributed"}
    with open_server(packs=packs, inputs=[INPUTS]) as master, open_server(packs=packs, inputs=[INPUTS]) as worker:
        with Client(master.url, diagnose=master.log) as one, Client(worker.url, diagnose=worker.log) as other:
            yield one, other


def wired(client: Client, machine: int, received: str = "") -> Json:
    """The main example with few steps, as docs/SCALING.md wires it."""
    prompt = client.prompt(workflow("blended_latent_edit"))
    (sample,), (rank,), (restore,), (save,) = (
        nodes_of(prompt, kind) for kind in ("BlendedLatentKSampler", "ClipRankBatch", "DecoderFinetuneReconstruct", "SaveImage"))
    prompt["seed"] = {"class_type": "DistributedSeed", "inputs": {"seed": SEED, "machine": machine}}
    prompt[sample]["inputs"] |= {"seed": ["seed", 0], "steps": 3, "candidates": EACH}
    prompt[rank]["inputs"]["top_k"] = 1
    prompt[restore]["inputs"] |= {"samples": [rank, 1], "method": "paste", "method.feather": 0}
    prompt["collect"] = {"class_type": "DistributedCollector", "inputs": {"images": [restore, 0], "load_balance": False, "received": received}}
    prompt["again"] = {"class_type": "ClipRankBatch", "inputs": {key: value for key, value in prompt[rank]["inputs"].items() if key != "latents"}
                       | {"images": ["collect", 0]}}
    prompt[save]["inputs"]["images"] = ["again", 0]
    taps = {"own": [restore, 0], "all": ["collect", 0], "result": ["again", 0]}
    texts = {"seeds": [sample, 1], "order": ["again", 3], "scores": ["again", 2], "own_scores": [rank, 2]}
    for name, link in (taps | texts).items():
        inputs = {"images" if name in taps else "source": link}
        prompt[name] = {"class_type": "PreviewImage" if name in taps else "PreviewAny", "inputs": inputs}
    return prompt


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


def texts(run: Run, name: str) -> list[float]:
    return [float(text) for text in run.outputs[name]["text"]]


def test_each_machine_finishes_its_best_and_the_master_chooses(machines):
    master, worker = machines
    theirs = worker.run(wired(worker, 1))
    (picture,) = worker.images(theirs, "own")
    ours = master.run(wired(master, 0, master.upload("from_worker.png", picture)))
    seeds = [run.outputs["seeds"]["text"] for run in (ours, theirs)]
    assert len({*seeds[0], *seeds[1]}) == 2 * EACH, "no candidate is drawn twice"

    collected = [pixels(data) for data in master.images(ours, "all")]
    assert len(collected) == 2 and np.array_equal(collected[1], pixels(picture))
    best = int(texts(ours, "order")[0])
    own = [texts(run, "own_scores")[0] for run in (ours, theirs)]
    assert np.array_equal(pixels(master.images(ours, "result")[0]), collected[best])

    # One machine that does both in turn has the same pictures, and so the same winner.
    again = master.run(wired(master, 1))
    assert np.abs(pixels(master.images(again, "own")[0]).astype(int) - collected[1]).max() <= 1
    assert again.outputs["seeds"]["text"] == seeds[1] and texts(again, "own_scores") == pytest.approx([own[1]], abs=1e-4)
    # What belongs to the winner is made again from its place in the order: the machine's seed, and there the candidate that it chose.
    assert best in (0, 1) and texts(ours, "scores") == sorted(texts(ours, "scores"), reverse=True)
