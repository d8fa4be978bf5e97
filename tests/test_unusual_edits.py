"""The reconstruction node where there is little to do, too much, or something else than usual; on a small random VAE."""

from __future__ import annotations

import re
from io import BytesIO

import pytest
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from PIL import Image
from test_decoder_tails import latent, vae_of
from test_workflows import nodes_of, workflow
from torch import Tensor

from blended_latent_diffusion.bridge.vae.reconstruct import METHODS, reconstruct
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct

SIDE = 48
FIT = {"iterations": 3, "learning_rate": 1e-3, "background_weight": 100.0}
DECODER = {"method": "decoder weights", **FIT, "surroundings": 8, "background_target": 200.0, "memory_budget": 0.0}
LATENT = {"method": "latent", **FIT, "learning_rate": 0.05}
AUTO = {"method": "auto", "target_background": 40.0, "target_seam": 0.0, "memory_budget": 0.0}
SETTINGS = {"decoder weights": DECODER, "latent": LATENT, "auto": AUTO} | {name: {"method": name} for name in ("paste", "colour fit", "poisson")}


def source(count: int = 1) -> Tensor:
    return torch.rand(count, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(3))


def box(*corners: int) -> Tensor:
    """White from the first corner to the second: (1, H, W)."""
    top, left, bottom, right = corners or (16, 16, 32, 32)
    m = torch.zeros(1, SIDE, SIDE)
    m[:, top:bottom, left:right] = 1
    return m


@pytest.fixture(scope="module")
def vae():
    return vae_of("sd")


@pytest.fixture(scope="module")
def plain(vae) -> Tensor:
    with torch.inference_mode():
        return vae.decode(latent("sd", 6))


def run(vae, method: dict, z: Tensor | None = None, image: Tensor | None = None, mask: Tensor | None = None) -> tuple:
    z, image, mask = latent("sd", 6) if z is None else z, source() if image is None else image, box() if mask is None else mask
    with torch.inference_mode():
        return DecoderFinetuneReconstruct.execute({"samples": z}, vae, image, mask, method).args


@pytest.mark.parametrize("name", METHODS)
def test_an_empty_mask_gives_the_source(vae, plain, name):
    image, _, report = run(vae, SETTINGS[name], mask=torch.zeros(1, SIDE, SIDE))
    assert report.startswith(name)
    if name == "latent":
        assert (image - source()).square().mean() < (plain - source()).square().mean(), "it can only come nearer"
    else:
        assert torch.equal(image, source())


@pytest.mark.parametrize("name", METHODS)
def test_a_mask_of_everything_gives_the_plain_decode(vae, plain, name):
    image, _, report = run(vae, SETTINGS[name], mask=torch.ones(1, SIDE, SIDE))
    assert report.startswith(name) and torch.allclose(image, plain, atol=1e-4)


@pytest.mark.parametrize("change", [{"iterations": 0}, {"background_weight": 0.0}])
def test_without_steps_or_without_a_background_the_latent_stays(vae, plain, change):
    image, same, report = run(vae, LATENT | change)
    assert torch.allclose(image, plain, atol=1e-4) and same is vae and "0 steps, all steps done" in report


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("method, rate", [(DECODER, 1.0), (DECODER, 0.1), (LATENT, 1000.0)], ids=["decoder, 1", "decoder, 0.1", "latent"])
def test_a_rate_that_is_far_too_high_leaves_what_was_best_and_says_so(vae, count, method, rate):
    """For the latent the untouched decode, for the decoder what it drew before its first step. The node allows no rate over 1."""
    z = torch.cat([latent("sd", 6), -latent("sd", 6), latent("sd", 6).flip(-1)])[:count]
    settings = {key: value for key, value in method.items() if key != "method"} | {"learning_rate": rate, "iterations": 12}
    with torch.inference_mode():
        image, _, report, _ = reconstruct({"samples": z}, vae, source(), box(), method["method"], settings)
    assert "diverged, so the best state was restored; try a lower learning_rate" in report
    assert method is LATENT or int(re.search(r"(\d+) steps", report)[1]) < 12, "a decoder never comes back: it stops"
    with torch.inference_mode():
        expected = run(vae, DECODER | {"learning_rate": 0.0, "iterations": 1}, z=z)[0] if method is DECODER else vae.decode(z)
    assert torch.allclose(image, expected, atol=0.02)


