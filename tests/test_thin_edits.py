"""keep_thin_edits: the result keeps what an edit changed beside the thin parts of a mask, and everything else is the source."""

from __future__ import annotations

import inspect
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from blended_latent_diffusion.bld.edges import Region
from blended_latent_diffusion.bld.masks import thin_parts
from blended_latent_diffusion.bld.metrics import seam
from blended_latent_diffusion.bld.reconstruction import follow
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from conftest import Edit

CELL = 8
FIT = {"method": "decoder weights", "iterations": 5, "learning_rate": 1e-4, "background_weight": 100.0}
METHODS = [FIT, {"method": "paste"}, {"method": "poisson"}]


@given(st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_a_mask_never_shrinks_and_never_reaches_further_than_a_cell(reach, seed):
    generator = torch.Generator().manual_seed(seed)
    m = (torch.rand(1, 24, 30, generator=generator) > 0.98).float() * 0.7
    edit, source = torch.rand(2, 1, 3, 24, 30, generator=generator)
    wide = follow(m, edit, source, reach)
    assert (wide >= m).all() and wide.max() <= 1 and (wide[Region(m).outside > reach] == 0).all()


def test_a_mask_stays_where_the_edit_changed_nothing_and_is_as_soft_as_the_change():
    m, source = torch.zeros(1, 40, 40), torch.full((1, 3, 40, 40), 0.5)
    m[:, 19:21] = 1
    assert torch.equal(follow(m, source, source, CELL), m)
    half, whole = (follow(m, source + change / 255, source, CELL)[0, 22, 20] for change in (10, 50))
    assert half == pytest.approx(0.5, abs=0.01) and whole == 1


@pytest.mark.parametrize(("width", "is_thin"), [(1, True), (8, True), (16, True), (32, False), (60, False)])
@pytest.mark.parametrize("offset", range(CELL))
def test_strokes_of_up_to_two_cells_are_thin_wherever_they_lie_and_broad_areas_are_not(width, is_thin, offset):
    m = torch.zeros(1, 120, 100)
    m[:, 24 + offset : 24 + offset + width] = 0.7
    assert torch.equal(thin_parts(m, CELL, 3), m * is_thin)


def test_a_stroke_that_leaves_a_blob_is_thin_and_the_blob_is_not():
    blob, stroke = torch.zeros(2, 1, 128, 128)
    blob[:, 32:80, 16:64], stroke[:, 52:58, 80:120] = 1, 1
    joined = blob.clone()
    joined[:, 52:58, 64:120] = 1
    thin = thin_parts(joined, CELL, 3)
    assert torch.equal(thin * stroke, stroke) and not (thin * blob).any()


@pytest.fixture(scope="module")
def thin(edit: Edit) -> tuple[Tensor, Tensor, Tensor]:
    """A stroke of 2 pixels (1, 128, 128), a latent whose edit is 12 pixels wide around it, and its plain decode."""
    mask, wide = torch.zeros_like(edit.mask), torch.zeros_like(edit.mask)
    mask[:, 60:62, 24:100] = wide[:, 55:67, 24:100] = 1
    with torch.inference_mode():
        z = edit.vae.encode(edit.image * (1 - wide[..., None]) + wide[..., None] * torch.tensor([0.9, 0.1, 0.1]))
        return mask, z, edit.vae.decode(z)


def reconstructed(edit: Edit, thin: tuple[Tensor, Tensor, Tensor], method: dict, keep: bool) -> tuple[Tensor, str]:
    with torch.inference_mode():
        image, _, report = DecoderFinetuneReconstruct.execute({"samples": thin[1]}, edit.vae, edit.image, thin[0], method, keep).args
    return image, report


@pytest.mark.promise("thin-edits")
@pytest.mark.promise("thin-edits-off")
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method["method"])
def test_a_thin_edit_survives_and_all_beyond_a_cell_is_the_source(edit, thin, method):
    mask, _, plain = thin
    (off, silent), (on, told) = (reconstructed(edit, thin, method, keep) for keep in (False, True))
    outside = Region(mask).outside
    band, far = (outside > 0) & (outside <= 4), outside > CELL
    assert torch.equal(on[far], edit.image[far]) and torch.equal(off[mask == 0], edit.image[mask == 0])
    drawn = (plain - edit.image)[band].abs().mean()
    assert (on - edit.image)[band].abs().mean() > 0.5 * drawn > 0.1, "the edit is there beside the stroke"
    reach = int(re.search(r"beside the thin parts of the mask: up to (\d+) pixels away, \d+ pixels in a picture", told)[1])
    assert 4 <= reach <= CELL and "thin parts" not in silent


