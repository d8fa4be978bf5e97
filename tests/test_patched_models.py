"""Chunks and pruning beside the host's nodes that patch a model's calls, on tiny models: each candidate stays what it is."""

from __future__ import annotations

import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import comfy.model_management
import comfy.model_patcher
import pytest
import torch
from families import FAMILIES, Loaded, build, load
from torch import Tensor

from blended_latent_diffusion.bridge.sampling.pruning import Pruning
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from conftest import skip_without

N, STEPS = 4, 5
Patch = Callable[[Any, Loaded], Any]


@pytest.fixture(autouse=True)
def as_in_a_workflow() -> Iterator[None]:
    """The host runs all nodes in inference mode."""
    with torch.inference_mode():
        yield


def host_node(module: str, name: str) -> Any:
    """One of the host's extra nodes."""
    # It and nodes_latent import each other, and only this order works.
    importlib.import_module("comfy_extras.nodes_post_processing")
    file = f"comfy_extras.nodes_{module}"
    found = getattr(importlib.import_module(file), name, None) if importlib.util.find_spec(file) else None
    return found or skip_without(name)


def of(module: str, name: str, *settings: Any) -> Patch:
    """A node that takes a model and settings. HyperTile returns a plain tuple."""

    def patch(model: Any, loaded: Loaded) -> Any:
        out = host_node(module, name).execute(model, *settings)
        return getattr(out, "args", out)[0]

    return patch


def sharpen(model: Any, loaded: Loaded) -> Any:
    operation = host_node("latent", "LatentOperationSharpen").execute(2, 1.0, 0.5).args[0]
    return host_node("latent", "LatentApplyOperationCFG").execute(model, operation).args[0]


def perpendicular(model: Any, loaded: Loaded) -> Any:
    empty = [[loaded.negative[0][0] * 0.5, {}]]
    return host_node("perpneg", "PerpNeg").execute(model, empty, 1.0).args[0]


def tiled(model: Any, loaded: Loaded) -> Any:
    node = host_node("chroma_radiance", "ChromaRadianceOptions")
    options = {"model": model, "preserve_wrapper": True, "start_sigma": 1.0, "end_sigma": 0.0, "nerf_tile_size": 16, "force_sequential_txt_ids": False}
    return node.execute(**{name: options[name] for name in inspect.signature(node.execute).parameters}).args[0]


UNET: dict[str, Patch] = {
    "EasyCache": of("easycache", "EasyCacheNode", 0.4, 0.0, 1.0, False),
    "LazyCache": of("easycache", "LazyCacheNode", 0.4, 0.0, 1.0, False),
    "APG": of("apg", "APG", 0.8, 5.0, -0.5),
    "FreeU": of("freelunch", "FreeU", 1.1, 1.2, 0.9, 0.2),
    "FreeU_V2": of("freelunch", "FreeU_V2", 1.3, 1.4, 0.9, 0.2),
    "PerturbedAttentionGuidance": of("pag", "PerturbedAttentionGuidance", 3.0),
    "SelfAttentionGuidance": of("sag", "SelfAttentionGuidance", 0.5, 2.0),
    "PerpNeg": perpendicular,
    "RescaleCFG": lambda model, loaded: host_node("model_advanced", "RescaleCFG")().patch(model, 0.7)[0],
    "TomePatchModel": of("tomesd", "TomePatchModel", 0.3),
    "HyperTile": of("hypertile", "HyperTile", 32, 2, 0, False),
    "DifferentialDiffusion": of("differential_diffusion", "DifferentialDiffusion", 0.5),
    "NAGuidance": of("nag", "NAGuidance", 5.0, 0.5, 1.5),
    "TCFG": of("tcfg", "TCFG"),
    "CFGZeroStar": of("cfg", "CFGZeroStar"),
    "CFGNorm": of("cfg", "CFGNorm", 1.0),
    "CFGOverride": of("custom_sampler", "CFGOverride", 1.0, 0.5, 1.0),
    "EpsilonScaling": of("eps", "EpsilonScaling", 1.05),
    "TemporalScoreRescaling": of("eps", "TemporalScoreRescaling", 0.95, 1.0),
    "FreSca": of("fresca", "FreSca", 1.0, 1.25, 2),
    "LatentApplyOperationCFG": sharpen,
    "Mahiro": of("mahiro", "Mahiro"),
    "PatchModelAddDownscale": of("model_downscale", "PatchModelAddDownscale", 1, 2.0, 0.0, 0.35, True, "bicubic", "bicubic"),
    "RenormCFG": of("lumina2", "RenormCFG", 100.0, 1.0),
}
OTHERS: dict[str, tuple[str, Patch]] = {
    "SkipLayerGuidanceDiT": ("SD3", of("slg", "SkipLayerGuidanceDiT", 3.0, 0.0, 1.0, "0", "")),
    "SkipLayerGuidanceSD3": ("SD3", of("sd3", "SkipLayerGuidanceSD3", "0", 3.0, 0.0, 1.0)),
    "SkipLayerGuidanceDiTSimple": ("SD3", of("slg", "SkipLayerGuidanceDiTSimple", 0.0, 1.0, "0", "")),
    "EasyCache on a transformer": ("Flux", of("easycache", "EasyCacheNode", 3.0, 0.0, 1.0, False)),
    "FluxKVCache": ("Flux", of("flux", "FluxKVCache")),
    "ScaleROPE": ("Lumina 2", of("rope", "ScaleROPE", 1.1, 0.0, 1.1, 0.0, 1.0, 0.0)),
    "ChromaRadianceOptions": ("Chroma Radiance", tiled),
    "ContextWindows": ("SD1.5", of("context_windows", "ContextWindowsManualNode", 8, 2, "standard_static", 1, False, "pyramid", 3, False)),
}
CASES = {name: ("SD1.5", patch) for name, patch in UNET.items()} | OTHERS


