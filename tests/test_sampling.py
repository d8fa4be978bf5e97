"""Blended sampling on the small model: the paper's loop, the host's own sampler, and what a user counts on."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import nodes as host_nodes
import pytest
import torch
from comfy_extras.nodes_post_processing import BatchLatentsNode
from torch import Tensor

from blended_latent_diffusion.bridge.sampling import sampler as sampler_room
from blended_latent_diffusion.bridge.sampling.seeds import seeds_of
from blended_latent_diffusion.nodes.apply_mask_schedule import ApplyMaskSchedule
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from conftest import Edit

SEED, CFG = 5, 4.0
# float32 rounds differently in batches of different sizes, and the steps of a trained model carry that on: 3e-5 was seen.
ROUNDING = 1e-4


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As in a running workflow."""
    with torch.inference_mode():
        yield


def draw(edit: Edit, steps: int = 6, sampler: str = "ddim", scheduler: str = "ddim_uniform", **options) -> tuple[dict, list[int]]:
    """The candidates and their seeds."""
    given = {"seed": SEED, "latent_image": edit.latent, "model": edit.model, "positive": edit.positive, "negative": edit.negative} | options
    return BlendedLatentKSampler.execute(steps=steps, cfg=CFG, sampler_name=sampler, scheduler=scheduler, **given).args


def sample(edit: Edit, *args, **options) -> dict:
    return draw(edit, *args, **options)[0]


def apart(edit: Edit, one: Tensor, other: Tensor) -> float:
    """The largest difference, in the units of the model's latents, which have a deviation of about 1."""
    return float((edit.model.model.process_latent_in(one) - edit.model.model.process_latent_in(other)).abs().max())


def shrinking(edit: Edit, **options):
    """The paper's, unless the options say otherwise."""
    small = LatentMaskResize.execute(edit.mask, edit.latent).args[0]
    return ProgressiveMaskDilate.execute(small, **{"stages": 3, "takeover": 0.78, **options}).args[0]


def papers_loop(edit: Edit, masks: list[Tensor], denoise: float) -> Tensor:
    """DDIM with eta 0 in the variance-preserving form of the paper, written without the host's samplers.

    masks: one (h, w) a step; each step blends at its own level and then denoises, and the last blend is at level 0.
    """
    comfy.model_management.load_models_gpu([edit.model])
    model = edit.model.model
    sigmas = comfy.samplers.calculate_sigmas(model.model_sampling, "ddim_uniform", int(len(masks) / denoise))[-len(masks) - 1 :]
    alphas = (1 / (1 + sigmas.double() ** 2)).tolist()
    z_init = model.process_latent_in(edit.latent["samples"]).double()
    device = edit.model.load_device
    generator = torch.Generator().manual_seed(SEED)

    def draw() -> Tensor:
        return torch.randn(z_init.shape[1:], generator=generator)[None].double()

    def predict(z: Tensor, alpha: float, sigma: Tensor) -> Tensor:
        x = (z / alpha**0.5).float().to(device)
        predictions = (model.apply_model(x, sigma[None].to(device), c_crossattn=c[0][0].to(device)) for c in (edit.positive, edit.negative))
        cond, uncond = (prediction.double().cpu() for prediction in predictions)
        return uncond + CFG * (cond - uncond)

    noise = draw()
    z = alphas[0] ** 0.5 * z_init + (1 - alphas[0]) ** 0.5 * noise
    for step, m in enumerate(masks):
        alpha, following = alphas[step], alphas[step + 1]
        if step:
            noise = draw()
        z = z * m + (alpha**0.5 * z_init + (1 - alpha) ** 0.5 * noise) * (1 - m)
        z_0 = predict(z, alpha, sigmas[step])
        epsilon = (z - alpha**0.5 * z_0) / (1 - alpha) ** 0.5
        z = following**0.5 * z_0 + (1 - following) ** 0.5 * epsilon
    z = z * masks[-1] + z_init * (1 - masks[-1])
    return model.process_latent_out(z).float()