def test_a_source_that_nobody_edited_is_left_alone(edit, thin):
    with torch.inference_mode():
        image, _, report = DecoderFinetuneReconstruct.execute(edit.latent, edit.vae, edit.image, thin[0], {"method": "paste"}, True).args
    outside = thin[0] == 0
    assert torch.equal(image[outside], edit.image[outside]) and "The edit changed nothing beside the thin parts of the mask." in report


def test_all_around_a_broad_mask_is_the_source(edit, thin):
    _, z, plain = thin
    mask = torch.zeros_like(edit.mask)
    mask[:, 40:80, 20:60] = 1
    (off, silent), (on, told) = (reconstructed(edit, (mask, z, plain), {"method": "paste"}, keep) for keep in (False, True))
    assert torch.equal(on, off) and torch.equal(on[mask == 0], edit.image[mask == 0]) and told == silent


def test_a_new_node_keeps_thin_edits_and_an_old_prompt_means_what_it_meant():
    (switch,) = (i for i in DecoderFinetuneReconstruct.define_schema().inputs if i.id == "keep_thin_edits")
    assert switch.default is True and switch.optional
    assert inspect.signature(DecoderFinetuneReconstruct.execute).parameters["keep_thin_edits"].default is False


def test_the_seam_is_no_worse(edit, thin):
    x = edit.image.movedim(-1, 1)
    off, on = (seam(reconstructed(edit, thin, FIT, keep)[0].movedim(-1, 1), x, thin[0]) for keep in (False, True))
    assert on <= off + 0.5


def test_under_a_mask_that_is_thin_throughout_the_plain_decode_is_pasted_and_nothing_is_fitted(edit, thin):
    mask, z, plain = thin
    with torch.inference_mode():
        image, vae, report = DecoderFinetuneReconstruct.execute({"samples": z}, edit.vae, edit.image, mask, FIT, True).args
    assert torch.equal(image[mask == 1], plain[mask == 1]) and vae is edit.vae
    assert "Skipped decoder weights: the mask is thin throughout, so the plain decode is pasted with a soft edge." in report


def test_beside_a_thin_part_the_method_still_does_the_broad_one(edit, thin):
    _, z, plain = thin
    mask = thin[0].clone()
    mask[:, 8:40, 32:88] = 1
    (off, _), (on, told) = (reconstructed(edit, (mask, z, plain), {"method": "poisson"}, keep) for keep in (False, True))
    stroke, box, away = thin[0] == 1, mask * (1 - thin[0]) == 1, Region(mask).outside > CELL
    assert torch.equal(on[stroke], plain[stroke]) and torch.equal(on[away], edit.image[away])
    assert (on - off)[box].abs().mean() < 0.2 * (on - plain)[box].abs().mean(), "poisson, not the plain decode"
    assert "Skipped" not in told and "beside the thin parts of the mask" in told


def test_each_of_a_batch_keeps_what_it_changed_itself(edit, thin):
    mask, z, _ = thin
    both = {"samples": torch.cat([edit.latent["samples"], z])}
    with torch.inference_mode():
        image = DecoderFinetuneReconstruct.execute(both, edit.vae, edit.image, mask, {"method": "paste"}, True).args[0]
    alone = reconstructed(edit, thin, {"method": "paste"}, True)[0]
    outside = mask == 0
    assert torch.equal(image[:1][outside], edit.image[outside]) and torch.allclose(image[1:], alone, atol=1e-3)
