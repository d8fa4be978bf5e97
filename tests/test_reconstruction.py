"""The reconstruction node on the small model's VAE, inside inference mode as the host runs it."""

from __future__ import annotations

import gc
import hashlib
import inspect
import re
from dataclasses import replace

import comfy.model_management
import nodes as host_nodes
import pytest
import torch
from faults import Fault
from torch import Tensor

from blended_latent_diffusion.bld import edges, reconstruction
from blended_latent_diffusion.bld.edges import Region, depth
from blended_latent_diffusion.bld.metrics import background_psnr, seam
from blended_latent_diffusion.bld.reconstruction.decoder import Work
from blended_latent_diffusion.bld.reconstruction.objective import objective
from blended_latent_diffusion.bridge.vae import fit, plan
from blended_latent_diffusion.bridge.vae.copies import copy_in_float32, load_for_training, trainable_copy
from blended_latent_diffusion.bridge.vae.pixels import decode_of
from blended_latent_diffusion.bridge.vae.tails import tail_of
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from conftest import Edit

FIT = {"iterations": 20, "learning_rate": 1e-3, "background_weight": 100.0}
DECODER = {"method": "decoder weights", **FIT, "surroundings": 12, "background_target": 100.0, "memory_budget": 0.0}
LATENT = {"method": "latent", **FIT, "learning_rate": 0.05}
PASTE = {"method": "paste", "feather": 0}
WHOLE = Work(1 << 20)
AUTO = {"method": "auto", "target_background": 40.0, "target_seam": 255.0, "memory_budget": 0.0}


def reconstruct(edit: Edit, method: dict, **options):
    options = {"samples": edit.latent, "vae": edit.vae, "image": edit.image, "mask": edit.mask} | options
    with torch.inference_mode():
        return DecoderFinetuneReconstruct.execute(method=method, **options).args


def psnr(edit: Edit, image: Tensor) -> float:
    return background_psnr(image.movedim(-1, 1), edit.image.movedim(-1, 1), edit.mask)


@pytest.fixture(scope="module")
def plain(edit: Edit) -> Tensor:
    with torch.inference_mode():
        return edit.vae.decode(edit.latent["samples"])


@pytest.fixture(scope="module")
def tuned(edit: Edit) -> tuple:
    return reconstruct(edit, DECODER)


def ring(edit: Edit) -> Tensor:
    """The unmasked pixels that the decoder is tuned on."""
    return ((Region(edit.mask).nearby(DECODER["surroundings"]) > 0) & (edit.mask == 0))[..., None].expand_as(edit.image)


def fingerprint(vae) -> str:
    digest = hashlib.sha256()
    for name, weight in vae.first_stage_model.state_dict(keep_vars=True).items():
        digest.update(f"{name}{weight.dtype}{weight.device}{weight.requires_grad}{weight.grad}".encode() + weight.detach().cpu().float().numpy().tobytes())
    for part in vae.first_stage_model.modules():
        digest.update(f"{part.training}{'forward' in part.__dict__}{len(part._forward_pre_hooks)}{len(part._forward_hooks)}".encode())
    digest.update(f"{vae.vae_dtype}{vae.device}".encode())
    return digest.hexdigest()


def test_the_latent_comes_nearer_to_the_source(edit, plain):
    image, _, report = reconstruct(edit, LATENT)
    assert psnr(edit, image) > psnr(edit, plain) + 0.3
    assert f"{psnr(edit, image):.2f} dB" in report and f"({psnr(edit, plain):.2f} dB in the plain decode)" in report


def test_the_latents_of_a_batch_are_tuned_as_alone_one_at_a_time(edit):
    """With a source and a mask each, and so that memory does not grow with the candidates."""
    z = torch.cat([edit.latent["samples"], edit.latent["samples"].flip(-1)])
    x, m = torch.cat([edit.image, edit.image.flip(-2)]).movedim(-1, 1) * 2 - 1, torch.cat([edit.mask, edit.mask.flip(-2)])[:, None]
    settings, sizes = reconstruction.Settings(iterations=3, lr=0.05), []
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(edit.vae)
        load_for_training(copy, 0)

        def decode(one: Tensor) -> Tensor:
            sizes.append(len(one))
            return decode_of(copy)(one)

        z, x, m = (t.clone().to(copy.device) for t in (z, x, m))
        cases = [(z, x, m), *zip(z.split(1), x.split(1), m.split(1), strict=True)]
        batch, *alone = (reconstruction.tune_latent(decode, tail_of(copy), *case, settings, WHOLE, lambda step: None)[0] for case in cases)
    assert set(sizes) == {1}
    assert (batch - torch.cat(alone)).abs().max() < 1e-3


