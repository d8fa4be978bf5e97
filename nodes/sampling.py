"""Where the method meets the host's samplers: the mask of a model call.

The host already blends at every model call (`comfy.samplers.KSamplerX0Inpaint`): before the call with the source noised to the
call's level, after it with the source itself, and through the model's own `scale_latent_inpaint`, so that every family of models
keeps its own way of noising. The method only chooses which mask and (`background.py`) which noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.model_management
import comfy.patcher_extension
import comfy.sampler_helpers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..bld.schedule import MaskSchedule, stage_at, step_at
from .checks import check_batch

KEY = "blended_latent_diffusion"


def noise_mask(mask: Tensor, samples: Tensor) -> Tensor:
    """(B, h, w) as the host's samplers want it beside samples (N, C, ..., h, w): (1 or N, 1, ..., h, w). One in that shape stays.

    Beside a video of T latent frames a multiple of T masks is one a frame.
    """
    if mask.ndim == samples.ndim:
        return mask
    if samples.ndim == 4:
        return mask[:, None]
    frames = samples.shape[2] if len(mask) % samples.shape[2] == 0 else 1
    return mask.reshape(-1, 1, frames, *mask.shape[-2:])


def fitted(schedule: MaskSchedule, samples: Tensor, name: str = "mask_schedule") -> MaskSchedule:
    """The schedule in the shape of the samples (N, C, ..., h, w): its masks are (S, 1 or N, 1, ..., h, w).

    Raises ValueError for a schedule of another size or batch than the samples.
    """
    (height, width), size = schedule.thin.shape[-2:], samples.shape[-2:]
    if (height, width) != tuple(size):
        raise ValueError(
            f"{name} was made for a latent of {width}x{height}, but the latent is {size[1]}x{size[0]}: make it with Latent Mask Resize."
        )
    masks = torch.stack([noise_mask(mask, samples) for mask in schedule.masks])
    check_batch(masks.shape[1], len(samples), name, "the latent" if samples.ndim == 4 else f"the latent, of {samples.shape[2]} frames,")
    return replace(schedule, masks=masks)


def stage_of_call(ends: list[float], sigma: Tensor, sigmas: Tensor, model_sampling) -> int:
    """The stage of a model call, where each stage but the last ends at a share of the schedule as the host counts it (start_percent).

    The step that ends the sampling is always of the last stage: of 4 steps none may start low enough.
    """
    step = step_at(float(sigma.max()), sigmas)
    # uni_pc ends at 0.001 instead of 0.
    if sigmas[step + 1] <= float(model_sampling.sigma_min) * (1 + 1e-4):
        return len(ends)
    return stage_at(float(sigmas[step]), [float(model_sampling.percent_to_sigma(end)) for end in ends])


@dataclass(frozen=True, eq=False)
class ScheduledMask:
    """A `denoise_mask_function` of the host that gives each model call the mask of its stage.

    previous: another patch's function, which then works on our mask instead of being replaced. What our mask leaves out stays out:
        Differential Diffusion would let its last step change everything.
    """

    schedule: MaskSchedule
    previous: Callable[..., Tensor] | None

    def __call__(self, sigma: Tensor, denoise_mask: Tensor, extra_options: dict) -> Tensor:
        stage = stage_of_call(self.schedule.ends, sigma, extra_options["sigmas"], extra_options["model"].inner_model.model_sampling)
        mask = noise_mask(self.schedule.masks[stage], denoise_mask).to(denoise_mask).expand_as(denoise_mask)
        return self.previous(sigma, mask, extra_options=extra_options) * (mask > 0) if self.previous else mask


@dataclass(frozen=True, eq=False)
class Scheduled:
    """A wrapper of the host's sampling (OUTER_SAMPLE): the schedule is checked, and its thin mask is the mask of the sampling.

    source: (1 or N, C, ..., h, w), the background where it is not the latent that sampling starts from.
    """

    schedule: MaskSchedule
    source: Tensor | None = None

    def __call__(self, executor: Callable[..., Tensor], noise: Tensor, latent_image: Tensor, sampler, sigmas: Tensor, denoise_mask=None, *args, **kwargs):
        if len(kwargs.get("latent_shapes") or ()) > 1:
            raise ValueError("the latent is nested (audio and video together), which a mask schedule cannot cover: sample without it.")
        if latent_image.ndim < 4:
            raise ValueError("the latent is audio, which a mask schedule cannot cover: sample without it.")
        guider = executor.class_obj
        # The host's copy for this sampling: here, so that the order of the patches in the workflow does not matter.
        guider.model_options["denoise_mask_function"] = ScheduledMask(self.schedule, guider.model_options.get("denoise_mask_function"))
        thin = noise_mask(fitted(self.schedule, latent_image).thin, latent_image).to(guider.model_patcher.load_device, noise.dtype)
        if self.source is not None:
            noise, latent_image = as_noise_over(self.source, noise, latent_image, float(sigmas[0]), guider.model_patcher)
        # One channel for all: Kandinsky 5 feeds the mask to the network as it is.
        return executor(noise, latent_image, sampler, sigmas, thin.expand(len(noise), 1, *noise.shape[2:]), *args, **kwargs)


def as_noise_over(source: Tensor, noise: Tensor, latent: Tensor, sigma: float, patcher: ModelPatcher) -> tuple[Tensor, Tensor]:
    """Noise and latent to start from at level `sigma`, told as another noise over the source: the same start, with the source as its
    background. A latent with noise left in it, from an earlier sampler, would else be the background itself.

    source: (1 or N, C, ..., h, w). Raises ValueError where it does not fit the latent.
    """
    if source.shape[1:] != latent.shape[1:]:
        raise ValueError(f"source had shape {list(source.shape)}, must be as the latent that is sampled, {list(latent.shape)}.")
    check_batch(len(source), len(latent), "source", "the latent")
    model_sampling, inner = patcher.get_model_object("model_sampling"), patcher.model
    level = torch.tensor(sigma, device=latent.device)
    start = model_sampling.noise_scaling(level, noise.to(latent).float(), inner.process_latent_in(latent.float()))
    z_init = inner.process_latent_in(source.to(latent).float()).expand_as(start)
    signal, scale = factors(model_sampling, level)
    return (start - signal * z_init) / scale, source.to(latent).expand_as(latent)


def factors(model_sampling, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(signal, noise) at a level: how the model's family mixes the two."""
    zero, one = sigma.new_zeros(1), sigma.new_ones(1)
    return model_sampling.noise_scaling(sigma, zero.clone(), one.clone()), model_sampling.noise_scaling(sigma, one.clone(), zero.clone())


def bring_back(patcher: ModelPatcher, conds: dict[str, list], shape: torch.Size) -> None:
    """Loads the diffusion model again, and what the conditioning needs: another model, used between two calls, may have pushed it out."""
    others, memory = comfy.sampler_helpers.get_additional_models(conds, patcher.model.get_dtype())
    others += comfy.sampler_helpers.get_additional_models_from_model_options(patcher.model_options) + patcher.get_nested_additional_models()
    comfy.model_management.load_models_gpu([patcher, *others], memory_required=memory + patcher.model.memory_required(list(shape)))


def with_schedule(model: ModelPatcher, schedule: MaskSchedule, source: Tensor | None = None) -> ModelPatcher:
    """A clone of the model that samples under the schedule. Of two schedules the later one counts; other mask functions are chained."""
    patched = model.clone()
    patched.remove_wrappers_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY)
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, KEY, Scheduled(schedule, source))
    return patched


def as_schedule(value) -> MaskSchedule:
    """A MASK_SCHEDULE as ours, checked: another pack's needs no more than `masks` and `shares`."""
    return MaskSchedule(value.masks, tuple(value.shares))
