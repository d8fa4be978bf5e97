"""Where the method meets the host's samplers: the mask of a model call and the noise of its background.

The host already blends at every model call (`comfy.samplers.KSamplerX0Inpaint`): before the call with the source noised to the
call's level, after it with the source itself, and through the model's own `scale_latent_inpaint`, so that every family of models
keeps its own way of noising. The method only chooses which mask and which noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import comfy.patcher_extension
import comfy.samplers
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..bld.blending import NoiseDraws
from ..bld.schedule import MaskSchedule, step_at
from .checks import check_batch

KEY = "blended_latent_diffusion"


def noise_mask(mask: Tensor, samples: Tensor) -> Tensor:
    """(B, h, w) as the host's samplers want it beside samples (B, C, ..., h, w): (B, 1, ..., h, w)."""
    return mask.reshape(len(mask), *[1] * (samples.ndim - 3), *mask.shape[1:])


def check_size(schedule: MaskSchedule, samples: Tensor) -> None:
    """Raises ValueError for a schedule of another size or batch than the latent that is sampled."""
    (height, width), size = schedule.thin.shape[-2:], samples.shape[-2:]
    if (height, width) != tuple(size):
        raise ValueError(
            f"mask_schedule was made for a latent of {width}x{height}, but the latent is {size[1]}x{size[0]}: make it with Latent Mask Resize."
        )
    check_batch(len(schedule.thin), len(samples), "mask_schedule", "the latent")


@dataclass(frozen=True, eq=False)
class ScheduledMask:
    """A `denoise_mask_function` of the host that gives each model call the mask of its step.

    previous: another patch's function, which then works on our mask instead of being replaced.
    """

    schedule: MaskSchedule
    previous: Callable[..., Tensor] | None

    def __call__(self, sigma: Tensor, denoise_mask: Tensor, extra_options: dict) -> Tensor:
        sigmas = extra_options["sigmas"]
        stage = self.schedule.at(step_at(float(sigma.max()), sigmas), len(sigmas) - 1)
        mask = noise_mask(stage, denoise_mask).to(denoise_mask).expand_as(denoise_mask)
        return self.previous(sigma, mask, extra_options=extra_options) if self.previous else mask

    def sample(self, executor: Callable[..., Tensor], noise: Tensor, latent_image: Tensor, sampler, sigmas: Tensor, denoise_mask=None, *args, **kwargs):
        """A wrapper of the host's sampling: the schedule is checked, and counts also where the latent has no noise mask."""
        check_size(self.schedule, latent_image)
        if denoise_mask is None:
            device = executor.class_obj.model_patcher.load_device
            denoise_mask = noise_mask(self.schedule.thin, latent_image).to(device, noise.dtype).expand_as(noise)
        return executor(noise, latent_image, sampler, sigmas, denoise_mask, *args, **kwargs)


def with_schedule(model: ModelPatcher, schedule: MaskSchedule) -> ModelPatcher:
    """A clone of the model that samples under the schedule. Of two schedules the later one counts; other mask functions are chained."""
    previous = model.model_options.get("denoise_mask_function")
    if isinstance(previous, ScheduledMask):
        previous = previous.previous
    patched, mask = model.clone(), ScheduledMask(schedule, previous)
    patched.set_model_denoise_mask_function(mask)
    patched.remove_wrappers_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY)
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, mask.sample)
    return patched


class FreshBackground(comfy.samplers.KSamplerX0Inpaint):
    """The host's blend with new background noise at every step (paper, algorithm 1), shared by all model calls of a step.

    The first step has the noise that sampling starts from, so that its blend changes next to nothing.
    """

    def __init__(self, model: comfy.samplers.KSamplerX0Inpaint, draws: NoiseDraws) -> None:
        super().__init__(model.inner_model, model.sigmas)
        self.latent_image = model.latent_image
        self.noise = model.noise
        self.draws = draws
        self.step = 0

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None, model_options: dict | None = None, seed: int | None = None) -> Tensor:
        step = step_at(float(sigma.max()), self.sigmas)
        while denoise_mask is not None and self.step < step:
            self.noise = self.draws.draw().to(self.noise)
            self.step += 1
        return super().__call__(x, sigma, denoise_mask, model_options or {}, seed)


def blending_sampler(name: str, draws: NoiseDraws | None) -> comfy.samplers.KSAMPLER:
    """One of the host's samplers by name, blending with fresh background noise from `draws`, or with its start noise at every step.

    The host's own ddim would blend with a second noise, which moves the global random state and depends on the batch.
    """
    sampler = comfy.samplers.sampler_object(name)
    if draws is None:
        return comfy.samplers.KSAMPLER(sampler.sampler_function, sampler.extra_options)

    def sample(model: comfy.samplers.KSamplerX0Inpaint, x: Tensor, sigmas: Tensor, **options) -> Tensor:
        return sampler.sampler_function(FreshBackground(model, draws), x, sigmas, **options)

    return comfy.samplers.KSAMPLER(sample, sampler.extra_options)


def of_rows(conditioning: list, rows: list[int], sources: int, chunk: list[int], total: int) -> list:
    """The conditioning of a chunk of the candidates. The host would give a batch of prompts to each chunk from its start.

    rows: for each candidate of the chunk its source. What is batched as the sources or as all candidates is picked accordingly;
    the rest, and what is the same for all, stays.
    """

    def pick(value):
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == 1:
            return value
        return value[chunk] if len(value) == total else value[rows] if len(value) == sources else value

    return [[pick(cond), {key: pick(value) for key, value in options.items()}] for cond, options in conditioning]


def as_schedule(value) -> MaskSchedule:
    """A MASK_SCHEDULE as ours, checked: another pack's needs no more than `masks` and `shares`."""
    return MaskSchedule(value.masks, tuple(value.shares))