@pytest.mark.parametrize("denoise", [1.0, 0.75])
@pytest.mark.parametrize("stages", [0, 3])
def test_paper_mode_is_the_papers_loop(edit, stages, denoise):
    schedule, steps = shrinking(edit, stages=stages), 10
    result = sample(edit, steps, mask_schedule=schedule, denoise=denoise)["samples"]
    used = stages_of_ddim(steps, denoise, [0.26, 0.52, 0.78][:stages])
    expected = papers_loop(edit, [schedule.masks[stage, 0].double() for stage in used], denoise)
    assert apart(edit, result, expected) < 1e-4


def stages_of_ddim(steps: int, denoise: float, ends: list[float]) -> list[int]:
    """The stage of each step, from the timesteps 1, 1 + spacing, ... of 999 at which DDIM calls the model."""
    spacing = 1000 // int(steps / denoise)
    shares = [1 - (1 + spacing * (steps - 1 - step)) / 999 for step in range(steps)]
    return [sum(share >= end for end in ends) for share in shares[:-1]] + [len(ends)]


def stages_seen(edit: Edit, run) -> list[tuple[float, int]]:
    """(noise level, stage) of each model call of run(model), the model being patched with four constant masks, 0.1 to 0.4 strong."""
    masks = torch.tensor([0.1, 0.2, 0.3, 0.4])[:, None, None, None].expand(4, 1, 16, 16)
    seen = []

    def watch(sigma, mask, extra_options):
        seen.append((float(sigma[0]), round(float(mask.mean()) * 10) - 1))
        return mask

    watched = edit.model.clone()
    watched.set_model_denoise_mask_function(watch)
    run(ApplyMaskSchedule.execute(watched, SimpleNamespace(masks=masks, shares=shrinking(edit).shares)).args[0])
    return seen


def host_sampler(edit: Edit, steps: int, sampler: str, scheduler: str, **options):
    return lambda model: host_nodes.KSampler().sample(
        model, SEED, steps, CFG, sampler, scheduler, edit.positive, edit.negative, edit.latent, **options
    )


@pytest.mark.promise("mask-shrinks")
def test_the_papers_settings_give_stages_of_13_13_13_and_11_steps(edit):
    seen = stages_seen(edit, host_sampler(edit, 50, "ddim", "ddim_uniform"))
    assert [stage for _, stage in seen] == [0] * 13 + [1] * 13 + [2] * 13 + [3] * 11


@pytest.mark.parametrize("sampler", ["heun", "dpm_2", "dpmpp_2m"])
@pytest.mark.parametrize("scheduler", ["normal", "karras"])
def test_a_stage_depends_on_the_noise_level_alone(edit, sampler, scheduler):
    """At the same level a late start has the stage of the whole run, however many calls a step has."""
    whole = stages_seen(edit, host_sampler(edit, 12, sampler, scheduler))
    late = stages_seen(edit, host_sampler(edit, 6, sampler, scheduler, denoise=0.5))
    ends = [edit.model.model.model_sampling.percent_to_sigma(end) for end in (0.26, 0.52, 0.78)]
    for sigma, stage in whole[:-2] + late[:-2]:
        lowest = sum(sigma <= end * 1.001 for end in ends)
        assert stage in (lowest, lowest - (sampler != "dpmpp_2m")), "a second call inside a step has the stage of its step"
    assert whole[-1][1] == late[-1][1] == 3
    assert dict(late).items() <= dict(whole).items()


def test_a_run_split_over_two_advanced_samplers_has_the_stages_of_one(edit):
    def split(model):
        advanced = host_nodes.KSamplerAdvanced().sample
        half = advanced(model, "enable", SEED, 12, CFG, "euler", "normal", edit.positive, edit.negative, edit.latent, 0, 5, "enable")[0]
        advanced(model, "disable", SEED, 12, CFG, "euler", "normal", edit.positive, edit.negative, half, 5, 10000, "disable")

    assert stages_seen(edit, split) == stages_seen(edit, host_sampler(edit, 12, "euler", "normal"))


