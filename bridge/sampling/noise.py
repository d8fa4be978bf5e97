"""The noise of a run: of the background at each step, of stochastic samplers, and of jumps back. Each candidate has its own."""

from __future__ import annotations

from collections.abc import Callable

import comfy.samplers
import torch
from torch import Tensor

from ...bld.blending import NoiseDraws, fresh_noise_gain, noise_again
from ...bld.schedule import ROUNDING, route
from ..comfy_internals import Blend, is_stochastic, mixing_factors, sampler_noise
from .replay import Replay, Stopped, random_state_kept


class FreshBackground(Blend):
    """ComfyUI's blend with new background noise at every step (paper, algorithm 1), shared by all model calls of a step.

    The noises of the current step and of the next one lie on the device, and each call picks its own there, by its level. So nothing
    waits for the device. (Where a sampler looks two steps ahead, as heunpp2 does, or calls at levels of its own, as dpm_adaptive does, the
    noise still changes with each of its steps.) The first step has the noise that sampling starts from; all others are independent of it (`fresh_noise_gain`).
    """

    def __init__(self, model: comfy.samplers.KSamplerX0Inpaint, draws: NoiseDraws, levels: Tensor, stochastic: bool) -> None:
        """
        levels: the sigmas of the run, (steps + 1,).
        stochastic: whether the sampler adds noise of its own.
        """
        super().__init__(model)
        self.draws, self.stochastic = draws, stochastic
        # One for each step: the levels below which a call belongs to a later one.
        self.ends = [*levels[1:] * (1 + ROUNDING)]
        self.start = self.now = self.noise
        self.next, self.step = self.fresh(), 0

    def fresh(self) -> Tensor:
        return self.draws.draw().to(self.start)

    def go_to(self, step: int) -> None:
        if step != self.step:
            self.now = self.next if step == self.step + 1 else self.fresh()
            self.next, self.step = self.fresh(), step
        if self.now is self.start and self.stochastic:
            # After the first call, what is sampled no longer has the start noise alone.
            self.now = self.next

    def __call__(self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None, model_options: dict | None = None, seed: int | None = None) -> Tensor:
        options = model_options or {}
        if denoise_mask is not None:
            denoise_mask, options = self.mask_of_call(sigma, denoise_mask, options)
            gain, now = fresh_noise_gain(denoise_mask), sigma[0] > self.ends[min(self.step, len(self.ends) - 1)]
            if self.now is self.start:
                self.noise = torch.where(now, self.now, self.next * gain)
            else:
                self.noise = torch.where(now, self.now, self.next) * gain
        return super().__call__(x, sigma, denoise_mask, options, seed)


def blending_sampler(name: str, seeds: list[int], draws: NoiseDraws, fresh: bool, resample_steps: int, replay: Replay) -> comfy.samplers.KSAMPLER:
    """One of ComfyUI's samplers by name, for candidates with these seeds.

    Args:
        seeds: one for each candidate, for the sampler's own noise.
        draws: the candidates' source of all other noise. The start noise is drawn already.
        fresh: whether each step has new background noise. If not, every step has the start noise. (ComfyUI's own ddim would blend
            with a second noise, which moves the global random state and depends on the batch.)
        resample_steps: see `route`.
        replay: the guider. Where it stops, what it predicts there is the result.
    """
    sampler = comfy.samplers.sampler_object(name)
    stochastic = is_stochastic(sampler)

    def sample(model: comfy.samplers.KSamplerX0Inpaint, x: Tensor, sigmas: Tensor, callback: Callable[[dict], None], **options) -> Tensor:
        levels = sigmas.clone()
        blend = FreshBackground(model, draws, levels, stochastic) if fresh else Blend(model)
        model_sampling = blend.model_sampling
        blend.inner_model = replay.of(blend.inner_model)
        at = done = 0
        for start, end in route(len(levels) - 1, resample_steps):
            if start < at:
                blend.go_to(start)
                x = noise_again(x, draws.draw().to(x), mixing_factors(model_sampling, levels[at]), mixing_factors(model_sampling, levels[start]))
            if stochastic:
                options["noise_sampler"] = sampler_noise(name, x, levels, seeds if done == 0 else draws.seeds())
            # uni_pc writes into the sigmas that it is given.
            part = levels[start : end + 1].clone()

            def callback_of_part(now: dict, start=start, done=done) -> None:
                blend.go_to(start + now["i"])
                callback({**now, "i": done + now["i"]})

            try:
                with random_state_kept(x.device):  # heunpp2 draws noise that it has no use for
                    x = sampler.sampler_function(blend, x, part, callback=callback_of_part, **options)
            except Stopped as stopped:
                return stopped.prediction
            at, done = end, done + end - start
        return x

    return comfy.samplers.KSAMPLER(sample, sampler.extra_options)
