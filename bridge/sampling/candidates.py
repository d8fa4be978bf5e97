"""Many candidates of one source: as many at once as memory allows, and each the same as if you drew it alone."""

from __future__ import annotations

import logging
from collections.abc import Callable

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..comfy_internals import bytes_of_other_models, out_of_memory, pick_conditionings


def of_rows(conditionings: list[list], rows: list[int], sources: int, chunk: list[int], total: int) -> list[list]:
    """The conditionings of a chunk of the candidates. ComfyUI would start every chunk at the first prompt or hint of a batch.

    rows: for each candidate of the chunk, its source. What is batched like the sources or like all candidates is picked accordingly;
    the rest stays.
    """

    def pick(value):
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == 1:
            return value
        return value[chunk] if len(value) == total else value[rows] if len(value) == sources else value

    return pick_conditionings(conditionings, pick)


def that_fit(model: ModelPatcher, source: Tensor, count: int) -> int:
    """How many samples fit into memory at once by ComfyUI's own estimate, at least one. ComfyUI unloads other models for them."""
    free = model.get_free_memory(model.load_device) + bytes_of_other_models(model) - (model.model_size() - model.loaded_size())
    # A prompt and an empty one are sampled together, so the model sees twice the batch.
    while count > 1 and model.memory_required([2 * count, *source.shape[1:]]) > free:
        count = (count + 1) // 2
    return count


def in_chunks(count: int, at_once: int, group: int, run: Callable[[list[int]], Tensor]) -> Tensor:
    """run(candidates) for all of them in order, `at_once` at a time, and half as many from the point where memory runs out.

    group: no chunk reaches over a multiple of it. Raises what `run` raises; out of memory only if a single candidate is too much.
    """
    results, start = [], 0
    while start < count:
        chunk = list(range(start, min(start + at_once, count, start - start % group + group)))
        try:
            results.append(run(chunk))
            start += len(chunk)
            continue
        except Exception as error:
            if len(chunk) == 1 or not out_of_memory(error):
                raise
        # Not before the exception is gone: it holds on to what was allocated.
        at_once = (len(chunk) + 1) // 2
        logging.warning("Blended Latent KSampler: ran out of memory with %d candidates at once, so it continues with %d.", len(chunk), at_once)
        comfy.model_management.soft_empty_cache()
    return torch.cat(results)