def test_a_split_run_that_knows_the_source_is_the_whole_run(edit):
    """The host alone takes the latent with noise left in it for the background; this noise would stay there."""
    schedule = shrinking(edit, stages=0)
    whole = host_sampler(edit, 12, "euler", "normal")(ApplyMaskSchedule.execute(edit.model, schedule).args[0])[0]["samples"]
    advanced, settings = host_nodes.KSamplerAdvanced().sample, (SEED, 12, CFG, "euler", "normal", edit.positive, edit.negative)
    first = ApplyMaskSchedule.execute(edit.model, schedule).args[0]
    half = advanced(first, "enable", *settings, edit.latent, 0, 5, "enable")[0]
    outside = (schedule.thin == 0).expand_as(whole)

    def second(**options) -> Tensor:
        patched = ApplyMaskSchedule.execute(edit.model, schedule, **options).args[0]
        return advanced(patched, "disable", *settings, half, 5, 10000, "disable")[0]["samples"]

    assert apart(edit, second() * outside, whole * outside) > 1, "or the host has changed and needs no help"
    assert apart(edit, second(source=edit.latent), whole) < 1e-2, "rounded once more on the way through the latent's own units"
    assert apart(edit, second(source=edit.latent) * outside, edit.latent["samples"] * outside) < 1e-6


def test_a_source_of_another_size_is_refused(edit):
    patched = ApplyMaskSchedule.execute(edit.model, shrinking(edit), {"samples": torch.zeros(1, 4, 8, 8)}).args[0]
    with pytest.raises(ValueError, match=r"source has shape \[1, 4, 8, 8\], but the sampled latent has \[1, 4, 16, 16\]"):
        host_sampler(edit, 2, "euler", "normal")(patched)


@pytest.mark.promise("dilated")
def test_the_thin_mask_has_the_last_step_however_few_there_are(edit):
    for steps in (1, 2, 3, 4):
        assert stages_seen(edit, host_sampler(edit, steps, "euler", "simple"))[-1][1] == 3


@pytest.mark.parametrize(
    "sampler, scheduler", [("euler", "normal"), ("dpmpp_2m", "karras"), ("heun", "simple"), ("uni_pc", "normal")]
)
def test_fixed_noise_without_shrinking_is_the_hosts_ksampler_bit_for_bit(edit, sampler, scheduler):
    ours = sample(edit, 5, sampler, scheduler, mask=edit.mask, background_noise="fixed")
    masked = LatentMaskResize.execute(edit.mask, edit.latent).args[1]
    theirs = host_nodes.KSampler().sample(edit.model, SEED, 5, CFG, sampler, scheduler, edit.positive, edit.negative, masked, 1.0)[0]
    reached = ours["noise_mask"].expand_as(ours["samples"]) > 0
    assert torch.equal(ours["samples"][reached], theirs["samples"][reached])


@pytest.mark.promise("latent-is-source", "sampled")
@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "heun", "dpm_2", "dpmpp_2m_sde", "dpmpp_sde", "lcm", "uni_pc"])
@pytest.mark.parametrize("noise", ["every step", "fixed"])
def test_the_background_is_exact(edit, sampler, noise):
    out = sample(edit, 4, sampler, "normal", mask_schedule=shrinking(edit), background_noise=noise)
    outside = (out["noise_mask"] == 0).expand_as(out["samples"])
    assert torch.equal(out["samples"][outside], edit.latent["samples"][outside])
    assert torch.isfinite(out["samples"]).all()
    assert (out["samples"] - edit.latent["samples"])[~outside].abs().mean() > 0.01, "the mask was not edited"


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "heun", "dpm_2", "dpmpp_2m_sde", "dpmpp_sde", "lcm", "uni_pc"])
def test_the_sampler_itself_comes_back_to_the_source(edit, sampler, monkeypatch):
    """Without the last, exact blend: it only removes what rounding leaves, and the noise of level 0.001 where uni_pc ends."""
    monkeypatch.setattr(sampler_room, "keep_background", lambda z, z_init, m: z)
    out = sample(edit, 4, sampler, "normal", mask_schedule=shrinking(edit))
    outside = (out["noise_mask"] == 0).expand_as(out["samples"])
    assert apart(edit, out["samples"] * outside, edit.latent["samples"] * outside) < 1e-2


