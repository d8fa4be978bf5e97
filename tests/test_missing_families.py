"""A ComfyUI in which a family of VAEs has moved: its decoders can't be tuned, and nothing else is lost."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest
import torch
from test_decoder_tails import KINDS, latent_of, vae_of

from conftest import ROOT

LDM = "comfy.ldm.modules.diffusionmodules.model"
REFINERS = {"hunyuan image refiner", "hunyuan video 1.5"}
# Names of ComfyUI that the pack looks up, and the kinds that lose their tuning where the name, or its whole module, is gone.
FAMILIES = [
    ("comfy.ldm.models.autoencoder", "AutoencodingEngine", {"sd", "flux", "flux2", "hunyuan image", "hunyuan video", *REFINERS}),
    (LDM, "Upsample", {"sd", "flux", "flux2", "hunyuan video"}),
    (LDM, "conv_carry_causal_3d", {"hunyuan video", "hunyuan video 1.5"}),
    (LDM, "", {"sd", "flux", "flux2", "hunyuan video", "hunyuan video 1.5"}),
    ("comfy.ldm.cascade.stage_a", "StageA", {"stage a"}),
    ("comfy.ldm.hunyuan_video.vae", "PixelUnshuffle2D", {"hunyuan image"}),
    ("comfy.ldm.hunyuan_video.vae_refiner", "UpSmpl", REFINERS),
    ("comfy.ldm.lightricks.vae.causal_video_autoencoder", "mark_conv3d_ended", {"ltx", "ltx told a time"}),
    ("comfy.ldm.wan.vae", "WanVAE", {"wan"}),
    ("comfy.ldm.wan.vae", "", {"wan"}),
    ("comfy.ldm.wan.vae2_2", "WanVAE", {"wan 2.2"}),
    ("comfy.taesd.taesd", "", {"taesd", "taesd of flux.2"}),
]


@pytest.fixture
def load_again(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Loads the pack once more under another name, as a ComfyUI that starts now would."""
    name = "blended_latent_diffusion_anew"

    def load() -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    yield load
    for loaded in [one for one in sys.modules if one.partition(".")[0] == name]:
        del sys.modules[loaded]


@pytest.mark.parametrize("module, name, lost", FAMILIES)
def test_a_family_that_has_moved_loses_its_tuning_and_nothing_else(module, name, lost, load_again, monkeypatch):
    vaes = {kind: vae_of(kind) for kind in KINDS}
    with monkeypatch.context() as patch:
        if name:
            patch.delattr(importlib.import_module(module), name)
        else:
            patch.setitem(sys.modules, module, None)
        pack = load_again()

    async def nodes() -> list:
        return await (await pack.comfy_entrypoint()).get_node_list()

    with ThreadPoolExecutor(1) as pool:
        listed = {node.__name__: node for node in pool.submit(asyncio.run, nodes()).result()}
    assert len(listed) == 11
    tails = sys.modules[f"{pack.__name__}.bridge.vae.tails"]
    assert {kind for kind, vae in vaes.items() if tails.why_not_tuned(vae, latent_of(kind, 48))} == lost
    kind = min(lost)
    image, mask = torch.rand(1, 48, 48, 3), torch.zeros(1, 48, 48)
    mask[:, 16:32, 16:32] = 1
    with torch.inference_mode():
        picture = listed["DecoderFinetuneReconstruct"].execute({"samples": latent_of(kind, 48)}, vaes[kind], image, mask, {"method": "poisson"}).args[0]
    assert torch.equal(picture[mask == 0], image[mask == 0])


def test_without_comfyuis_plain_attention_a_fit_takes_what_there_is(load_again, monkeypatch):
    vae = vae_of("sd")
    monkeypatch.delattr(importlib.import_module(LDM), "pytorch_attention")
    pack = load_again()
    image, mask = torch.rand(1, 48, 48, 3), torch.zeros(1, 48, 48)
    mask[:, 16:32, 16:32] = 1
    fit = {"method": "decoder weights", "iterations": 1, "learning_rate": 1e-4, "background_weight": 100.0}
    node = sys.modules[f"{pack.__name__}.nodes.decoder_finetune_reconstruct"].DecoderFinetuneReconstruct
    with torch.inference_mode():
        assert "1 steps" in node.execute({"samples": latent_of("sd", 48)}, vae, image, mask, fit).args[2]
