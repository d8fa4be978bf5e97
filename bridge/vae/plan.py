"""How much memory a fit needs, and how to cut it to the memory there is. Known before the first step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from ...bld.reconstruction.crop import Box, span
from ...bld.reconstruction.decoder import WINDOW, Work
from ...bld.reconstruction.memory import peak_bytes
from ...bld.reconstruction.objective import trainable
from ...bld.reconstruction.tail import Tail, enter, h_of
from ..comfy_internals import out_of_memory
from .copies import load_for_training
from .pixels import decode_of, latents_of

GIB = 1 << 30
# Latent cells around the mask's surroundings, if the whole picture does not fit: enough for the decoder's middle to see.
CONTEXT = 12
# Sides of a small latent, to measure memory on.
PROBES = 8, 16
# Bytes that kernels and threads take once, at any size.
RUNTIME = 256 << 20
# Pixels per side, from the fastest to the smallest.
TILES = 1 << 20, 1024, 512, 256, 128, 64
# The costs measured so far, for as long as their VAE lives.
KNOWN: WeakKeyDictionary[torch.nn.Module, dict[tuple, Costs]] = WeakKeyDictionary()

T = TypeVar("T")
Size = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """The latent cells that are decoded, and how the fit is cut. `bytes` is the most that this takes, the copy of the VAE included."""

    view: Box
    whole: bool
    work: Work
    bytes: int


@dataclass(frozen=True)
class Cost:
    """Bytes: a fixed part and a part for each pixel."""

    fixed: float
    pixel: float

    def of(self, pixels: int) -> float:
        """The bytes for this many pixels."""
        return self.fixed + self.pixel * pixels


@dataclass(frozen=True)
class Most:
    """The most of several costs, which come one after the other, and what is held through all of them."""

    parts: tuple[Cost, ...]
    held: Cost = Cost(0, 0)

    def of(self, pixels: int) -> float:
        """The bytes for this many pixels."""
        return self.held.of(pixels) + max(part.of(pixels) for part in self.parts)


@dataclass(frozen=True)
class Costs:
    """What a fit of one VAE takes, measured on small latents.

    Attributes:
        scale: pixels a side of a latent cell. frames: of a video, 1 of a picture; what follows is for all of them, for each pixel of one.
        dtype: what a step computes in.
        base: bytes at any size. stored: of the tail's input, for each pixel of the picture.
        whole: what is done once with the whole picture. steps: a step of the fit on part of it, thrifty or not.
    """

    scale: int
    frames: int
    dtype: torch.dtype
    base: int
    stored: float
    whole: Most
    steps: dict[bool, Cost | Most]

    def cuts(self, tail: Tail, frame: Size, box: Box) -> Iterator[tuple[Work, float]]:
        """The ways to cut the steps for what lies in a box of latent cells of the frame, and the bytes of a step."""
        for tile in TILES:
            sides = (min(tile, self.scale * (s.stop - s.start)) + 2 * tail.needs[0] * tail.scale for s in box)
            height, width = (min(side, self.scale * cells) for side, cells in zip(sides, frame, strict=True))
            for thrifty, step in self.steps.items():
                yield Work(tile, thrifty, self.dtype), step.of(height * width)


def decoder_plans(costs: Costs, tail: Tail, z: Tensor, near: Tensor) -> list[Plan]:
    """The ways to fit the decoder to what is near the mask, (B or 1, H, W), fastest first. Each takes less memory than the one before."""
    box, frame, square = box_of(near.amax(0) > 0, costs.scale), tuple(z.shape[-2:]), costs.scale**2
    around = tuple(slice(max(0, s.start - CONTEXT), min(side, s.stop + CONTEXT)) for s, side in zip(box, frame, strict=True))
    plans = []
    for view in (whole_of(frame), around):
        pixels = square * area(view)
        # For each candidate; and the tail's input for one source.
        pictures = len(z) * (4 * 12 * costs.frames * pixels + (costs.stored + 5 * 12 * costs.frames) * square * area(box)) + costs.stored * pixels
        for work, step in costs.cuts(tail, frame, box):
            plans.append(Plan(view, view == whole_of(frame), work, int(costs.base + pictures + max(costs.whole.of(pixels), step))))
    return ever_smaller(plans)


def latent_plans(costs: Costs, tail: Tail, z: Tensor) -> list[Plan]:
    """The ways to fit the latents, each to the whole picture, fastest first. Each takes less memory than the one before."""
    frame = tuple(z.shape[-2:])
    pixels = costs.scale**2 * area(whole_of(frame))
    # For each candidate; and the tail's input for one, with its gradient twice, since each tile adds its own.
    pictures = len(z) * 5 * 12 * pixels + 3 * costs.stored * pixels
    cuts = costs.cuts(tail, frame, whole_of(frame))
    return ever_smaller(Plan(whole_of(frame), True, work, int(costs.base + pictures + max(costs.whole.of(pixels), step))) for work, step in cuts)


def ever_smaller(plans: Iterable[Plan]) -> list[Plan]:
    """The plans that take less memory than all before."""
    kept: list[Plan] = []
    for plan in plans:
        if not kept or plan.bytes < kept[-1].bytes:
            kept.append(plan)
    return kept


def reserved(copy: comfy.sd.VAE, plans: list[Plan], memory_budget: float) -> list[Plan]:
    """The plans that fit, and room for the first of them on the copy's device. Other models are unloaded only if the smallest plan needs that."""
    loaded = copy.model_size()
    fitting = affordable(plans, memory_budget, comfy.model_management.get_free_memory(copy.device) + loaded)
    load_for_training(copy, fitting[0].bytes - loaded)
    return fitting


