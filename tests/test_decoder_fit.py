"""The decoder's fit itself, on a small random VAE: what it looks at, and that no way of cutting it changes the result."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_decoder_tails import latent, vae_of
from torch import Tensor

from blended_latent_diffusion.bld.edges import Region
from blended_latent_diffusion.bld.reconstruction.decoder import Part, Work, draw, look_at, tune_decoder
from blended_latent_diffusion.bld.reconstruction.objective import Outcome, Settings, Step
from blended_latent_diffusion.bld.reconstruction.tail import Stage, Tail, h_of
from blended_latent_diffusion.bridge.vae.copies import trainable_copy
from blended_latent_diffusion.bridge.vae.pixels import decode_of
from blended_latent_diffusion.bridge.vae.tails import tail_of

SIDE, RING = 96, 6
WHOLE = Work(1 << 20)


def source() -> Tensor:
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) * 2 - 1


def mask() -> Tensor:
    """Two strokes, off the middle."""
    m = torch.zeros(1, SIDE, SIDE)
    m[:, 36:52, 28:60] = m[:, 52:56, 28:32] = 1
    return m


def around(m: Tensor, feather: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A mask as `look_at` takes it, with what is near it and how it rises."""
    return m, Region(m).nearby(RING), Region(m).rise(feather)


def fit(z: Tensor, steps: int = 3, work: Work = WHOLE, view: int = 0, lr: float = 1e-4, x: Tensor | None = None) -> tuple[Tensor, list[Step], Outcome, Tail]:
    """Tunes a copy: the pictures (B, 3, H, W) in -1..1 within the mask and the ring, the steps seen, the outcome and the tail. view: pixels more to see."""
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(vae_of("sd"))
        tail, x, seen = tail_of(copy), source() if x is None else x, []
        if view:
            tail = Tail(tail.entrance, (*tail.stages, Stage(lambda y: y, reach=view)), tail.modules)
        _, found = look_at(decode_of(copy), tail, z, z, x, *around(mask()), work.tile)
        outcome = tune_decoder(tail, found, Settings(100, steps, lr), work, lambda step: seen.append(replace(step, picture=step.picture.clone())))
        return draw(tail, found, x, len(z), lambda y: y), seen, outcome, tail


def parts_of(z: Tensor, side: int) -> list[Part]:
    """What a fit keeps of a picture this large, with a mask of always the same size."""
    vae, m = vae_of("sd"), torch.zeros(1, side, side)
    m[:, 40:56, 40:56] = 1
    with torch.inference_mode():
        return look_at(decode_of(vae), tail_of(vae), z, z, torch.zeros(1, 3, side, side), *around(m), 1 << 20)[1]


def test_what_the_edit_draws_beside_the_mask_does_not_enter_the_fit():
    """The source's features there, the edit's inside, and a mix in cells that are partly masked."""
    vae, z, z_init, m = vae_of("sd"), latent("sd", 12), latent("sd", 12).flip(-1), torch.zeros(1, SIDE, SIDE)
    m[:, 36:42, 28:60] = m[:, 44:45, 32:60] = 1
    with torch.inference_mode():
        decode, tail = decode_of(vae), tail_of(vae)
        _, found = look_at(decode, tail, z, z_init, torch.zeros(1, 3, SIDE, SIDE), *around(m, 8), 1 << 20)
        edit, outside = (h_of(decode, tail, one)[(..., *found[0].tile.cells)] for one in (z, z_init))
        inside = torch.nn.functional.avg_pool2d(m, tail.scale)[0][found[0].tile.cells]
        h = found[0].h
    assert set(inside.unique().tolist()) == {0, 0.25, 0.5, 1} and not torch.allclose(edit, outside, atol=0.1)
    assert torch.equal(h[..., inside == 1], edit[..., inside == 1]) and torch.equal(h[..., inside == 0], outside[..., inside == 0])
    for share in (0.25, 0.5):
        assert torch.allclose(h[..., inside == share], torch.lerp(outside, edit, share)[..., inside == share], atol=1e-5)