def background_noises(edit: Edit, sampler: str, noise: str) -> list[Tensor]:
    """The noise over the unmasked latent at each model call: what the call saw, less the source."""
    seen = []

    def watch(executor, x, timestep, *args, **kwargs):
        inner = executor.class_obj.inner_model
        source = inner.process_latent_in(edit.latent["samples"]).to(x)
        seen.append(((x - source) / timestep.reshape(-1, 1, 1, 1))[..., 0, :].clone())
        return executor(x, timestep, *args, **kwargs)

    watched = edit.model.clone()
    watched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.PREDICT_NOISE, "watch", watch)
    sample(edit, 4, sampler, "normal", model=watched, mask=edit.mask, background_noise=noise)
    return seen


@pytest.mark.parametrize("sampler, shared", [("dpm_2", [True, False] * 3), ("heun", [False, True] * 3), ("euler", [False] * 3)])
def test_fresh_noise_is_fresh_at_every_step_and_shared_inside_a_step(edit, sampler, shared):
    """dpm_2 calls the model a second time between two levels, heun at the next one; neither does so in the last step."""
    seen = background_noises(edit, sampler, "every step")
    assert [torch.allclose(a, b, atol=1e-3) for a, b in zip(seen, seen[1:], strict=False)] == shared
    assert all(abs(float(noise.std()) - 1) < 0.3 for noise in seen)


def test_fixed_noise_stays(edit):
    seen = background_noises(edit, "euler", "fixed")
    assert all(torch.allclose(noise, seen[0], atol=1e-3) for noise in seen)


def test_a_candidate_is_the_same_alone_and_in_any_chunk(edit):
    latent, seeds = draw(edit, candidates=5, mask=edit.mask)
    together = latent["samples"]
    chunked = sample(edit, candidates=5, mask=edit.mask, chunk_size=2)["samples"]
    alone = sample(edit, seed=seeds[3], mask=edit.mask)["samples"]
    assert together.shape[0] == 5
    assert apart(edit, together, chunked) < ROUNDING
    assert apart(edit, together[3:4], alone) < ROUNDING
    assert (together[0] - together[1]).abs().max() > 0.1, "candidates differ"


@pytest.mark.promise("sampled")
def test_the_seeds_say_how_each_candidate_is_drawn_alone(edit):
    """Of two sources, too, whatever the number of candidates; and the first seed is the node's."""
    two = {"samples": torch.cat([edit.latent["samples"], edit.latent["samples"].flip(-1)])}
    latent, seeds = draw(edit, latent_image=two, candidates=3)
    alone = [
        sample(edit, latent_image={"samples": two["samples"][row : row + 1]}, seed=seeds[3 * row + i])["samples"] for row in range(2) for i in range(3)
    ]
    assert seeds[0] == SEED and len(set(seeds)) == 6
    assert apart(edit, latent["samples"], torch.cat(alone)) < ROUNDING
    assert draw(edit, latent_image=two, candidates=2)[1] == seeds[:2] + seeds[3:5]