def affordable(plans: list[Plan], memory_budget: float, free: float) -> list[Plan]:
    """The plans that fit into the budget in GiB, if it is not 0, and into nine tenths of the free bytes; at least the smallest.

    Raises ValueError if a budget allows none.
    """
    allowed = [plan for plan in plans if memory_budget == 0 or plan.bytes <= memory_budget * GIB]
    if not allowed:
        raise ValueError(f"memory_budget is {memory_budget:g} GiB, but this edit needs at least {plans[-1].bytes / GIB:.2f}: raise it, or use 0 for no limit.")
    return [plan for plan in allowed if plan.bytes <= 0.9 * free] or allowed[-1:]


def first_that_fits(plans: Sequence[Plan], attempt: Callable[[Plan], T], undo: Callable[[], None] = lambda: None) -> tuple[T, Plan, list[str]]:
    """What an attempt gives with the first plan that memory suffices for, that plan, and remarks. `undo` takes back a failed attempt."""
    remarks: list[str] = []
    for number, plan in enumerate(plans):
        try:
            return attempt(plan), plan, remarks
        except Exception as error:
            if not out_of_memory(error) or number == len(plans) - 1:
                raise
            remarks = ["Memory ran out, so the fit started again with a plan that needs less."]
        # Outside the handler, which holds on to everything that the failed attempt made.
        undo()
        comfy.model_management.soft_empty_cache()
    raise ValueError("There is no plan to try.")


def whole_of(frame: Size) -> Box:
    """The box that is the whole frame."""
    return tuple(slice(0, side) for side in frame)


def box_of(wanted: Tensor, scale: int) -> Box:
    """The cells that hold all True pixels of (H, W)."""
    return tuple(slice(*span(wanted.any(axis), scale)) for axis in (1, 0))


def area(box: Box) -> int:
    """In cells."""
    return (box[0].stop - box[0].start) * (box[1].stop - box[1].start)


def costs_of(vae: comfy.sd.VAE, measure: Callable[[comfy.sd.VAE, Tail, Tensor], Costs], copy: comfy.sd.VAE, tail: Tail, z: Tensor) -> Costs:
    """What `measure`, which is `decoder_costs` or `latent_costs`, finds on a copy of the user's VAE. Measured once for each VAE and kind of latent."""
    found = KNOWN.setdefault(vae.first_stage_model, {})
    key = measure, copy.device, computing_dtype(copy), copy.model_size(), z.shape[1:-2]
    if key not in found:
        found[key] = measure(copy, tail, z)
    return found[key]


def decoder_costs(copy: comfy.sd.VAE, tail: Tail, z: Tensor) -> Costs:
    """Of a fit of the decoder for latents like z. Each is decoded and its source encoded once; a step trains the tail."""
    theta = list(tail.modules.parameters())
    size = sum(p.nbytes for p in theta)
    return measured(copy, tail, z, lambda small, picture: latents_of(copy, picture, len(picture)), lambda h: theta, 4 * size, size)


