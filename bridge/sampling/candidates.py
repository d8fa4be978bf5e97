"""Many candidates of one source: as many at once as memory allows, and each the same as if you drew it alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..comfy_internals import bytes_for, bytes_for_work, on_several_devices, out_of_memory, patches_of, pick_conditionings, streams_weights, weights_that_stay

# Samplers and patches of the host that take the whole batch for one sample: they go by its average or by one noise level or window for all.
# A candidate would depend on the others beside it, or the host would fail.
WHOLE_BATCH = {
    "dpm_adaptive": "dpm_adaptive",
    "EasyCacheHolder": "EasyCache",
    "LazyCacheHolder": "LazyCache",
    "Mahiro": "Positive-Biased Guidance",
    "PerpNeg": "Perp-Neg",
    "TemporalScoreRescaling": "Temporal Score Rescaling",
    "RenormCFG": "RenormCFG",
    "IndexListContextHandler": "Context Windows",
}
# A CPU gains nothing from more, and its memory is not ComfyUI's alone.
AT_ONCE_ON_CPU = 8


def goes_by_batch(model: ModelPatcher, sampler_name: str) -> bool:
    """Whether each candidate must be sampled alone, so that it comes out the same whatever is beside it. The log says why."""
    names = {sampler_name, *(name for name, _ in patches_of(model).values())}.intersection(WHOLE_BATCH)
    for name in names:
        logging.info("Blended Latent KSampler: %s takes a whole batch for one sample, so the candidates are drawn one after the other.", WHOLE_BATCH[name])
    return bool(names)


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


@dataclass(frozen=True)
class Helpers:
    """Models that work between the calls of the diffusion model, and how many bytes of memory their work takes."""

    models: tuple[ModelPatcher, ...] = ()
    memory: float = 0.0

    def __add__(self, others: Helpers) -> Helpers:
        return Helpers(tuple(dict.fromkeys(self.models + others.models)), max(self.memory, others.memory))


@dataclass(frozen=True)
class Plan:
    """How to use the memory.

    Attributes:
        at_once: how many candidates to sample at once.
        beside: models that stay loaded beside the diffusion model.
    """

    at_once: int
    beside: tuple[ModelPatcher, ...]


def plan(model: ModelPatcher, source: Tensor, count: int, cfg: float, chunk_size: int, helpers: Helpers) -> Plan:
    """By ComfyUI's own estimates. ComfyUI unloads all other models where it must.

    source: (B, C, ..., h, w). count: of candidates. chunk_size: how many at once if the user has said so, 0 if not.

    If one candidate fits beside the weights, so many are sampled at once as do. If none does and ComfyUI streams the weights, all memory is
    there for the candidates: the more of them, the fewer times the weights are copied. If the helpers' weights find room besides,
    they stay, too: otherwise they and the model would push each other out at every round or call.
    """

    def takes(at_once: int) -> float:
        # A prompt and an empty one are sampled together.
        return bytes_for_work(model.memory_required([at_once * (1 if cfg == 1 else 2), *source.shape[1:]]))

    def room(others: Sequence[ModelPatcher]) -> float:
        memory = bytes_for(model) - sum(other.model_size() for other in others)
        beside_weights = memory - model.model_size()
        return memory - weights_that_stay(memory) if takes(1) > beside_weights and streams_weights(model) else beside_weights

    least = max(takes(chunk_size or 1), bytes_for_work(helpers.memory))
    beside = tuple(one for one in helpers.models if one.load_device == model.load_device)
    if least > room(beside) or on_several_devices(model):
        beside = ()
    at_once = chunk_size or (min(count, AT_ONCE_ON_CPU) if comfy.model_management.is_device_cpu(model.load_device) else count)
    while not chunk_size and at_once > 1 and takes(at_once) > room(beside):
        at_once = (at_once + 1) // 2
    return Plan(at_once, beside)


class Chunks:
    """Candidates by the chunk, in order: `at_once` of them, and half as many from the point where memory runs out."""

    def __init__(self, at_once: int) -> None:
        self.at_once = at_once

    def run(self, candidates: Sequence[int], run: Callable[[list[int]], Tensor]) -> Tensor:
        """run(chunk) of all of them, one after the other. Raises what `run` raises; out of memory only if a single candidate is too much."""
        results, left = [], list(candidates)
        while left:
            chunk = left[: self.at_once]
            try:
                results.append(run(chunk))
                left = left[len(chunk) :]
                continue
            except Exception as error:
                if len(chunk) == 1 or not out_of_memory(error):
                    raise
            # Not before the exception is gone: it holds on to what was allocated.
            self.at_once = (len(chunk) + 1) // 2
            logging.warning("Blended Latent KSampler: ran out of memory with %d candidates at once, so it continues with %d.", len(chunk), self.at_once)
            comfy.model_management.soft_empty_cache()
        return torch.cat(results)