def test_it_starts_from_the_sampled_latent_and_encodes_nothing_but_the_source(vae, monkeypatch):
    """A latent that no picture encodes to. (To see how much memory it takes, it also encodes two small pictures.)"""
    encoded, real = [], AutoencoderKL.encode
    monkeypatch.setattr(AutoencoderKL, "encode", lambda self, x: encoded.append(x.clone()) or real(self, x))
    z = 3 * latent("sd", 6)
    with torch.inference_mode():
        decoded = vae.decode(z)
    image = run(vae, DECODER | {"iterations": 0}, z=z)[0]
    assert torch.allclose(image[box() > 0], decoded[box() > 0], atol=1e-4)
    assert all(pixels.shape[-1] != SIDE for pixels in encoded), "nothing to meet, so no source either"
    assert not torch.equal(run(vae, DECODER, z=z)[0], image)
    of_this_size = [pixels for pixels in encoded if pixels.shape[-1] == SIDE]
    assert len(of_this_size) == 1 and torch.allclose(of_this_size[0], source().movedim(-1, 1) * 2 - 1, atol=1e-6)


def test_the_bar_shows_every_step_and_the_display_gets_its_loss_decibels_and_pictures(client):
    prompt, told = client.prompt(workflow("smallest_graph")), []
    (sampler,), (node,) = (nodes_of(prompt, kind) for kind in ("BlendedLatentKSampler", "DecoderFinetuneReconstruct"))
    prompt[sampler]["inputs"]["steps"] = 4
    prompt[node]["inputs"] |= {"method.iterations": 12, "method.background_target": 200.0}
    client.run(prompt, told.append)
    bar = [(event.data["value"], event.data["max"]) for event in told if event.type == "progress" and event.node == node]
    assert (12, 12) in bar and (1, 12) in bar
    found = [event.data for event in told if event.type == "blended_latent.fit"]
    assert {(one["node"], one["steps"]) for one in found} == {(node, 12)} and [one["step"] for one in found] == list(range(1, 13))
    assert found[-1]["loss"] < found[0]["loss"] and found[-1]["background"] > found[0]["background"]
    files = [file for one in found for file in one["files"]]
    assert len(files) >= 2 and all(min(Image.open(BytesIO(client.view(file))).size) >= 16 for file in files)


def test_each_candidate_may_have_its_own_source_and_mask_and_one_of_them_may_be_empty(vae):
    """With sources whose latents are the edits', so that a picture differs from its own edit by the join alone."""
    x = source(3)
    with torch.inference_mode():
        z = vae.encode(x)
    m = torch.cat([torch.zeros(1, SIDE, SIDE), box(), box(8, 24, 24, 48)])
    image, tuned, report = run(vae, DECODER, z, x, m)
    assert torch.equal(image[0], x[0]) and torch.equal(image[m == 0], x[m == 0])
    assert all((image[i][m[i] > 0] != x[i][m[i] > 0]).float().mean() > 0.9 for i in (1, 2))
    assert tuned is vae and "a fit of its own" in report, "no one VAE draws them all"
    for i in (1, 2):
        own, other = (run(vae, {"method": "poisson"}, z[k : k + 1], x[i : i + 1], m[i : i + 1])[0][0] for k in (i, 3 - i))
        assert (image[i] - own)[m[i] > 0].abs().mean() < 0.7 * (image[i] - other)[m[i] > 0].abs().mean(), "each its own edit"


def test_a_checkpoint_without_a_vae_is_said_to_be_one():
    missing = vae_of("sd")
    missing.first_stage_model = None
    with pytest.raises(RuntimeError, match="does not contain a valid VAE"):
        run(missing, {"method": "paste"})
