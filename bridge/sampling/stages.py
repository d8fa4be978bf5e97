"""Which mask each model call gets: the stage of a step, and the schedule as a patch of the model."""

from __future__ import annotations

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...bld.schedule import ROUNDING, MaskSchedule, stage_at, step_at
from ..checks import check_batch
from ..comfy_internals import MaskFunction, Run, Told, chain_mask_function, change_runs, mixing_factors
from ..latent_masks import fitted

KEY = "blended_latent_diffusion"


def stage_of_call(ends: list[float], sigma: Tensor, sigmas: Tensor, model_sampling) -> int:
    """The stage of a model call. Each stage but the last ends at a share of the schedule, as ComfyUI counts it (start_percent).

    The step that ends the sampling always has the last stage: with 4 steps, none may start low enough.
    """
    step = step_at(float(sigma.max()), sigmas)
    # uni_pc ends at 0.001 instead of 0.
    if sigmas[step + 1] <= float(model_sampling.sigma_min) * (1 + ROUNDING):
        return len(ends)
    return stage_at(float(sigmas[step]), [float(model_sampling.percent_to_sigma(end)) for end in ends])


def stages_of_steps(ends: list[float], sigmas: Tensor, model_sampling) -> list[int]:
    """The stage of each step of a run. Args: as of `stage_of_call`."""
    return [stage_of_call(ends, sigma, sigmas, model_sampling) for sigma in sigmas[:-1]]


def ends_of_stages(ends: list[float], sigmas: Tensor, model_sampling) -> list[float]:
    """The noise level of the first step that is past each stage but the last, descending. A call at this level or below is past it, too.

    Args: as of `stage_of_call`.
    """
    stages = stages_of_steps(ends, sigmas, model_sampling)
    return [next((float(sigma) for sigma, of_step in zip(sigmas, stages, strict=False) if of_step > stage), 0.0) for stage in range(len(ends))]


class ScheduledMask:
    """A `denoise_mask_function` of ComfyUI that gives each model call the mask of its stage.

    The masks lie on the device, and each call picks its own there, by its level. So nothing waits for the device.
    """

    def __init__(self, schedule: MaskSchedule, run: Run, told: Told, previous: MaskFunction | None) -> None:
        """
        schedule: its masks in the shape of noise masks, (S, 1 or B, 1, ..., h, w).
        told: what the model is told of each call's mask.
        previous: another patch's function. It works on our mask instead of being replaced. What our mask leaves out stays out:
            Differential Diffusion would let its last step change everything.
        """
        patcher = run.guider.model_patcher
        levels = ends_of_stages(schedule.ends, run.sigmas.cpu(), patcher.get_model_object("model_sampling"))
        device = patcher.load_device
        # Ascending, as bucketize needs them: the thin mask comes first.
        self.levels = torch.tensor(levels[::-1], device=device) * (1 + ROUNDING)
        self.masks = schedule.masks.flip(0).flatten(0, 1).to(device, torch.float32)
        self.rows = torch.arange(schedule.masks.shape[1], device=device)
        self.told, self.previous = told, previous

    def __call__(self, sigma: Tensor, denoise_mask: Tensor, extra_options: dict) -> Tensor:
        stage = torch.bucketize(sigma.contiguous(), self.levels)
        mask = self.masks.index_select(0, torch.add(self.rows, stage, alpha=len(self.rows)))
        if self.previous is not None:
            mask = self.previous(sigma, mask.expand_as(denoise_mask), extra_options=extra_options) * (mask > 0)
        # One mask may stand for all frames of a video, but the model is told of each.
        told = mask if mask.shape[2:] == denoise_mask.shape[2:] else mask.expand(-1, -1, *denoise_mask.shape[2:])
        self.told.tell(extra_options["model"], told)
        return mask


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
        of_run = fitted(schedule, latent)
        chain_mask_function(run.guider, lambda previous: ScheduledMask(of_run, run, told, previous))
        thin = of_run.thin.to(patcher.load_device, noise.dtype)
        if source is not None:
            noise, latent = as_noise_over(source, noise, latent, float(run.sigmas[0]), patcher)
        # One channel for all: Kandinsky 5 feeds the mask to the network as it is.
        return noise, latent, thin.expand(len(noise), 1, *noise.shape[2:])

    patched = change_runs(model, KEY, start)
    told = Told(patched)
    return patched


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
