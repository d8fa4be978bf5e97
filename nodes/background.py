"""The noise of a run: of the background at each step, of stochastic samplers, and of jumps back. Each candidate has its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import comfy.k_diffusion.sampling as k_diffusion
import comfy.samplers
import torch
from torch import Tensor

from ..bld.blending import NoiseDraws, noise_again
from ..bld.schedule import route, step_at
from .pruning import Race
from .sampling import factors

# Its step size follows the error of the whole batch, so that a candidate would depend on the others beside it.
WHOLE_BATCH_SAMPLERS = ("dpm_adaptive",)


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
        if denoise_mask is not None and self.step != step:
            # One draw a step, also for steps that a sampler leaves out, so that step i has draw i.
            for _ in range(max(1, step - self.step)):
                self.noise = self.draws.draw().to(self.noise)
            self.step = step
        return super().__call__(x, sigma, denoise_mask, model_options or {}, seed)


def sampler_noise(name: str, x: Tensor, sigmas: Tensor, seeds: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """The noise that the host's stochastic sampler `name` would draw for each candidate alone, of its seed, for a batch of them."""
    if name.startswith("dpmpp") and "_sde" in name:
        levels = sigmas[sigmas > 0]
        return k_diffusion.BrownianTreeNoiseSampler(x, levels.min(), levels.max(), seed=seeds, cpu=not name.endswith("_gpu"))
    each = [k_diffusion.default_noise_sampler(x[i : i + 1], seed=seed) for i, seed in enumerate(seeds)]
    return lambda sigma, sigma_next: torch.cat([one(sigma, sigma_next) for one in each])


def blending_sampler(
    name: str, seeds: list[int], draws: NoiseDraws, fresh: bool, resample_steps: int = 0, race: Race | None = None
) -> comfy.samplers.KSAMPLER:
    """One of the host's samplers by name, for candidates of these seeds.

    Args:
        seeds: one a candidate, for the sampler's own noise.
        draws: of the candidates, for all other noise; the start noise is drawn already.
        fresh: new background noise at each step; else the start noise at every step. (The host's own ddim would blend with a
            second noise, which moves the global random state and depends on the batch.)
        resample_steps: see `route`.
        race: drops candidates on the way.
    """
    sampler = comfy.samplers.sampler_object(name)
    stochastic = "noise_sampler" in inspect.signature(sampler.sampler_function).parameters

    def sample(model: comfy.samplers.KSamplerX0Inpaint, x: Tensor, sigmas: Tensor, callback: Callable[[dict], None], **options) -> Tensor:
        model_sampling, levels = model.inner_model.inner_model.model_sampling, sigmas.clone()
        def show(now: dict) -> None:
            # The live picture is the first of the batch: one that is still in the race.
            left = slice(None) if race is None else race.alive.to(x.device)
            callback({**now, "denoised": now["denoised"][left], "x": now["x"][left]})

        if race is not None:
            model.inner_model = race.of(model.inner_model, model.latent_image)
        if fresh:
            model = FreshBackground(model, draws)
        at = done = 0
        for start, end in route(len(levels) - 1, resample_steps):
            if start < at:
                x = noise_again(x, draws.draw().to(x), factors(model_sampling, levels[at]), factors(model_sampling, levels[start]))
            if stochastic:
                options["noise_sampler"] = sampler_noise(name, x, levels, seeds if done == 0 else draws.seeds())
            # uni_pc writes into the levels that it is given.
            part = levels[start : end + 1].clone()
            x = sampler.sampler_function(model, x, part, callback=lambda now, done=done: show({**now, "i": done + now["i"]}), **options)
            at, done = end, done + end - start
        return x

    return comfy.samplers.KSAMPLER(sample, sampler.extra_options)
