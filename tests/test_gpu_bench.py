"""bench/gpu.py and bench/real_size.py without their size: what they measure runs, counts its steps, and is of the models that they name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import comfy.model_detection
import comfy.sd
import comfy.supported_models
import pytest
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL

from bench import _full_size, _gpu, _nodes, real_size

THIN_UNET = {"num_res_blocks": [1], "channel_mult": [1], "transformer_depth": [1], "transformer_depth_output": [1, 1], "transformer_depth_middle": 1}
THIN_DIT = {"hidden_size": 128, "num_heads": 1, "depth": 1, "depth_single_blocks": 1}
SIZES = {"SD1.5": ("SD15", 860), "SDXL": ("SDXL", 2567), "SD3.5-medium": ("SD3", 2470), "Flux-schnell": ("FluxSchnell", 11891)}


@pytest.mark.parametrize(("name", "kind", "millions"), [(name, *size) for name, size in SIZES.items()])
def test_the_models_are_full_size_and_the_host_knows_them(name, kind, millions):
    state = _full_size.shapes_of(_full_size.KINDS[name]).state_dict()
    assert round(sum(weight.numel() for weight in state.values()) / 1e6) == millions
    assert type(comfy.model_detection.model_config_from_unet(dict(state), "")) is getattr(comfy.supported_models, kind)


def thin_vae(channels: int) -> dict[str, Any]:
    sizes = {"ch": 32, "ch_mult": [1, 1, 1, 1], "num_res_blocks": 1, "z_channels": channels}
    return {"embed_dim": channels, "ddconfig": _full_size.DECODER | sizes}


def weights_of_vae(channels: int) -> dict[str, torch.Tensor]:
    return _full_size.random_weights(AutoencoderKL(**thin_vae(channels)), torch.float32)


def load_vae(weights: dict[str, torch.Tensor], dtype: torch.dtype | None = None) -> comfy.sd.VAE:
    vae = comfy.sd.VAE(sd=dict(weights), config={"params": thin_vae(len(weights["post_quant_conv.bias"]))}, dtype=dtype)
    vae.latent_channels = len(weights["post_quant_conv.bias"])
    return vae


@pytest.fixture(autouse=True)
def thin_vaes(monkeypatch):
    for bench in (_gpu, real_size):
        monkeypatch.setattr(bench, "vae_weights", weights_of_vae)
        monkeypatch.setattr(bench, "host_vae", load_vae)


@pytest.fixture
def thin_models(monkeypatch):
    for name, sizes in {"SD1.5": THIN_UNET, "SDXL": THIN_UNET, "Flux-schnell": THIN_DIT}.items():
        kind = _full_size.KINDS[name]
        monkeypatch.setitem(_full_size.KINDS, name, replace(kind, sizes=kind.sizes | sizes))
    monkeypatch.setitem(comfy.supported_models.SDXL.unet_config, "transformer_depth", THIN_UNET["transformer_depth"])


def test_each_reconstruction_does_all_its_steps_and_is_a_ratio_to_the_authors():
    with torch.inference_mode():
        rows = list(_gpu.reconstructions("SD1.5", weights_of_vae(4), 64, _gpu.QUICK))
    assert [row["label"].partition(": ")[2] for row in rows] == 2 * ["the authors' procedure", "plain decode", "ours", "ours, 8 candidates, each"]
    assert [row["said"][:23] for row in rows] == 2 * ["2 steps", "", *2 * ["2 steps, all steps done"]]
    assert all(row["ratio"] == row["seconds"] / rows[i // 4 * 4]["seconds"] for i, row in enumerate(rows))


@pytest.mark.parametrize("name", ["SD1.5", "SDXL"])
def test_both_edits_run_to_their_end(thin_models, name):
    with torch.inference_mode():
        theirs, ours = _gpu.whole_edits(name, weights_of_vae(4), 64, _gpu.QUICK)
    assert theirs["said"] == "3 of 3 finished; 2 steps" and ours["said"].startswith("2 of 3 finished; 2 steps, all steps done")
    assert theirs["ratio"] == 1 and math.isclose(ours["ratio"], sum(ours["seconds"].values()) / sum(theirs["seconds"].values()))


@pytest.mark.parametrize("name", ["SDXL", "Flux-schnell"])
def test_an_edit_of_real_size_tells_the_plan_of_each_part(thin_models, demo_pack, monkeypatch, name):
    monkeypatch.setattr(real_size, "quiet", lambda: None)
    monkeypatch.setattr(real_size, "load_clip", _nodes.load_clip)
    found = real_size.measure(name, 64)
    assert found["said"].startswith("2 of 4 finished; 2 steps, all steps done")
    assert [part for part, one in found["parts"].items() if one.get("planned", 0) > 0] == ["drawing", "decoding", "reconstruction"]
    assert all(one["seconds"] > 0 for one in found["parts"].values())


def test_a_model_that_finds_no_room_is_left_out_and_says_so(monkeypatch):
    monkeypatch.setattr(real_size, "quiet", lambda: None)
    monkeypatch.setattr(real_size.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 2**30}))
    assert real_size.measure("SDXL", 1024) == {"parts": {}, "said": "does not fit: its weights take 4.8 GiB, and 1.0 are free"}
