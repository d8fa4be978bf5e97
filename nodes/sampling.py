"""Where the method meets the host's samplers: the mask of a model call and the noise of its background.

The host already blends at every model call (`comfy.samplers.KSamplerX0Inpaint`): before the call with the source noised to the
call's level, after it with the source itself, and through the model's own `scale_latent_inpaint`, so that every family of models
keeps its own way of noising. The method only chooses which mask and which noise.
"""

from __future__ import annotations

from collections.abc import Callable

import comfy.samplers
from torch import Tensor

from ..bld.blending import NoiseDraws
from ..bld.schedule import MaskSchedule, step_at

MaskFunction = Callable[..., Tensor]


def mask_function(schedule: MaskSchedule, previous: MaskFunction | None = None) -> MaskFunction:
    """A `denoise_mask_function` of the host that gives each model call the mask of its step.

    previous: an earlier patch's function, which then works on our mask instead of being replaced.
    """

    def mask_at(sigma: Tensor, denoise_mask: Tensor, extra_options: dict) -> Tensor:
        sigmas = extra_options["sigmas"]
        stage = schedule.at(step_at(float(sigma.max()), sigmas), len(sigmas) - 1)
        stage = stage.reshape(len(stage), *[1] * (denoise_mask.ndim - 3), *stage.shape[1:])
        mask = stage.to(denoise_mask).expand_as(denoise_mask)
        return previous(sigma, mask, extra_options=extra_options) if previous else mask

    return mask_at


class FreshBackground(comfy.samplers.KSamplerX0Inpaint):
    """The host's blend with new background noise at every step (paper, algorithm 1), shared by all model calls of a step.

    The first step has the noise that sampling starts from, so that its blend changes nothing.
    """

    def __init__(self, model: comfy.samplers.KSamplerX0Inpaint, noise: Tensor, draws: NoiseDraws) -> None:
        super().__init__(model.inner_model, model.sigmas)
        self.latent_image = model.latent_image
        self.noise = noise
        self.draws = draws
        self.step = 0

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None, model_options: dict | None = None, seed: int | None = None) -> Tensor:
        step = step_at(float(sigma.max()), self.sigmas)
        while self.step < step:
            self.noise = self.draws.draw().to(self.noise)
            self.step += 1
        return super().__call__(x, sigma, denoise_mask, model_options or {}, seed)


def with_fresh_background(sampler: comfy.samplers.KSAMPLER, noise: Tensor, draws: NoiseDraws) -> comfy.samplers.KSAMPLER:
    """The same sampler, blending with fresh background noise. noise: the start noise, (B, C, ..., h, w)."""

    def sample(model: comfy.samplers.KSamplerX0Inpaint, x: Tensor, sigmas: Tensor, **options) -> Tensor:
        return sampler.sampler_function(FreshBackground(model, noise.to(x), draws), x, sigmas, **options)

    return comfy.samplers.KSAMPLER(sample, sampler.extra_options)