def test_half_a_mask_is_half_the_edit(edit):
    """A soft mask mixes the pixels, once."""
    x, z = edit.image, {"samples": edit.latent["samples"].flip(-1)}
    whole, half = (reconstruct(edit, DECODER | {"learning_rate": 1e-4}, samples=z, mask=edit.mask * share)[0] - x for share in (1, 0.5))
    inside = depth(edit.mask > 0) > 8
    assert float((half * whole)[inside].sum() / whole[inside].square().sum()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("iterations", [1, 3])
def test_no_step_too_far_goes_unseen(edit, plain, iterations):
    image, vae, report = reconstruct(edit, DECODER | {"iterations": iterations, "learning_rate": 1.0})
    assert "diverged, so the best state was restored; try a lower learning_rate" in report
    inside = (edit.mask > 0)[..., None].expand_as(plain)
    with torch.inference_mode():
        drawn = vae.decode(edit.latent["samples"])
    assert all((picture - plain)[inside].abs().mean() < 0.05 for picture in (image, drawn))


def test_the_tuned_decoder_draws_the_source_around_the_mask(edit, plain, tuned):
    """By the tuned decoder alone, without the source's pixels that are mixed in."""
    image, vae, report = tuned
    assert f"{psnr(edit, image):.2f} dB" in report and f"({psnr(edit, plain):.2f} dB in the plain decode)" in report
    with torch.inference_mode():
        drawn = vae.decode(edit.latent["samples"])
    errors = [(picture - edit.image)[ring(edit)].square().mean() for picture in (drawn, plain)]
    assert errors[0] < 0.85 * errors[1]


@pytest.mark.promise("own-pixels", "reconstructed")
def test_outside_the_mask_the_source_stays_bit_for_bit(edit, tuned):
    outside = (edit.mask == 0)[..., None].expand_as(edit.image)
    assert torch.equal(tuned[0][outside], edit.image[outside])


@pytest.mark.promise("seam-small")
def test_the_fit_shows_the_seam_less_than_a_paste(edit, tuned):
    x, m = edit.image.movedim(-1, 1), edit.mask
    ours, paste = (picture.movedim(-1, 1) for picture in (tuned[0], reconstruct(edit, PASTE)[0]))
    assert seam(ours, x, m) < 0.7 * seam(paste, x, m)
    assert seam(ours, x, m) < 1, "less than one of 255 levels"


def test_a_feather_lets_an_edit_of_another_tone_end_at_no_line(edit):
    """Darkened by 40 %, the box's edge would be a step of 30 levels; more than 10 pixels inside the edit stays as dark as it is."""
    x, m = edit.image.movedim(-1, 1), edit.mask
    with torch.inference_mode():
        dark = {"samples": edit.vae.encode(edit.image * (1 - 0.4 * m[..., None]))}
        drawn = edit.vae.decode(dark["samples"])
    hard, soft = (reconstruct(edit, DECODER | {"learning_rate": 1e-4, "surroundings": 8, "feather": width}, samples=dark)[0] for width in (0, 8))
    assert seam(hard.movedim(-1, 1), x, m) > 4
    assert seam(soft.movedim(-1, 1), x, m) < 1.5
    errors = [(picture - drawn)[depth(m > 0) > 10].abs().mean() for picture in (soft, hard)]
    assert errors[0] < errors[1] < 6 / 255
    outside = (m == 0)[..., None].expand_as(edit.image)
    assert torch.equal(soft[outside], edit.image[outside])


def test_the_tuned_vae_draws_the_same_inside_the_mask_in_the_hosts_decode(edit, tuned):
    image, vae, _ = tuned
    with torch.inference_mode():
        again = host_nodes.VAEDecode().decode(vae, edit.latent)[0]
    inside = (edit.mask > 0)[..., None].expand_as(again)
    assert (again - image)[inside].abs().mean() < 0.01


def test_paste_keeps_the_background_exactly_and_the_edit_too(edit, plain):
    image = reconstruct(edit, PASTE)[0]
    outside = (edit.mask == 0)[..., None].expand_as(edit.image)
    assert torch.equal(image[outside], edit.image[outside])
    assert torch.equal(image[~outside], plain[~outside])


def test_a_feather_stays_inside_the_mask(edit):
    image = reconstruct(edit, {"method": "paste", "feather": 6})[0]
    outside = (edit.mask == 0)[..., None].expand_as(edit.image)
    assert torch.equal(image[outside], edit.image[outside])
    m = torch.zeros(1, 1, 12)
    m[..., 4:] = 1
    ramp = reconstruction.paste(torch.ones(1, 1, 1, 12), torch.zeros(1, 1, 1, 12), m, 3).flatten()
    assert torch.allclose(ramp[3:9], torch.tensor([0, 0.25, 0.5, 0.75, 1, 1]))


@pytest.mark.promise("own-pixels")
@pytest.mark.parametrize("method", ["colour fit", "poisson"])
def test_the_other_methods_keep_the_background_exactly(edit, method):
    image, vae, report = reconstruct(edit, {"method": method})
    outside = (edit.mask == 0)[..., None].expand_as(edit.image)
    assert torch.equal(image[outside], edit.image[outside]) and vae is edit.vae
    assert report.startswith(f"{method}: background inf dB")


def test_auto_takes_the_cheapest_that_meets_the_targets(edit):
    image, vae, report = reconstruct(edit, AUTO)
    assert torch.equal(image, reconstruct(edit, PASTE)[0]) and vae is edit.vae
    assert "Chose paste: the first method that meets both targets." in report and "poisson" not in report


def test_auto_goes_on_to_the_decoder_and_says_what_it_tried(edit):
    image, _, report = reconstruct(edit, AUTO | {"target_seam": 0.0})
    seams = {name: float(seam) for name, seam in re.findall(r"Tried (.*): background .* dB, seam (.*)\.", report)}
    assert list(seams) == ["paste", "colour fit", "poisson", "decoder weights"]
    assert f"Chose {min(seams, key=seams.get)}: no method meets both targets" in report
    assert image.shape == edit.image.shape


def test_the_objective_is_the_papers():
    y, x_hat, x = torch.rand(3, 2, 3, 8, 8).double()
    m = (torch.rand(2, 1, 8, 8) > 0.5).double()
    inside = sum(((y - x_hat) * m).flatten() ** 2) / y.numel()
    outside = sum(((y - x) * (1 - m)).flatten() ** 2) / y.numel()
    assert float(objective(y, x_hat, x, m, 100)) == pytest.approx(float(inside + 100 * outside))


@pytest.mark.parametrize("change", [{"iterations": 0}, {"background_weight": 0.0}])
def test_without_a_fit_the_mask_shows_the_plain_decode(edit, plain, change):
    image, _, report = reconstruct(edit, DECODER | change)
    inside = (edit.mask > 0)[..., None].expand_as(image)
    assert torch.allclose(image[inside], plain[inside], atol=1e-4)
    assert "0 steps" in report


def test_an_empty_mask_gives_the_source_and_a_full_one_the_plain_decode(edit, plain):
    image, _, report = reconstruct(edit, DECODER, mask=torch.zeros_like(edit.mask))
    assert torch.equal(image, edit.image) and "mask is empty, so you get the source unchanged" in report
    image, _, report = reconstruct(edit, DECODER, mask=torch.ones_like(edit.mask))
    assert torch.allclose(image, plain, atol=1e-4) and "0 steps" in report


def test_it_stops_at_the_target(edit):
    report = reconstruct(edit, DECODER | {"background_target": 10.0})[2]
    assert "0 steps, target reached" in report


def test_a_rate_that_is_far_too_high_gives_the_best_state_and_says_so(edit, plain):
    image, _, report = reconstruct(edit, DECODER | {"learning_rate": 1.0, "iterations": 30})
    assert "diverged, so the best state was restored" in report
    assert torch.allclose(image, reconstruct(edit, {"method": "poisson"})[0], atol=0.02), "the best state was the first"


def test_alpha_is_dropped(edit):
    rgba = torch.cat([edit.image, torch.rand_like(edit.image[..., :1])], -1)
    assert torch.equal(reconstruct(edit, PASTE, image=rgba)[0], reconstruct(edit, PASTE)[0])


def test_a_batch_shares_one_source_mask_and_decoder(edit):
    """Two candidates cost as many steps as one, and both come nearer to the source."""
    other = edit.latent["samples"] * (1 - 0.2 * torch.nn.functional.avg_pool2d(edit.mask[:, None], 8))
    batch = {"samples": torch.cat([edit.latent["samples"], other])}
    image, _, report = reconstruct(edit, DECODER | {"iterations": 20}, samples=batch)
    untouched = reconstruct(edit, DECODER | {"iterations": 0}, samples=batch)[0]
    assert image.shape == (2, 128, 128, 3) and "20 steps" in report
    x, m = edit.image.movedim(-1, 1), edit.mask
    for tuned, before in zip(image.movedim(-1, 1), untouched.movedim(-1, 1), strict=True):
        assert seam(tuned[None], x, m) < 0.7 * seam(before[None], x, m)
    assert not torch.equal(image[0], image[1])


def test_far_apart_regions_are_each_reconstructed(edit):
    mask = torch.zeros_like(edit.mask)
    mask[:, 8:24, 8:24] = mask[:, 104:120, 104:120] = 1
    few = DECODER | {"surroundings": 4, "iterations": 0}
    image = reconstruct(edit, few, mask=mask)[0]
    changed = (image != edit.image).any(-1)
    assert changed[0, 8:24, 8:24].all() and changed[0, 104:120, 104:120].all() and not changed[0, 40:90].any()


def test_the_users_vae_is_never_written_to(edit, plain):
    before = fingerprint(edit.vae)
    for method in (DECODER, LATENT):
        reconstruct(edit, method | {"iterations": 2})
    assert fingerprint(edit.vae) == before
    with torch.inference_mode():
        assert torch.equal(edit.vae.decode(edit.latent["samples"]), plain)


def test_when_memory_runs_out_it_starts_again_with_less_and_says_so(edit, monkeypatch):
    """In the last gradient of the first attempt's first step."""
    before, tune, attempts = fingerprint(edit.vae), reconstruction.tune_decoder, []

    def tune_decoder(tail, found, settings, work, on_step):
        attempts.append(work)
        return tune(tail, found, settings, work, on_step)

    monkeypatch.setattr(reconstruction, "tune_decoder", tune_decoder)
    with Fault() as sound:
        reconstruct(edit, DECODER | {"iterations": 1})
    attempts.clear()
    with Fault(sound.count - 1, torch.OutOfMemoryError, times=1):
        image, _, report = reconstruct(edit, DECODER | {"iterations": 1})
    assert "Memory ran out, so the fit started again with a plan that needs less." in report and torch.isfinite(image).all()
    assert len(set(attempts)) == 2 and fingerprint(edit.vae) == before


def test_auto_tunes_with_the_defaults_that_the_node_shows():
    from bench._nodes import defaults

    shown = defaults(DecoderFinetuneReconstruct, "method", "decoder weights")
    taken = {name: one.default for name, one in inspect.signature(fit.fit_decoder).parameters.items() if name in shown}
    assert taken | {"method": "decoder weights"} == shown


@pytest.fixture(scope="module")
def large(edit: Edit) -> Edit:
    """An edit of four times as many pixels, most of them masked: its plans differ by more than they are rounded."""
    image, mask = edit.image.repeat(1, 2, 2, 1), torch.zeros(1, 256, 256)
    mask[:, 24:232, 24:232] = 1
    with torch.inference_mode():
        return replace(edit, image=image, mask=mask, latent={"samples": edit.vae.encode(image)})


@pytest.mark.parametrize("method", [DECODER | {"iterations": 2}, LATENT | {"iterations": 2}], ids=["decoder", "latent"])
def test_a_small_budget_is_kept_by_computing_more(large, method):
    """The result is the same."""
    tuned = reconstruct(large, method)
    freely = float(re.search(r"at most ([\d.]+) GiB", tuned[2])[1])
    assert refusal(large, method).startswith("memory_budget is 0.01 GiB, but this edit needs at least 0")
    least = float(re.search(r"at least ([\d.]+)", refusal(large, method))[1]) + 0.005
    image, _, report = reconstruct(large, method | {"memory_budget": least})
    needed = float(re.search(r"at most ([\d.]+) GiB", report)[1])
    assert needed <= least < freely and ("with activations computed twice to save memory" in report or "in tiles" in report)
    assert (image - tuned[0]).abs().max() < 0.05


@pytest.mark.parametrize("work", [Work(64), Work(64, thrifty=True), Work(1 << 20, thrifty=True)], ids=["tiles", "tiles, computed twice", "computed twice"])
def test_a_latent_in_tiles_comes_out_as_in_one_piece(edit, work):
    settings = reconstruction.Settings(iterations=5, lr=0.05)
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(edit.vae)
        load_for_training(copy, 0)
        z, x, m = (t.clone().to(copy.device) for t in (edit.latent["samples"], edit.image.movedim(-1, 1) * 2 - 1, edit.mask[:, None]))
        whole, tiled = (
            reconstruction.tune_latent(decode_of(copy), tail_of(copy), z, x, m, settings, one, lambda step: None) for one in (WHOLE, work)
        )
    assert (whole[0] - tiled[0]).abs().mean() < 2e-3 < 0.1 * (whole[1] - z).abs().mean()
    assert tiled[2].best == pytest.approx(whole[2].best, rel=1e-2)


@pytest.fixture
def reserved(monkeypatch, edit) -> list[float]:
    """How many bytes each load asks to be free, but those of ComfyUI's own decode with the user's VAE."""
    asked, load = [], comfy.model_management.load_models_gpu

    def watched(models, memory_required=0, **options):
        if models[0] is not edit.vae.patcher:
            asked.append(memory_required)
        load(models, memory_required=memory_required, **options)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", watched)
    return asked


@pytest.mark.parametrize("method", [DECODER, LATENT], ids=["decoder", "latent"])
@pytest.mark.parametrize("short", ["of memory", "by a budget"])
def test_no_more_is_reserved_than_the_chosen_plan_needs(large, method, short, reserved, monkeypatch):
    """So that other models stay where a smaller plan fits beside them."""
    method = method | {"iterations": 1}
    loaded, most = 4 * sum(weight.numel() for weight in large.vae.first_stage_model.parameters()), max(asked_by(large, method, reserved))
    least = float(re.search(r"at least ([\d.]+)", refusal(large, method))[1]) * 2**30
    free = (least + most + loaded) / 2
    if short == "of memory":
        monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda *_, **__: free)
    else:
        method = method | {"memory_budget": round(free / 2**30, 2)}
    assert 0 < max(asked_by(large, method, reserved)) < free < most + loaded