def test_the_seeds_stay_with_their_latents_through_the_hosts_nodes(edit):
    latent, seeds = draw(edit, 1, candidates=4)
    (picked,) = host_nodes.LatentFromBatch().frombatch(latent, 1, 2)
    assert seeds_of(picked) == seeds[1:3]
    (masked,) = host_nodes.SetLatentNoiseMask().set_mask(picked, edit.mask)
    assert seeds_of(masked) == seeds[1:3]
    (repeated,) = host_nodes.RepeatLatentBatch().repeat(picked, 2)
    assert seeds_of(repeated) == seeds[1:3] * 2
    (batched,) = BatchLatentsNode.execute({"latent0": picked, "latent1": draw(edit, 1, seed=8, candidates=3)[0]}).args
    assert seeds_of(batched) == [*seeds[1:3], None, None, None], "the host keeps what it knows of the first alone"
    assert seeds_of({**latent, "samples": latent["samples"] * 2}) == [None] * 4 and seeds_of(edit.latent) == [None]


def test_a_batch_of_prompts_follows_its_sources_into_every_chunk(edit):
    """Two sources with a prompt each: what each source gets must not depend on how the candidates are cut."""
    latent = {"samples": edit.latent["samples"].repeat(2, 1, 1, 1)}
    both = [[torch.cat([edit.positive[0][0], edit.negative[0][0]]), {}]]
    one = sample(edit, latent_image=latent, candidates=2, chunk_size=1, positive=both)["samples"]
    whole = sample(edit, latent_image=latent, candidates=2, chunk_size=4, positive=both)["samples"]
    assert apart(edit, one, whole) < ROUNDING
    assert apart(edit, whole[:2], sample(edit, candidates=2)["samples"]) < ROUNDING, "the first source has the first prompt"


def test_a_schedule_of_another_pack_needs_masks_and_shares_only(edit):
    ours = shrinking(edit)
    theirs = SimpleNamespace(masks=ours.masks, shares=list(ours.shares))
    assert torch.equal(sample(edit, 4, mask_schedule=theirs)["samples"], sample(edit, 4, mask_schedule=ours)["samples"])


def test_a_batch_of_sources_with_a_mask_each(edit):
    latent = {"samples": torch.cat([edit.latent["samples"], edit.latent["samples"].flip(-1)])}
    mask = torch.cat([edit.mask, edit.mask.flip(-1)])
    out = sample(edit, latent_image=latent, mask=mask, candidates=2, chunk_size=3)
    assert out["samples"].shape[0] == 4 and out["noise_mask"].shape == (4, 1, 16, 16)
    outside = (out["noise_mask"] == 0).expand_as(out["samples"])
    assert torch.equal(out["samples"][outside], latent["samples"].repeat_interleave(2, 0)[outside])


def test_a_model_patched_with_a_schedule_does_the_same_in_the_hosts_ksampler(edit):
    schedule = shrinking(edit)
    patched = ApplyMaskSchedule.execute(edit.model, schedule).args[0]
    masked = LatentMaskResize.execute(edit.mask, edit.latent).args[1]
    theirs = host_nodes.KSampler().sample(patched, SEED, 8, CFG, "dpmpp_2m", "karras", edit.positive, edit.negative, masked, 1.0)[0]
    ours = sample(edit, 8, "dpmpp_2m", "karras", mask_schedule=schedule, background_noise="fixed")
    assert torch.allclose(theirs["samples"], ours["samples"], atol=1e-6)
    assert "denoise_mask_function" not in edit.model.model_options and not edit.model.wrappers, "the model passed in is untouched"
    bare = host_nodes.KSampler().sample(patched, SEED, 8, CFG, "dpmpp_2m", "karras", edit.positive, edit.negative, edit.latent, 1.0)[0]
    assert torch.equal(bare["samples"], theirs["samples"]), "the schedule counts without a noise mask, too"
    with pytest.raises(ValueError, match="made for a latent of 16x16, but the latent is 8x8"):
        host_nodes.KSampler().sample(patched, SEED, 2, CFG, "euler", "normal", edit.positive, edit.negative, {"samples": torch.zeros(1, 4, 8, 8)}, 1.0)


