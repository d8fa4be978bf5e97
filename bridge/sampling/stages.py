"""Which mask each model call gets: the stage of a step, and the schedule as a patch of the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...bld.schedule import MaskSchedule, stage_at, step_at
from ..checks import check_batch
from ..comfy_internals import MaskFunction, Run, chain_mask_function, change_runs, mixing_factors
from ..latent_masks import fitted, noise_mask

KEY = "blended_latent_diffusion"


def stage_of_call(ends: list[float], sigma: Tensor, sigmas: Tensor, model_sampling) -> int:
    """The stage of a model call. Each stage but the last ends at a share of the schedule, as ComfyUI counts it (start_percent).

    The step that ends the sampling always has the last stage: with 4 steps, none may start low enough.
    """
    step = step_at(float(sigma.max()), sigmas)
    # uni_pc ends at 0.001 instead of 0.
    if sigmas[step + 1] <= float(model_sampling.sigma_min) * (1 + 1e-4):
        return len(ends)
    return stage_at(float(sigmas[step]), [float(model_sampling.percent_to_sigma(end)) for end in ends])


@dataclass(frozen=True, eq=False)
class ScheduledMask:
    """A `denoise_mask_function` of ComfyUI that gives each model call the mask of its stage.

    Attributes:
        schedule: its masks in the shape of a noise mask, or (S, B, h, w).
        previous: another patch's function. It works on our mask instead of being replaced. What our mask leaves out stays out:
            Differential Diffusion would let its last step change everything.
    """

    schedule: MaskSchedule
    previous: MaskFunction | None

    def __call__(self, sigma: Tensor, denoise_mask: Tensor, extra_options: dict) -> Tensor:
        stage = stage_of_call(self.schedule.ends, sigma, extra_options["sigmas"], extra_options["model"].inner_model.model_sampling)
        mask = noise_mask(self.schedule.masks[stage], denoise_mask).to(denoise_mask).expand_as(denoise_mask)
        return self.previous(sigma, mask, extra_options=extra_options) * (mask > 0) if self.previous else mask


def with_schedule(model: ModelPatcher, schedule: MaskSchedule, source: Tensor | None = None) -> ModelPatcher:
    """A clone of the model that samples under the schedule. Of two schedules, the later one counts; other mask functions are chained.

    source: (1 or N, C, ..., h, w), the background if it is not the latent that sampling starts from.
    """

    def start(run: Run) -> tuple[Tensor, Tensor, Tensor]:
        if run.nested:
            raise ValueError("The latent is nested (audio and video together), which a mask schedule doesn't support: sample without the schedule.")
        if run.latent.ndim < 4:
            raise ValueError("The latent is audio, which a mask schedule doesn't support: sample without the schedule.")
        patcher, noise, latent = run.guider.model_patcher, run.noise, run.latent
        chain_mask_function(run.guider, lambda previous: ScheduledMask(schedule, previous))
        thin = noise_mask(fitted(schedule, latent).thin, latent).to(patcher.load_device, noise.dtype)
        if source is not None:
            noise, latent = as_noise_over(source, noise, latent, float(run.sigmas[0]), patcher)
        # One channel for all: Kandinsky 5 feeds the mask to the network as it is.
        return noise, latent, thin.expand(len(noise), 1, *noise.shape[2:])

    return change_runs(model, KEY, start)


def as_noise_over(source: Tensor, noise: Tensor, latent: Tensor, sigma: float, patcher: ModelPatcher) -> tuple[Tensor, Tensor]:
    """The noise and latent of a run that starts at `sigma`, rewritten as another noise over the source: the start is the same, and
    the background is the source. Otherwise a latent with noise left in it from an earlier sampler would be the background itself.

    source: (1 or N, C, ..., h, w). Raises ValueError if it does not fit the latent.
    """
    if source.shape[1:] != latent.shape[1:]:
        raise ValueError(f"source has shape {list(source.shape)}, but the sampled latent has {list(latent.shape)}: connect the source of this latent.")
    check_batch(len(source), len(latent), "source", "the latent")
    model_sampling, inner = patcher.get_model_object("model_sampling"), patcher.model
    level = torch.tensor(sigma, device=latent.device)
    start = model_sampling.noise_scaling(level, noise.to(latent).float(), inner.process_latent_in(latent.float()))
    z_init = inner.process_latent_in(source.to(latent).float()).expand_as(start)
    signal, scale = mixing_factors(model_sampling, level)
    return (start - signal * z_init) / scale, source.to(latent).expand_as(latent)