def asked_by(edit: Edit, method: dict, reserved: list[float]) -> list[float]:
    """What a fit asks for."""
    reserved.clear()
    reconstruct(edit, method)
    return reserved


def refusal(edit: Edit, method: dict) -> str:
    """What a budget that is far too small gets."""
    with pytest.raises(ValueError) as error:
        reconstruct(edit, method | {"memory_budget": 0.01})
    return str(error.value)


def test_memory_is_measured_once_for_each_vae_and_kind_of_fit(edit, monkeypatch):
    vae, measurements, real = edit.vae, [], plan.peak_bytes
    plan.KNOWN.pop(vae.first_stage_model, None)
    monkeypatch.setattr(plan, "peak_bytes", lambda compute: measurements.append(1) or real(compute))
    counts = []
    for method in (DECODER, DECODER | {"surroundings": 4}, LATENT, LATENT | {"learning_rate": 0.01}):
        reconstruct(edit, method | {"iterations": 1})
        counts.append(len(measurements))
    assert 0 < counts[0] == counts[1] < counts[2] == counts[3]


def test_the_distances_to_a_masks_edge_are_computed_once(edit, monkeypatch):
    transformed, real = [], edges.distance_transform_edt

    def transform(region):
        transformed.append(region.tobytes())
        return real(region)

    monkeypatch.setattr(edges, "distance_transform_edt", transform)
    reconstruct(edit, DECODER | {"iterations": 1})
    assert len(transformed) == len(set(transformed)) == 3, "inside the mask, around it, and around what the display shows of it"