def latent_costs(copy: comfy.sd.VAE, tail: Tail, z: Tensor) -> Costs:
    """Of a fit of latents like z. What leads up to the tail carries gradients for the whole picture; a step trains the tail's input."""

    def carry_back(small: Tensor, picture: Tensor) -> None:
        with trainable([small]), Work(0, dtype=computing_dtype(copy)).autocast(small.device):
            h_of(decode_of(copy), tail, small).float().square().mean().backward()

    return measured(copy, tail, z, carry_back, lambda h: [h], 0, 0)


def measured(
    copy: comfy.sd.VAE,
    tail: Tail,
    z: Tensor,
    other: Callable[[Tensor, Tensor], object],
    trained: Callable[[Tensor], list[Tensor]],
    optimiser: int,
    gradients: int,
) -> Costs:
    """The costs of a fit. Each part is measured alone: which of them needs most is another at small sizes, where the weights count, than at large ones.

    other: what happens to a whole latent and its picture, beside the decode. trained: what a step needs gradients on, from the tail's input.
    optimiser, gradients: bytes that these hold at any size.
    """
    dtype, pixels, decodes, others, inputs = computing_dtype(copy), [], [], [], []
    for cells in PROBES:
        small, seen = z.new_zeros(1, *z.shape[1:-2], cells, cells, device=copy.device), []
        decodes.append(peak_bytes(lambda small=small, seen=seen: seen.extend(enter(decode_of(copy), tail, small))))
        picture, h, _ = seen
        others.append(peak_bytes(partial(other, small, picture)))
        pixels.append(picture.shape[-1] * picture.shape[-2])
        inputs.append(h)
    whole, thrifty = Work(0, False, dtype), Work(0, True, dtype)
    frames, stored = len(picture), inputs[-1].nbytes
    # A step looks at a window of a video.
    inputs = [h if frames == 1 else h[:, :, : WINDOW + tail.past + tail.future].contiguous() for h in inputs]
    stages = list(zip(*(stage_bytes(tail, h, thrifty, trained(h)) for h in inputs), strict=True))
    between = sum(line(pixels, [kept for kept, _ in stage]).pixel for stage in stages)
    return Costs(
        scale=round((pixels[-1] / PROBES[-1] ** 2) ** 0.5),
        frames=frames,
        dtype=dtype,
        base=RUNTIME + copy.model_size() + optimiser,
        stored=stored / pixels[-1],
        whole=Most((line(pixels, decodes), line(pixels, others))),
        steps={
            False: line(pixels, [step_bytes(tail, h, whole, trained(h)) for h in inputs]),
            True: Most(tuple(line(pixels, [peak for _, peak in stage]) for stage in stages), Cost(gradients, between)),
        },
    )


def line(pixels: Sequence[int], peaks: Sequence[int]) -> Cost:
    """The cost that goes through two measurements."""
    slope = (peaks[1] - peaks[0]) / (pixels[1] - pixels[0])
    return Cost(max(0.0, peaks[1] - slope * pixels[1]), slope)


def step_bytes(tail: Tail, h: Tensor, work: Work, trained: list[Tensor]) -> int:
    """The peak memory of one step of the fit, with its gradients."""
    with trainable(trained):
        return peak_bytes(partial(forward_and_backward, partial(tail.decode, halo=(0, 0, 0, 0)), h, work))


def stage_bytes(tail: Tail, h: Tensor, work: Work, trained: list[Tensor]) -> list[tuple[int, int]]:
    """Of each stage of a step that computes activations twice: the bytes of its input, which is kept, and the peak when its turn comes."""
    found = []
    with trainable(trained):
        for stage in tail.stages:
            entered = h.detach().requires_grad_(True)
            found.append((h.nbytes, peak_bytes(partial(forward_and_backward, stage.run, entered, work))))
            with torch.no_grad(), work.autocast(h.device):
                h = stage.run(h)
    return found


def forward_and_backward(run: Callable[[Tensor], Tensor], h: Tensor, work: Work) -> None:
    """One step without the update."""
    with work.autocast(h.device):
        y = run(h)
    y.float().square().mean().backward()


def computing_dtype(vae: comfy.sd.VAE) -> torch.dtype:
    """What the device computes a step fastest in. ComfyUI says no to bfloat16 on every CPU, even on those that are faster with it."""
    return torch.bfloat16 if has_bfloat16(vae.device) else torch.float32


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes faster in bfloat16 than in float32."""
    if comfy.model_management.is_device_cpu(device):
        found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
    return comfy.model_management.should_use_bf16(device)