def test_the_edit_rises_from_the_masks_edge():
    """A broad mask's features are the source's at its edge and the edit's a latent pixel inside, and never less in between."""
    vae, z, z_init, m = vae_of("sd"), latent("sd", 12), latent("sd", 12).flip(-1), torch.zeros(1, SIDE, SIDE)
    m[:, :, 16:] = 1
    with torch.inference_mode():
        decode, tail = decode_of(vae), tail_of(vae)
        _, found = look_at(decode, tail, z, z_init, torch.zeros(1, 3, SIDE, SIDE), *around(m, 8), 1 << 20)
        edit, outside = (h_of(decode, tail, one)[(..., *found[0].tile.cells)] for one in (z, z_init))
        share = ((found[0].h - outside) / (edit - outside)).median(1).values[0].median(0).values
    first = 16 // tail.scale - found[0].tile.cells[1].start
    assert tail.scale == 4 and torch.allclose(share[first - 1 : first + 3], torch.tensor([0, 2.5 / 9, 6.5 / 9, 1]), atol=1e-3)
    assert torch.allclose(share[first + 3 :], torch.ones(()), atol=1e-3), "the frame's edge is no edge of the mask"


def test_nobody_can_tell_where_the_view_ended():
    """A fit that sees more of the picture around, up to all of it, draws the same pixels."""
    near, far, all_of_it = (fit(latent("sd", 12), view=view)[0] for view in (0, 12, SIDE))
    assert (near - source()).abs().max() > 0.5, "the fit drew something"
    assert (near - far).abs().max() < 1e-5 and (near - all_of_it).abs().max() < 1e-5


@pytest.mark.parametrize("work", [Work(24), Work(24, thrifty=True)], ids=["tiles", "tiles, computed twice"])
def test_less_memory_gives_the_same_result(work):
    whole, tiled = fit(latent("sd", 12)), fit(latent("sd", 12), work=work)
    assert (whole[0] - tiled[0]).abs().max() < 1e-3
    assert [step.loss for step in tiled[1]] == pytest.approx([step.loss for step in whole[1]], rel=1e-3)
    assert [step.background for step in tiled[1]] == pytest.approx([step.background for step in whole[1]], abs=1e-2)
    assert not torch.equal(whole[0], fit(latent("sd", 12), steps=0)[0]), "three steps do change it"


def test_the_loss_falls_and_the_background_rises():
    _, seen, outcome, _ = fit(latent("sd", 12), steps=10, lr=5e-4)
    assert [step.number for step in seen] == list(range(10)) and outcome.steps == 10
    assert not outcome.restored and seen[-1].loss < 0.9 * seen[0].loss and seen[-1].background > seen[0].background + 0.3


def test_each_step_looks_at_the_next_candidate():
    """All of a batch take part, though each step costs as much as for one."""
    z = torch.cat([latent("sd", 12), -latent("sd", 12), latent("sd", 12).flip(-1)])
    alone = [fit(one[None], steps=1)[1][0] for one in z]
    together = fit(z, steps=6, lr=1e-6)[1]
    for step in together:
        one = alone[step.number % 3]
        assert torch.allclose(step.picture, one.picture, atol=0.02) and step.loss == pytest.approx(one.loss, rel=0.02)
    assert len({step.picture.shape for step in together}) == 1
    assert fit(z, steps=0)[2].best == pytest.approx(sum(one.loss for one in alone), rel=1e-3), "what it holds against the losses of the steps"


def test_a_batch_that_diverges_is_put_back_to_where_it_began():
    z = torch.cat([latent("sd", 12), -latent("sd", 12), latent("sd", 12).flip(-1)])
    _, seen, outcome, tail = fit(z, steps=9, lr=0.03)
    assert outcome.reason == "diverged" and outcome.restored and len(seen) < 9
    first = vae_of("sd")
    for weight, before in zip(tail.modules.parameters(), tail_of(first).modules.parameters(), strict=True):
        assert torch.equal(weight, before) and not weight.requires_grad and weight.grad is None


def test_the_cost_follows_the_mask_not_the_picture():
    small, large = (sum(part.h.numel() for part in parts_of(latent("sd", side // 8), side)) for side in (192, 288))
    assert large == small < 0.5 * 64 * (192 // 4) ** 2
