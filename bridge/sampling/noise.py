"""The noise of a run: of the background at each step, of stochastic samplers, and of jumps back. Each candidate has its own."""

from __future__ import annotations

from collections.abc import Callable

import comfy.samplers
from torch import Tensor

from ...bld.blending import NoiseDraws, noise_again
from ...bld.schedule import route, step_at
from ..comfy_internals import Blend, is_stochastic, mixing_factors, sampler_noise
from .pruning import Race

# Its step size follows the error of the whole batch, so a candidate would depend on the others beside it.
WHOLE_BATCH_SAMPLERS = ("dpm_adaptive",)


class FreshBackground(Blend):
    """ComfyUI's blend with new background noise at every step (paper, algorithm 1), shared by all model calls of a step.

    The first step keeps the noise that sampling starts from, so its blend changes next to nothing.
    """

    def __init__(self, model: comfy.samplers.KSamplerX0Inpaint, draws: NoiseDraws) -> None:
        super().__init__(model)
        self.draws = draws
        self.step = 0

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None, model_options: dict | None = None, seed: int | None = None) -> Tensor:
        step = step_at(float(sigma.max()), self.sigmas)
        if denoise_mask is not None and self.step != step:
            # One draw for each step, also for the steps that a sampler leaves out, so that step i has draw i.
            for _ in range(max(1, step - self.step)):
                self.noise = self.draws.draw().to(self.noise)
            self.step = step
        return super().__call__(x, sigma, denoise_mask, model_options or {}, seed)


def blending_sampler(
    name: str, seeds: list[int], draws: NoiseDraws, fresh: bool, resample_steps: int = 0, race: Race | None = None
) -> comfy.samplers.KSAMPLER:
    """One of ComfyUI's samplers by name, for candidates with these seeds.

    Args:
        seeds: one for each candidate, for the sampler's own noise.
        draws: the candidates' source of all other noise. The start noise is drawn already.
        fresh: whether each step has new background noise. If not, every step has the start noise. (ComfyUI's own ddim would blend
            with a second noise, which moves the global random state and depends on the batch.)
        resample_steps: see `route`.
        race: drops candidates on the way.
    """
    sampler = comfy.samplers.sampler_object(name)
    stochastic = is_stochastic(sampler)

    def sample(model: comfy.samplers.KSamplerX0Inpaint, x: Tensor, sigmas: Tensor, callback: Callable[[dict], None], **options) -> Tensor:
        blend, levels = FreshBackground(model, draws) if fresh else Blend(model), sigmas.clone()
        model_sampling = blend.model_sampling
        if race is not None:
            blend.inner_model = race.of(blend.inner_model, blend.latent_image)

        at = done = 0
        for start, end in route(len(levels) - 1, resample_steps):
            if start < at:
                x = noise_again(x, draws.draw().to(x), mixing_factors(model_sampling, levels[at]), mixing_factors(model_sampling, levels[start]))
            if stochastic:
                options["noise_sampler"] = sampler_noise(name, x, levels, seeds if done == 0 else draws.seeds())
            # uni_pc writes into the sigmas that it is given.
            part = levels[start : end + 1].clone()
            x = sampler.sampler_function(blend, x, part, callback=lambda now, done=done: callback({**now, "i": done + now["i"]}), **options)
            at, done = end, done + end - start
        return x

    return comfy.samplers.KSAMPLER(sample, sampler.extra_options)
