"""Many candidates of one source: as many at once as the memory allows, and each the same as if it were drawn alone."""

from __future__ import annotations

import logging
from collections.abc import Callable

import comfy.model_management
import latent_preview
import torch
from comfy.controlnet import ControlBase
from comfy.model_patcher import ModelPatcher
from torch import Tensor


def of_rows(conditionings: list[list], rows: list[int], sources: int, chunk: list[int], total: int) -> list[list]:
    """The conditionings of a chunk of the candidates. The host would give a batch of prompts or hints to each chunk from its start.

    rows: for each candidate of the chunk its source. What is batched as the sources or as all candidates is picked accordingly;
    the rest, and what is the same for all, stays.
    """
    # The host runs prompts together only where they share the very same ControlNet.
    controls: dict[int, ControlBase] = {}

    def pick(value):
        if isinstance(value, ControlBase):
            if id(value) not in controls:
                controls[id(value)] = of_control(value)
            return controls[id(value)]
        if isinstance(value, list):
            return [pick(one) for one in value]
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == 1:
            return value
        return value[chunk] if len(value) == total else value[rows] if len(value) == sources else value

    def of_control(control: ControlBase) -> ControlBase:
        picked = control.copy()
        picked.cond_hint_original = pick(control.cond_hint_original)
        picked.extra_concat_orig = [pick(value) for value in control.extra_concat_orig]
        return picked.set_previous_controlnet(pick(control.previous_controlnet))

    return [[[pick(cond), {key: pick(value) for key, value in options.items()}] for cond, options in conditioning] for conditioning in conditionings]


def that_fit(model: ModelPatcher, source: Tensor, count: int) -> int:
    """As many samples at once as the host's own estimate says there is memory for, at least one. The host unloads other models for it."""
    device = model.load_device
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models if entry.device == device]
    # The host forgets a model that nobody holds any more only later on.
    others = sum(other.loaded_size() for other in loaded if other is not None and not model.is_clone(other))
    free = model.get_free_memory(device) + others - (model.model_size() - model.loaded_size())
    # A prompt and an empty one are sampled together, so the model sees twice the batch.
    while count > 1 and model.memory_required([2 * count, *source.shape[1:]]) > free:
        count = (count + 1) // 2
    return count


def in_chunks(count: int, at_once: int, group: int, run: Callable[[list[int]], Tensor]) -> Tensor:
    """run(candidates) for all of them in order, `at_once` at a time, and half as many from where the memory was not enough.

    group: no chunk reaches over a multiple of it. Raises what `run` raises; out of memory only where a single candidate is too much.
    """
    results, start = [], 0
    while start < count:
        chunk = list(range(start, min(start + at_once, count, start - start % group + group)))
        try:
            results.append(run(chunk))
            start += len(chunk)
            continue
        except Exception as error:
            comfy.model_management.raise_non_oom(error)
            if len(chunk) == 1:
                raise
        # Not before the exception is gone, since it holds on to what was allocated.
        at_once = (len(chunk) + 1) // 2
        logging.warning("Blended Latent KSampler: out of memory with %d candidates at once, going on with %d.", len(chunk), at_once)
        comfy.model_management.soft_empty_cache()
    return torch.cat(results)


def progress(model: ModelPatcher, steps: int, count: int) -> Callable[[list[int]], Callable]:
    """The host's own progress bar and live preview over all candidates: progress(...)(chunk) is the callback of sampling the chunk."""
    total = max(steps, 1) * count
    show = latent_preview.prepare_callback(model, total)
    return lambda chunk: lambda step, x0, x, _: show(chunk[0] * steps + (step + 1) * len(chunk) - 1, x0, x, total)