@pytest.mark.promise("memory-budget")
@pytest.mark.parametrize("method, size, budget", [("ours", 1024, 1.0), ("latent", 512, 0.7)])
def test_a_budget_holds_within_a_tenth(method, size, budget):
    """What a process of its own takes beyond the loaded VAE, where all at once would take more than the budget."""
    from bench.reconstruction import Row, memory

    found = memory(Row(0.25, method), size, budget, 2)
    assert found["MiB"] / 1024 < 1.1 * budget
    assert "with activations computed twice to save memory" in found["said"] or "in tiles" in found["said"]


def test_what_the_host_hangs_on_a_loaded_module_is_left_behind():
    """Dynamic VRAM does so on a GPU only: its handles cannot be copied, and a copy must not point to the user's weights."""

    freed = []

    class Handle:
        """Like the host's ModelVBAR: plain to copy, but a copy frees the memory of the first when it goes."""

        def __init__(self):
            self.pointer = 1

        def __del__(self):
            freed.append(self.pointer)

    module = torch.nn.Sequential(torch.nn.Linear(2, 2).half(), torch.nn.Linear(2, 2).half())
    module.dynamic_vbars, module.dynamic_pins, module.dynamic_patchers = {"cuda:0": Handle()}, {"cuda:0": Handle()}, {1}
    module[0]._v, module[0]._v_signature, module[0]._v_weight = Handle(), 0, Handle()
    module[0]._pins, module[0]._pin_state, module[0]._prefetch = {"weights": Handle()}, {"hostbufs": Handle()}, {"signature": 0}
    result = copy_in_float32(module)
    assert not any(name.startswith(("_v", "_pin", "_prefetch", "dynamic_")) for part in result.modules() for name in part.__dict__)
    assert result[1].in_features == 2 and result[0].training is False
    assert torch.equal(result[0].weight, module[0].weight.float())
    assert result[0].weight.data_ptr() != module[0].weight.data_ptr()
    del result
    gc.collect()
    assert freed == [] and module[0]._v_signature == 0, "the user's module keeps what it had"