def draw(model: Any, loaded: Loaded, **options: Any) -> dict:
    """Candidates of the first source, under a soft mask: one of 0 and 1 is none of Differential Diffusion's business."""
    latent = {"samples": loaded.latent["samples"][:1]}
    mask = torch.zeros(1, *latent["samples"].shape[-2:])
    mask[:, 1:-1, 2:-2] = 0.7
    given = {"seed": 5, "latent_image": latent, "positive": loaded.positive, "negative": loaded.negative, "mask": mask, "candidates": N}
    return BlendedLatentKSampler.execute(model=model, steps=STEPS, cfg=3.0, sampler_name="dpmpp_2m", scheduler="simple", **(given | options)).args[0]


def apart(loaded: Loaded, a: Tensor, b: Tensor) -> float:
    """The largest difference, in the model's units."""
    units = loaded.model.model.process_latent_in
    return float((units(a) - units(b)).abs().max())


@cache
def unpatched(family: str) -> Tensor:
    return draw(load(family).model, load(family))["samples"]


def race(rounds: tuple[float, ...] = (0.3, 0.55)) -> Pruning:
    """One of the candidates is left, by a judge that needs no CLIP."""
    return Pruning(lambda z: -z.flatten(1).std(1), rounds, 0.5, 1)


@pytest.mark.parametrize("name", CASES)
def test_a_candidate_of_a_patched_model_is_the_same_in_any_chunk_and_race(name):
    """Two nodes are left out that give each sample of a batch another guidance on purpose, as the frames of a video: Video CFG Guidance."""
    family, patch = CASES[name]
    loaded = load(family)
    model = patch(loaded.model, loaded)
    full = draw(model, loaded)["samples"]
    assert apart(loaded, draw(model, loaded, chunk_size=1)["samples"], full) < 1e-4
    out = draw(model, loaded, chunk_size=2, pruning=race())
    assert len(out["samples"]) == 1
    assert apart(loaded, out["samples"], full[out["batch_index"]]) < 1e-4
    if name not in ("FluxKVCache", "ChromaRadianceOptions"):
        assert apart(loaded, full, unpatched(family)) > 1e-4, "the patch works"


def test_a_compiled_model_goes_through_a_race():
    """With the cheapest backend; a race makes its batches smaller, so it compiles again."""
    if "kwargs" not in inspect.signature(torch._dynamo.lookup_backend("eager")).parameters:
        pytest.skip(f"ComfyUI passes options that the backend of torch {torch.__version__} doesn't know")
    loaded = load("Flux")
    model = host_node("torch_compile", "TorchCompileModel").execute(loaded.model, "eager").args[0]
    full = draw(model, loaded, candidates=2)["samples"]
    out = draw(model, loaded, candidates=2, pruning=race((0.3,)))
    assert apart(loaded, out["samples"], full[out["batch_index"]]) < 1e-4


@pytest.mark.parametrize("name", ["EasyCache", "APG"])
def test_a_patch_that_remembers_is_named(name, caplog):
    loaded = load("SD1.5")
    with caplog.at_level("INFO"):
        draw(UNET[name](loaded.model, loaded), loaded, pruning=race())
    assert re.search(rf"{name}\w* may remember earlier steps of a candidate, so those that go on are sampled again from the start", caplog.text)


@pytest.mark.parametrize("name", ["SD1.5", "LTX-Video", "Cosmos Predict2"], ids=["mask alone", "told a level per cell", "told a level per frame"])
def test_the_hosts_split_over_devices_changes_no_candidate(monkeypatch, name):
    """Two devices of the host's MultiGPU node, both the CPU: one computes the prompt, the other the empty one."""
    node = host_node("multigpu", "MultiGPUCFGSplitNode")
    loaded, devices = load(name), [torch.device("cpu"), torch.device("cpu", 0)]
    # The host looks for its clone among those that are loaded, and falls over one of an earlier test that is gone.
    monkeypatch.setattr(comfy.model_management, "current_loaded_models", [])

    def fresh(**options: Any) -> Any:
        patcher = build(FAMILIES[name], torch.Generator().manual_seed(len(name)))
        return comfy.model_patcher.ModelPatcher(patcher.model, *devices[:1] * 2)

    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: devices)
    one = fresh()
    one.cached_patcher_init = (fresh, ())
    split = node.execute(one, 2).args[0]
    seen: list[torch.nn.Module] = []
    for patcher in (split, *split.get_additional_models_with_key("multigpu")):
        patcher.model.diffusion_model.register_forward_pre_hook(lambda network, args: seen.append(network))
    mask = torch.zeros(1, *FAMILIES[name].latent[-2:])
    mask[:, 2:5, 3:7] = 1
    options = {"mask_schedule": ProgressiveMaskDilate.execute(mask, stages=2).args[0], "mask": None, "chunk_size": 2}
    options |= {} if name == "LTX-Video" else {"pruning": race()}  # which is for pictures only
    ours, alone = draw(split, loaded, **options), draw(loaded.model, loaded, **options)
    assert len(set(seen)) == 2, "both devices compute"
    assert ours.get("batch_index") == alone.get("batch_index") and apart(loaded, ours["samples"], alone["samples"]) < 1e-4
