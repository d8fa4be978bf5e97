"""A small place of a large picture: what is cut out, and that nothing else changes when it is put back."""
from __future__ import annotations

import itertools

import pytest
import torch

from blended_latent_diffusion.bld import windows
from blended_latent_diffusion.bld.reconstruction import IN_PIXELS
from blended_latent_diffusion.nodes.edit_cut_out import EditCutOut
from blended_latent_diffusion.nodes.edit_put_back import EditPutBack


def picture(height: int, width: int, batch: int = 1) -> torch.Tensor:
    """A smooth picture with some grain, (B, H, W, 3)."""
    generator = torch.Generator().manual_seed(height + width)
    rows, columns = torch.linspace(0, 3, height)[:, None], torch.linspace(0, 5, width)[None]
    waves = torch.stack([(rows + columns * k).sin() for k in (1, 2, 3)], -1) * 0.3 + 0.5
    return (waves + 0.02 * torch.randn(batch, height, width, 3, generator=generator)).clamp(0, 1)


def painted(height: int, width: int, *boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """A mask (1, H, W) with boxes (top, left, bottom, right)."""
    m = torch.zeros(1, height, width)
    for top, left, bottom, right in boxes:
        m[:, top:bottom, left:right] = 1
    return m


def join(edited, where, method="paste", image=None, frames=1, **settings):
    return EditPutBack.execute(edited, where, {"method": method} | settings, image, frames).args[0]


BOXES = {"middle": (90, 150, 130, 170), "corner": (0, 0, 9, 9), "other corner": (230, 340, 256, 361), "stroke": (100, 3, 102, 350),
         "as wide as a multiple": (90, 20, 130, 340), "everything": (0, 0, 256, 361)}


@pytest.mark.parametrize(("box", "context", "multiple", "side"), [*itertools.product(BOXES.values(), (0.0, 0.5), (8, 64), (0, 128))])
def test_a_window_shows_all_that_is_painted_and_the_crop_has_the_size_that_a_model_likes(box, context, multiple, side):
    m = painted(256, 361, box)
    window = windows.window_around(m, context, multiple, side)
    assert m[window.place].sum() == m.sum()
    for one, full in zip((window.rows, window.columns), m.shape[1:], strict=True):
        assert 0 <= one.start and one.start + one.length <= full and one.crop % multiple == 0
    for one, low, high, full in zip((window.rows, window.columns), box[:2], box[2:], m.shape[1:], strict=True):
        assert (one.start < low or one.start == low == 0) and (one.start + one.length > high or high == full), "no edge of the mask is an edge of the window"
    if side:
        # Rounding each side up to the multiple adds less than one of them.
        assert window.crop[0] * window.crop[1] <= (side + multiple * 3) ** 2 and max(window.crop) >= side - multiple
    elif min(256 - box[2] + box[0], 361 - box[3] + box[1]) > 150:
        assert not window.is_scaled, "the picture has room for it, so its own pixels are kept"


@pytest.mark.promise("small-place")
@pytest.mark.parametrize("side", [512, 1024, 4096])
def test_the_crop_is_as_large_as_the_place_however_large_the_picture(side):
    low = side // 4
    window = windows.window_around(painted(side, side, (low, low, low + 256, low + 256)), 0.5, 64)
    around = windows.Side(max(0, low - 128), 512, 512)
    assert (window.rows, window.columns) == (around, around), "the context is on all sides"


@pytest.mark.promise("small-place", "scaled-crop")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("size", [0, 96], ids=["own pixels", "scaled"])
@pytest.mark.parametrize("method", IN_PIXELS)
def test_outside_the_mask_every_pixel_is_the_source_bit_for_bit(method, size, dtype):
    source, mask = picture(300, 411).to(dtype), painted(300, 411, (120, 200, 165, 245))
    mask[:, 140, 190:260] = 0.5  # soft paint is paint
    crop, inside, where, _ = EditCutOut.execute(source, mask, 0.5, size, 16).args
    assert crop.shape[1:3] == inside.shape[1:3] and crop.shape[1] % 16 == 0 and crop.dtype == dtype
    result = join(1 - crop, where, method)
    assert torch.equal(result[mask == 0], source[mask == 0]) and result.shape == source.shape and result.dtype == dtype
    assert (result - source).abs()[mask > 0].max() > 0.1
    assert source.equal(picture(300, 411).to(dtype)), "the source itself is not written to"


def test_an_unchanged_crop_gives_the_picture_back():
    source, mask = picture(300, 411), painted(300, 411, (120, 200, 165, 245))
    for size, close in ((0, 0.0), (160, 0.03)):
        crop, _, where, _ = EditCutOut.execute(source, mask, 0.5, size, 16).args
        assert (join(crop, where) - source).abs().mean() <= close * (mask.mean() if size else 1)


def test_a_scaled_edit_lies_where_it_was_drawn():
    source, mask = torch.zeros(1, 400, 400, 3), painted(400, 400, (60, 200, 140, 280))
    crop, inside, where, _ = EditCutOut.execute(source, mask, 0.5, 80, 8).args
    crop = inside[..., None].expand(-1, -1, -1, 3).clone()
    assert (join(crop, where)[..., 0][mask > 0] > 0.5).all(), "an edit that fills the mask fills it, to half a pixel of the crop"


def test_a_thin_stroke_stays_in_the_mask_of_a_crop_that_is_scaled_down():
    mask = painted(1024, 1024, (500, 100, 501, 900))
    inside = EditCutOut.execute(torch.zeros(1, 1024, 1024, 3), mask, 0.2, 128, 8).args[1]
    assert (inside.amax(1) > 0.99).sum() >= 0.7 * inside.shape[-1]


def test_several_crops_give_several_pictures_and_several_edits_one():
    source, first, second = picture(256, 256), painted(256, 256, (20, 20, 50, 50)), painted(256, 256, (180, 180, 220, 220))
    crop, _, where, _ = EditCutOut.execute(source, first, 0.5, 0, 16).args
    many = join(torch.cat([crop, 1 - crop, crop * 0]), where)
    assert len(many) == 3 and torch.equal(many[0], source[0]) and not torch.equal(many[1], many[2])
    crop, _, other, _ = EditCutOut.execute(source, second, 0.5, 0, 16).args
    both = join(1 - crop, other, image=many[1:2])
    assert torch.equal(both[first > 0], many[1:2][first > 0]) and torch.equal(both[second > 0], 1 - source[second > 0])


def test_soft_paint_is_blended_once():
    """The crop of a reconstruction is blended with the mask already."""
    source, mask = picture(100, 140), painted(100, 140, (10, 10, 30, 30)) * 0.5
    crop, inside, where, _ = EditCutOut.execute(source, mask, 0.5, 0, 8).args
    assert float(inside.max()) == 0.5
    assert torch.equal(join(crop * 0.5, where)[mask > 0], (source * 0.5)[mask > 0])


@pytest.mark.parametrize("method", IN_PIXELS)
def test_a_moving_mask_and_several_edits_of_one_video(method):
    clip, mask = picture(120, 160, 3), torch.cat([painted(120, 160, (20, x, 40, x + 20)) for x in (40, 50, 60)])
    crop, inside, where, report = EditCutOut.execute(clip, mask, 0.2, 0, 8).args
    assert len(crop) == len(inside) == 3 and crop.shape[1:3] == (40, 56), "the area holds the whole way of the mask"
    edits = torch.cat([1 - crop, crop * 0.5])
    both = join(edits, where, method, frames=3)
    for number in (0, 1):
        result = both[3 * number : 3 * number + 3]
        assert torch.equal(result[mask == 0], clip[mask == 0]) and (result - clip).abs()[mask > 0].mean() > 0.01
    assert torch.equal(join(edits[:3], where, method, frames=0), both[:3])
    with pytest.raises(ValueError, match="the image of where has 3 in its batch, but edited has 6: connect one for all or one for each"):
        join(edits, where, method)
    with pytest.raises(ValueError, match="frames is 4, but edited has 6 pictures"):
        join(edits, where, method, frames=4)


def test_an_edit_that_lacks_what_vae_encode_cuts_off_is_refused_and_not_stretched():
    _, _, where, _ = EditCutOut.execute(picture(200, 200), painted(200, 200, (40, 40, 80, 80)), 0.5, 0, 8).args
    assert where.window.crop == (80, 80)
    with pytest.raises(ValueError, match="edited is 64x64, but the crop was 80x80, of which VAE Encode has cut off the rest: raise multiple"):
        join(torch.zeros(1, 64, 64, 3), where)


def test_what_does_not_belong_together_is_refused():
    source, mask = picture(100, 140), painted(100, 140, (10, 10, 30, 30))
    for image, m, sentence in ((source, painted(140, 100, (1, 1, 9, 9)), "mask is 100x140, but image is 140x100"),
                               (source, mask * 0, "mask is empty: paint the area to edit"),
                               (source, mask.repeat(3, 1, 1), "mask has 3 in its batch, but image has 1")):
        with pytest.raises(ValueError, match=sentence):
            EditCutOut.execute(image, m)
    crop, _, where, report = EditCutOut.execute(source, mask, 0.5, 64, 8).args
    assert report == "40x40 at 0, 0 of 140x100, scaled to 64x64."
    with pytest.raises(ValueError, match="image is 99x99, but the crop was cut from 140x100"):
        join(crop, where, image=picture(99, 99))
    with pytest.raises(ValueError, match="edited is 64x32, but the crop was 64x64"):
        join(crop[:, :32], where)


def test_every_method_that_works_in_pixels_is_offered():
    (choice,) = (one for one in EditPutBack.define_schema().inputs if one.id == "method")
    assert [option.key for option in choice.options] == list(IN_PIXELS)
