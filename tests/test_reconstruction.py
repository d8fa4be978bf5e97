"""Background reconstruction on the demo VAE, inside inference mode as the host runs it."""

from __future__ import annotations

import gc
import hashlib

import comfy.model_management
import nodes as host_nodes
import pytest
import torch
from torch import Tensor

from blended_latent_diffusion.bld import reconstruction
from blended_latent_diffusion.bld.metrics import background_psnr
from blended_latent_diffusion.bld.reconstruction.objective import objective
from blended_latent_diffusion.nodes import decoder_finetune_reconstruct as node
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from blended_latent_diffusion.nodes.vae import copy_in_float32
from conftest import Edit

FIT = {"iterations": 25, "learning_rate": 1e-4, "background_weight": 100.0}
DECODER = {"method": "decoder weights", **FIT}
LATENT = {"method": "latent", **FIT, "learning_rate": 0.05}
PASTE = {"method": "paste", "feather": 0}


def reconstruct(edit: Edit, method: dict, **options):
    options = {"samples": edit.latent, "vae": edit.vae, "image": edit.image, "mask": edit.mask} | options
    with torch.inference_mode():
        return DecoderFinetuneReconstruct.execute(method=method, **options).args


def psnr(edit: Edit, image: Tensor) -> float:
    return background_psnr(image.movedim(-1, 1), edit.image.movedim(-1, 1), edit.mask)


def plain(edit: Edit) -> Tensor:
    with torch.inference_mode():
        return edit.vae.decode(edit.latent["samples"])


def fingerprint(vae) -> str:
    digest = hashlib.sha256()
    for name, weight in vae.first_stage_model.state_dict().items():
        digest.update(f"{name}{weight.dtype}{weight.device}{weight.requires_grad}".encode() + weight.cpu().float().numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("method, gain", [(DECODER, 1.0), (LATENT, 0.5)])
def test_the_background_comes_nearer_to_the_source(edit, method, gain):
    image, _, report = reconstruct(edit, method)
    assert psnr(edit, image) > psnr(edit, plain(edit)) + gain
    assert f"{psnr(edit, image):.2f} dB" in report and f"was {psnr(edit, plain(edit)):.2f} dB" in report


def test_paste_keeps_the_background_exactly_and_the_edit_too(edit):
    image = reconstruct(edit, PASTE)[0]
    outside = (edit.mask == 0)[..., None].expand_as(edit.image)
    assert torch.equal(image[outside], edit.image[outside])
    assert torch.equal(image[~outside], plain(edit)[~outside])


def test_a_feather_stays_inside_the_mask(edit):
    image = reconstruct(edit, {"method": "paste", "feather": 6})[0]
    outside = (edit.mask == 0)[..., None].expand_as(edit.image)
    assert torch.equal(image[outside], edit.image[outside])
    m = torch.zeros(1, 1, 12)
    m[..., 4:] = 1
    ramp = reconstruction.paste(torch.ones(1, 1, 1, 12), torch.zeros(1, 1, 1, 12), m, 3).flatten()
    assert torch.allclose(ramp[3:9], torch.tensor([0, 0.25, 0.5, 0.75, 1, 1]))


def test_the_objective_is_the_papers():
    y, x_hat, x = torch.rand(3, 2, 3, 8, 8).double()
    m = (torch.rand(2, 1, 8, 8) > 0.5).double()
    inside = sum(((y - x_hat) * m).flatten() ** 2) / y.numel()
    outside = sum(((y - x) * (1 - m)).flatten() ** 2) / y.numel()
    assert float(objective(y, x_hat, x, m, 100)) == pytest.approx(float(inside + 100 * outside))


def test_the_fit_starts_from_the_latent_and_stays_near_the_edit(edit):
    """With no weight on the background there is nothing to do: the picture stays as decoded."""
    image = reconstruct(edit, DECODER | {"background_weight": 0.0})[0]
    assert (image - plain(edit)).abs().max() < 1e-3


def test_no_iterations_is_the_plain_decode(edit):
    assert torch.allclose(reconstruct(edit, DECODER | {"iterations": 0})[0], plain(edit), atol=1e-3)


def test_the_tuned_vae_draws_the_same_picture_in_the_hosts_decode(edit):
    image, tuned, _ = reconstruct(edit, DECODER)
    with torch.inference_mode():
        again = host_nodes.VAEDecode().decode(tuned, edit.latent)[0]
    assert torch.allclose(again, image, atol=1e-4)


def test_the_users_vae_is_never_written_to(edit):
    before, picture = fingerprint(edit.vae), plain(edit)
    for method in (DECODER, LATENT):
        reconstruct(edit, method)
    assert fingerprint(edit.vae) == before
    assert torch.equal(plain(edit), picture)


def test_cancel_in_the_middle_leaves_the_vae_alone(edit):
    before = fingerprint(edit.vae)
    comfy.model_management.interrupt_current_processing(True)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        reconstruct(edit, DECODER)
    assert fingerprint(edit.vae) == before
    assert psnr(edit, reconstruct(edit, DECODER)[0]) > psnr(edit, plain(edit)), "the next run is clean"


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


def test_a_batch_shares_one_source_and_mask(edit):
    batch = {"samples": edit.latent["samples"].repeat(2, 1, 1, 1)}
    image = reconstruct(edit, DECODER | {"iterations": 3}, samples=batch)[0]
    assert image.shape == (2, 128, 128, 3)


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
        ({"samples": {"samples": torch.full((1, 4, 16, 16), float("nan"))}}, "samples contains NaN"),
    ],
)
def test_bad_input_gets_one_clear_sentence(edit, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        reconstruct(edit, DECODER, **change)


def test_a_vae_without_a_decoder_is_refused_and_the_sentence_names_what_works(edit):
    class PixelSpace:
        latent_dim = 2
        first_stage_model = torch.nn.Identity()

    with pytest.raises(ValueError, match="Identity, whose decoder cannot be tuned: use method paste"):
        node.decoder_of(PixelSpace())


def test_background_psnr_is_known_for_a_known_error():
    x = torch.full((1, 3, 8, 8), 0.5)
    m = torch.zeros(1, 8, 8)
    m[:, :4] = 1
    x_hat = x + 0.1
    x_hat[:, :, :4] += 0.3
    assert background_psnr(x_hat, x, m) == pytest.approx(20, abs=1e-4)
    assert background_psnr(x, x, m) == float("inf")