def test_a_picture_that_is_no_multiple_of_eight_is_cropped_as_vae_encode_crops_it(edit):
    padded = torch.nn.functional.pad(edit.image.movedim(-1, 1), (2, 3, 1, 4), mode="reflect").movedim(1, -1)
    mask = torch.nn.functional.pad(edit.mask, (2, 3, 1, 4))
    with torch.inference_mode():
        latent = {"samples": edit.vae.encode(padded)}
    image = reconstruct(edit, PASTE, samples=latent, image=padded, mask=mask)[0]
    outside = (mask[:, 2:-3, 2:-3] == 0)[..., None].expand_as(image)
    assert torch.equal(image[outside], padded[:, 2:-3, 2:-3][outside])


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"image": torch.zeros(1, 64, 64, 3)}, "image is 64x64, but samples decode to 128x128"),
        ({"mask": torch.zeros(1, 64, 128)}, "mask is 128x64, but image is 128x128"),
        ({"image": torch.zeros(3, 128, 128, 3)}, "image has 3 in its batch, but samples has 1"),
        ({"mask": torch.zeros(2, 128, 128)}, "mask has 2 in its batch, but samples has 1"),
        ({"samples": {"samples": torch.full((1, 4, 16, 16), float("nan"))}}, "samples contains NaN"),
        ({"samples": {"samples": torch.zeros(1, 16, 16, 16)}}, "samples has 16 channels, but vae needs 4: connect the VAE"),
        ({"samples": {"samples": torch.zeros(1, 4, 1, 16, 16)}}, "but must be .batch, channels, height, width. for this VAE"),
        ({"samples": {"samples": torch.zeros(1, 4, 3, 16, 16)}}, "but must be .batch, channels, height, width. for this VAE"),
    ],
)
def test_bad_input_gets_one_clear_sentence(edit, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        reconstruct(edit, DECODER, **change)
