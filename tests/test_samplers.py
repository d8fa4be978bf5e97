"""Every sampler and scheduler of the host, and what the sampler node adds to them: candidates, jumps back, blending in pixels."""

from __future__ import annotations

import copy
from dataclasses import replace

import comfy.model_management
import comfy.samplers
import comfy.utils
import latent_preview
import nodes as host_nodes
import pytest
import torch
from comfy.cli_args import LatentPreviewMethod
from families import Loaded, load
from test_decoder_tails import vae_of
from torch import Tensor

from blended_latent_diffusion.bld.seeds import candidate_seed
from blended_latent_diffusion.bridge.sampling.candidates import Chunks, of_rows
from blended_latent_diffusion.bridge.sampling.pixel_blend import blend_of
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from conftest import Edit, watched

SAMPLERS, SCHEDULERS = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
MASK = torch.zeros(1, 12, 16)
MASK[0, 3:9, 4:11] = 1
STOCHASTIC = [name for name in SAMPLERS if any(word in name for word in ("ancestral", "sde", "ddpm", "lcm", "seeds", "sa_solver"))]


def sample(edit: Edit, steps: int = 3, sampler: str = "euler", scheduler: str = "normal", cfg: float = 4.0, **options) -> Tensor:
    given = {"seed": 5, "latent_image": edit.latent, "model": edit.model, "positive": edit.positive, "negative": edit.negative} | options
    return BlendedLatentKSampler.execute(steps=steps, cfg=cfg, sampler_name=sampler, scheduler=scheduler, **given).args[0]["samples"]


@pytest.fixture(autouse=True)
def as_in_a_workflow():
    """The host runs all nodes in inference mode."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def tiny() -> Loaded:
    """A model of random weights that is quick enough for all combinations, with a source of the size of `MASK`."""
    loaded = load("SD1.5")
    return replace(loaded, latent={"samples": loaded.latent["samples"][:1]})


@pytest.fixture(scope="module")
def small(edit: Edit) -> tuple[dict, Tensor]:
    """A latent of 8x8 and a mask of the same size: the smallest that the small model takes."""
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:6, 3:7] = 1
    return {"samples": edit.latent["samples"][..., 4:12, 4:12].clone()}, mask


@pytest.mark.promise("works-with-yours")
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_and_scheduler_keeps_the_background_exactly(tiny, sampler, scheduler):
    """All of them can run; a new one of the host that cannot would show up here."""
    source = tiny.latent["samples"]
    for noise in ("every step", "fixed"):
        out = sample(tiny, 3, sampler, scheduler, cfg=1.0, mask=MASK, background_noise=noise)
        inside = (MASK > 0).expand_as(out)
        assert torch.isfinite(out).all()
        assert torch.equal(out[~inside], source[~inside])
        assert (out - source)[inside].abs().mean() > 0.01, "the mask was not edited"


def test_a_scheduler_that_cannot_make_one_step_says_so(edit):
    with pytest.raises(ValueError, match="scheduler is kl_optimal, which can't work with steps set to 1"):
        sample(edit, 1, scheduler="kl_optimal", mask=edit.mask)


def unit(edit: Edit, samples: Tensor) -> Tensor:
    """In the units of the model's latents, which have a deviation of about 1."""
    return edit.model.model.process_latent_in(samples)


@pytest.mark.parametrize("sampler", ["euler", "dpm_adaptive", *STOCHASTIC])
def test_a_candidate_is_the_same_in_any_batch_for_samplers_that_draw_noise_too(edit, small, sampler):
    """Batches of other sizes round differently in float32, which is carried on: 1e-5 on average, not at each value."""
    latent, mask = small
    given = {"latent_image": latent, "mask": mask, "cfg": 1.0, "scheduler": "karras"}
    together = sample(edit, 3, sampler, candidates=3, **given)
    chunked = sample(edit, 3, sampler, candidates=3, chunk_size=2, **given)
    alone = sample(edit, 3, sampler, seed=candidate_seed(5, 2, 0), **given)
    assert (unit(edit, together) - unit(edit, chunked)).square().mean().sqrt() < 1e-5
    assert (unit(edit, together[2:]) - unit(edit, alone)).square().mean().sqrt() < 1e-5
    assert (together[0] - together[1]).abs().max() > 0.01, "candidates differ"


@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m_sde", "dpmpp_sde_gpu", "lcm"])
def test_one_candidate_has_the_noise_of_the_hosts_ksampler(edit, small, sampler):
    latent, mask = small
    ours = sample(edit, 4, sampler, "karras", latent_image=latent, mask=mask, background_noise="fixed")
    masked = latent | {"noise_mask": mask[:, None]}
    theirs = host_nodes.KSampler().sample(edit.model, 5, 4, 4.0, sampler, "karras", edit.positive, edit.negative, masked, 1.0)[0]["samples"]
    assert torch.equal(ours[..., mask[0] > 0], theirs[..., mask[0] > 0])