def test_of_two_schedules_the_later_one_counts(edit):
    earlier = ApplyMaskSchedule.execute(edit.model, ProgressiveMaskDilate.execute(torch.zeros(1, 16, 16), stages=0).args[0]).args[0]
    once, again = sample(edit, mask=edit.mask)["samples"], sample(edit, model=earlier, mask=edit.mask)["samples"]
    assert torch.equal(once, again)


def test_a_schedule_works_behind_an_earlier_mask_function(edit):
    """Shrinking first, then the earlier patch on our mask: here one that blanks it, so that nothing may change."""
    earlier = edit.model.clone()
    earlier.set_model_denoise_mask_function(lambda sigma, denoise_mask, extra_options: denoise_mask * 0)
    out = sample(edit, model=earlier, mask_schedule=shrinking(edit))
    assert torch.allclose(out["samples"], edit.latent["samples"], atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "euler_ancestral", "dpmpp_2m_sde"])
@pytest.mark.parametrize("noise", ["every step", "fixed"])
def test_sampling_moves_no_global_random_state(edit, sampler, noise):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    sample(edit, 2, sampler, "normal", mask=edit.mask, background_noise=noise)
    assert torch.equal(before, torch.get_rng_state())


def test_denoise_zero_returns_the_source(edit):
    assert torch.equal(sample(edit, mask=edit.mask, denoise=0.0)["samples"], edit.latent["samples"])


def test_one_step(edit):
    out = sample(edit, 1, mask_schedule=shrinking(edit))["samples"]
    inside = (shrinking(edit).thin > 0).expand_as(out)
    assert torch.isfinite(out).all() and torch.equal(out[~inside], edit.latent["samples"][~inside])
    assert (out - edit.latent["samples"])[inside].abs().mean() > 0.01


def test_an_empty_mask_changes_nothing_and_a_full_one_everything(edit):
    assert torch.equal(sample(edit, mask=torch.zeros_like(edit.mask))["samples"], edit.latent["samples"])
    full = sample(edit, mask=torch.ones_like(edit.mask))["samples"]
    assert ((full - edit.latent["samples"]).abs() > 0).float().mean() > 0.99


@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"mask": torch.full((1, 128, 128), float("nan"))}, "mask contains NaN"),
        ({"mask": torch.full((1, 128, 128), 2.0)}, "mask has values from 2 to 2, but they must lie between 0 and 1"),
        ({"mask": torch.zeros(3, 128, 128)}, "mask has 3 in its batch, but latent_image has 1"),
        ({"latent_image": {}}, "latent_image is not a latent: connect a LATENT"),
        ({"latent_image": {"samples": torch.zeros(1, 64, 100)}}, "latent_image is an audio latent: connect a latent of pictures or video"),
        ({"pixel_blend": 0.5}, "pixel_blend is 0.5, which needs vae and pixels and a mask: connect them, or set it to 0"),
        ({"resample_steps": 7}, "resample_steps is 7, but must be less than the 7 steps"),
    ],
)
def test_bad_input_gets_one_clear_sentence(edit, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample(edit, **change)


def test_mask_and_schedule_together_are_refused(edit):
    with pytest.raises(ValueError, match="both connected"):
        sample(edit, mask=edit.mask, mask_schedule=shrinking(edit))


def test_a_schedule_of_another_size_is_refused(edit):
    schedule = ProgressiveMaskDilate.execute(torch.ones(1, 8, 12)).args[0]
    with pytest.raises(ValueError, match="made for a latent of 12x8, but the latent is 16x16"):
        sample(edit, mask_schedule=schedule)


def test_a_mask_of_an_uncropped_picture_is_cropped_as_its_latent_was(edit):
    """133x133 pixels are encoded as the 128x128 in their middle."""
    mask = torch.zeros(1, 133, 133)
    mask[0, 2 + 40 : 2 + 48, 2 + 64 : 2 + 72] = 1
    out = sample(edit, 1, mask=mask)
    assert out["noise_mask"].sum() == 1 and out["noise_mask"][0, 0, 5, 8] == 1
