"""bench/gpu.py without its size: what it measures runs, counts its steps, and is of the models that it names."""

from __future__ import annotations

import math

import comfy.model_detection
import comfy.supported_models
import pytest
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from bench import _gpu

SMALL = {"embed_dim": 4, "ddconfig": _gpu.VAE["ddconfig"] | {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1}}
THIN = {"num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [1], "transformer_depth_output": [1, 1], "transformer_depth_middle": 1}


@pytest.mark.parametrize(("name", "kind", "millions"), [("SD1.5", "SD15", 860), ("SDXL", "SDXL", 2567)])
def test_the_unets_are_full_size_and_the_host_knows_them(name, kind, millions):
    state = UNetModel(**_gpu.UNETS[name], device="meta", operations=_gpu.Shapes).state_dict()
    assert round(sum(weight.numel() for weight in state.values()) / 1e6) == millions
    assert type(comfy.model_detection.model_config_from_unet(dict(state), "")) is getattr(comfy.supported_models, kind)


@pytest.fixture
def weights(monkeypatch):
    monkeypatch.setattr(_gpu, "VAE", SMALL)
    return _gpu.random_weights(AutoencoderKL(**SMALL), torch.float32)


def test_each_reconstruction_does_all_its_steps_and_is_a_ratio_to_the_authors(weights):
    with torch.inference_mode():
        rows = list(_gpu.reconstructions("SD1.5", weights, 64, _gpu.QUICK))
    assert [row["label"].partition(": ")[2] for row in rows] == 2 * ["the authors' procedure", "plain decode", "ours", "ours, 8 candidates, each"]
    assert [row["said"][:23] for row in rows] == 2 * ["2 steps", "", *2 * ["2 steps, all steps done"]]
    assert all(row["ratio"] == row["seconds"] / rows[i // 4 * 4]["seconds"] for i, row in enumerate(rows))


@pytest.mark.parametrize(("name", "kind"), [("SD1.5", "SD15"), ("SDXL", "SDXL")])
def test_both_edits_run_to_their_end(weights, monkeypatch, name, kind):
    monkeypatch.setitem(_gpu.UNETS, name, _gpu.UNETS[name] | THIN)
    monkeypatch.setitem(getattr(comfy.supported_models, kind).unet_config, "transformer_depth", THIN["transformer_depth"])
    with torch.inference_mode():
        theirs, ours = _gpu.whole_edits(name, weights, 64, _gpu.QUICK)
    assert theirs["said"] == "3 of 3 finished; 2 steps" and ours["said"].startswith("2 of 3 finished; 2 steps, all steps done")
    assert theirs["ratio"] == 1 and math.isclose(ours["ratio"], sum(ours["seconds"].values()) / sum(theirs["seconds"].values()))