def test_short_memory_halves_the_candidates_at_once_and_loses_none():
    """Made up, since this machine's memory cannot be filled up to order: more than two at once do not fit."""
    asked = []

    def run(chunk: list[int]) -> Tensor:
        asked.append(len(chunk))
        if len(chunk) > 2:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")
        return torch.tensor(chunk)

    chunks = Chunks(7)
    assert chunks.run(range(7), run).tolist() == list(range(7))
    assert asked == [7, 4, 2, 2, 2, 1]
    asked.clear()
    assert chunks.run([1, 3, 4], run).tolist() == [1, 3, 4]
    assert asked == [2, 1], "what did not fit is not tried again"

    def never(chunk: list[int]) -> Tensor:
        raise comfy.model_management.OOM_EXCEPTION("out of memory")

    with pytest.raises(comfy.model_management.OOM_EXCEPTION):
        Chunks(4).run(range(4), never)


def test_other_errors_are_not_taken_for_short_memory():
    with pytest.raises(KeyError):
        Chunks(4).run(range(4), lambda chunk: {}[chunk[0]])


def levels_seen(edit: Edit, **options) -> list[float]:
    """The noise level of each model call."""
    seen = []
    sample(edit, model=watched(edit.model, lambda args: seen.append(round(float(args["sigma"][0]), 3))), **options)
    return seen


def test_resampling_jumps_back_and_does_each_stretch_but_the_first_again(edit, small):
    latent, mask = small
    plain = levels_seen(edit, steps=7, latent_image=latent, mask=mask)
    again = levels_seen(edit, steps=7, latent_image=latent, mask=mask, resample_steps=3)
    assert again == plain[:1] + plain[1:4] * 2 + plain[4:] * 2


def test_the_jump_back_has_the_noise_of_the_level_it_goes_to(edit, small):
    """Where all is masked the model sees its own picture noised: as much noise after a jump as at the first visit."""
    latent, mask = small
    seen = {}

    def look(args: dict) -> None:
        seen.setdefault(round(float(args["sigma"][0]), 3), []).append(float((args["input"] - args["denoised"]).std() / args["sigma"][0]))

    sample(edit, 12, model=watched(edit.model, look), latent_image=latent, mask=torch.ones_like(mask), resample_steps=4, cfg=1.0)
    twice = {level: noises for level, noises in seen.items() if len(noises) == 2 and level > 0.5}
    assert len(twice) >= 4
    for level, (first, second) in twice.items():
        assert second == pytest.approx(first, rel=0.25), level


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_resampling_works_with_every_sampler(tiny, sampler):
    out = sample(tiny, 5, sampler, cfg=1.0, mask=MASK, resample_steps=2)
    assert torch.isfinite(out).all()
    assert torch.equal(out[..., MASK[0] == 0], tiny.latent["samples"][..., MASK[0] == 0])


def test_pixel_blend_keeps_the_source_up_to_the_painted_edge(edit):
    """Off the painted box, in the cells that it only partly covers: blending in latents leaves these pixels to the model."""
    mask = torch.zeros(1, 128, 128)
    mask[0, 44:93, 43:101] = 1
    cells = torch.nn.functional.interpolate(LatentMaskResize.execute(mask, edit.latent).args[0][:, None], scale_factor=8)[:, 0]
    ring = (cells > mask)[0]

    def error(**options) -> float:
        picture = edit.vae.decode(sample(edit, 12, "ddim", mask=mask, candidates=2, **options))
        return float((picture - edit.image)[:, ring].square().mean())

    assert error(pixel_blend=0.3, vae=edit.vae, pixels=edit.image) < error() / 5


def test_pixel_blend_touches_the_last_share_of_the_schedule_only(edit):
    """And decodes once a call there: of 10 calls of DDIM, at 0 to 0.9 of the schedule, those at 0.8 and 0.9."""
    calls = []

    class Counting:
        def __getattr__(self, name: str):
            return getattr(edit.vae, name)

        def decode(self, z: Tensor) -> Tensor:
            calls.append(len(z))
            return edit.vae.decode(z)

    sample(edit, 10, "ddim", "simple", mask=edit.mask, candidates=2, pixel_blend=0.25, vae=Counting(), pixels=edit.image)
    assert calls[-2:] == [2, 2] and len(calls) == 3, "first it draws a corner, to see the VAE's ratio"


def test_pixel_blend_takes_a_vae_that_says_a_wrong_ratio(edit):
    wrong = copy.copy(edit.vae)
    wrong.upscale_ratio, wrong.crop_input = 4, False
    options = {"mask": edit.mask, "pixel_blend": 0.5, "pixels": edit.image}
    assert torch.equal(sample(edit, 2, vae=wrong, **options), sample(edit, 2, vae=edit.vae, **options))


def test_pixel_blend_goes_with_a_schedule_and_a_batch_of_sources(edit):
    schedule = ProgressiveMaskDilate.execute(LatentMaskResize.execute(edit.mask, edit.latent).args[0]).args[0]
    latent = {"samples": torch.cat([edit.latent["samples"], edit.latent["samples"].flip(-1)])}
    pixels = torch.cat([edit.image, edit.image.flip(2)])
    out = sample(edit, 4, latent_image=latent, mask=edit.mask, mask_schedule=schedule, pixel_blend=0.5, vae=edit.vae, pixels=pixels, candidates=2, chunk_size=3)
    outside = (schedule.thin == 0)[0]
    assert torch.equal(out[..., outside], latent["samples"].repeat_interleave(2, 0)[..., outside])


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"pixels": torch.zeros(1, 64, 128, 3)}, "pixels are 128x64, but latent_image comes from a picture of 128x128"),
        ({"pixels": torch.zeros(2, 128, 128, 3)}, "pixels has 2 in its batch, but latent_image has 1"),
        ({"mask": None}, "which needs a mask: connect it"),
    ],
)
def test_pixel_blend_of_another_picture_is_refused(edit, change, sentence):
    given = {"mask": edit.mask, "vae": edit.vae, "pixels": edit.image} | change
    with pytest.raises(ValueError, match=sentence):
        sample(edit, pixel_blend=0.5, **given)


def test_a_late_start_keeps_the_scribbles_colour(edit):
    """A blue scribble under "a fox": the later the start, the bluer the result."""
    scribbled = edit.image.clone()
    scribbled[:, 48:96, 40:104] = torch.tensor([0.1, 0.2, 0.9])
    latent, inside = {"samples": edit.vae.encode(scribbled)}, edit.mask[0] > 0

    def distance(denoise: float, **options) -> float:
        picture = edit.vae.decode(sample(edit, 10, "ddim", latent_image=latent, mask=edit.mask, denoise=denoise, candidates=3, **options))
        return float((picture - scribbled)[:, inside].abs().mean())

    assert distance(1.0) > distance(0.6) > 2 * distance(0.2)
    assert distance(1.0, resample_steps=3) > distance(0.3, resample_steps=3)


@pytest.fixture
def bar(monkeypatch) -> list[tuple[int, int, bool]]:
    """What the host's progress bar is told: (value, total, with a preview), by any sampler; live previews are on."""
    told = []
    monkeypatch.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Latent2RGB)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, node_id=None: told.append((value, total, preview is not None)))
    return told


def test_progress_and_previews_are_those_of_the_hosts_ksampler(edit, bar):
    masked = LatentMaskResize.execute(edit.mask, edit.latent).args[1]
    host_nodes.KSampler().sample(edit.model, 5, 4, 4.0, "heun", "normal", edit.positive, edit.negative, masked, 1.0)
    theirs, bar[:] = list(bar), []
    sample(edit, 4, "heun", mask=edit.mask)
    assert bar == theirs and all(preview for _, _, preview in bar)


@pytest.mark.parametrize("resample, total", [(0, 4 * 5), (2, 6 * 5)])
def test_progress_goes_on_over_the_candidates_and_the_jumps_back(edit, bar, resample, total):
    sample(edit, 4, mask=edit.mask, candidates=5, chunk_size=2, resample_steps=resample)
    values = [value for value, _, _ in bar]
    assert values == sorted(values) and values[-1] == total and {of for _, of, _ in bar} == {total}


@pytest.mark.parametrize("options", [{}, {"resample_steps": 2}, {"candidates": 3, "chunk_size": 1}])
def test_after_cancel_the_next_run_is_clean(edit, monkeypatch, options):
    expected = sample(edit, 5, mask=edit.mask, **options)

    def cancel(value: int, total: int, preview, node_id=None) -> None:
        if value >= 3:
            comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    with monkeypatch.context() as cancelling:
        cancelling.setattr(latent_preview.args, "preview_method", LatentPreviewMethod.Latent2RGB)  # a bar without pictures leaves steps out
        cancelling.setattr(comfy.utils, "PROGRESS_BAR_HOOK", cancel)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(edit, 5, mask=edit.mask, **options)
    assert "denoise_mask_function" not in edit.model.model_options and not edit.model.wrappers
    assert torch.equal(sample(edit, 5, mask=edit.mask, **options), expected)


@pytest.mark.parametrize("count, painted, expected", [(1, 0, range(9)), (3, 1, range(1, 5)), (9, 2, [2]), (10, 2, [2])])
def test_the_mask_of_a_frame_blends_the_pixels_of_its_frames(count, painted, expected):
    """A video of 9 frames, 3 latent frames: a mask for all, one a latent frame, one a frame, and one too many as VAE Encode drops them."""
    mask = torch.zeros(count, 16, 16)
    mask[painted, 4:8, 4:8] = 1
    blend = blend_of(0.5, vae_of("wan"), torch.zeros(9, 16, 16, 3), mask, torch.zeros(1, 16, 3, 2, 2))
    of_frames = blend.mask.expand(1, 9, 16, 16, 1).amax((0, 2, 3, 4))
    assert of_frames.nonzero().flatten().tolist() == list(expected)


def test_references_in_a_list_follow_their_sources(edit):
    """As Reference Latent of the host keeps them."""
    references = [torch.tensor([[1.0], [2.0]])]
    (picked,), (same,) = of_rows([[[torch.zeros(1, 1), {"reference_latents": references}]], [[torch.zeros(1, 1), {}]]], [1, 1], 2, [2, 3], 4)
    assert picked[1]["reference_latents"][0].tolist() == [[2.0], [2.0]] and same[1] == {}
