"""How much memory a fit of the decoder needs, and how to cut it to the memory there is. Known before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from ...bld.edges import nearby
from ...bld.reconstruction.crop import Box, span
from ...bld.reconstruction.decoder import Work
from ...bld.reconstruction.memory import peak_bytes
from ...bld.reconstruction.objective import trainable
from ...bld.reconstruction.tail import Tail, enter
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


@dataclass(frozen=True)
class Plan:
    """The latent cells that are decoded, and how the fit is cut. `bytes` is the most that this takes."""

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


def make_plans(copy: comfy.sd.VAE, tail: Tail, z: Tensor, m: Tensor, ring: int) -> list[Plan]:
    """The ways to run the fit, fastest first. Each takes less memory than the one before."""
    scale = m.shape[-1] // z.shape[-1]
    frame = tuple(slice(0, side) for side in z.shape[-2:])
    near = box_of(nearby(m, ring).amax((0, 1)) > 0, scale)
    around = tuple(slice(max(0, s.start - CONTEXT), min(side, s.stop + CONTEXT)) for s, side in zip(near, z.shape[-2:], strict=True))
    dtype = torch.bfloat16 if has_bfloat16(copy.device) else torch.float32
    small = [probe(copy, tail, z, side) for side in PROBES]
    cost = partial(line, [one.pixels for one in small])
    whole = cost([one.bytes for one in small])
    steps = {thrifty: cost([step_bytes(tail, one.h, Work(0, thrifty, dtype)) for one in small]) for thrifty in (False, True)}
    stored = small[-1].h.nbytes / small[-1].pixels
    theta = sum(p.nbytes for p in tail.modules.parameters())
    base = RUNTIME + copy.model_size() + 4 * theta
    plans: list[Plan] = []
    for view in (frame, around):
        pixels = scale**2 * area(view)
        # For each candidate; and the tail's input for one source.
        pictures = len(z) * (4 * 12 * pixels + (stored + 5 * 12) * scale**2 * area(near)) + stored * pixels
        for tile in TILES:
            sides = [min(tile, scale * (s.stop - s.start)) + 2 * tail.needs[0] * tail.scale for s in near]
            seen = min(sides[0], scale * z.shape[-2]) * min(sides[1], scale * z.shape[-1])
            for thrifty in (False, True):
                needed = base + pictures + max(whole.of(pixels), steps[thrifty].of(seen))
                plan = Plan(view, view == frame, Work(tile, thrifty, dtype), int(needed))
                if not plans or plan.bytes < plans[-1].bytes:
                    plans.append(plan)
    return plans


def affordable(plans: list[Plan], memory_budget: float, free: float) -> list[Plan]:
    """The plans that fit into the budget in GiB, or into nine tenths of the free bytes if it is 0; in that case at least the last one.

    Raises ValueError if a budget allows none.
    """
    fitting = [plan for plan in plans if plan.bytes <= (memory_budget * GIB or 0.9 * free)]
    if not fitting and memory_budget > 0:
        raise ValueError(f"memory_budget is {memory_budget:g} GiB, but this mask needs at least {plans[-1].bytes / GIB:.2f}: raise it, or use 0 for no limit.")
    return fitting or plans[-1:]


def box_of(wanted: Tensor, scale: int) -> Box:
    """The cells that hold all True pixels of (H, W)."""
    return tuple(slice(*span(wanted.any(axis), scale)) for axis in (1, 0))


def area(box: Box) -> int:
    """In cells."""
    return (box[0].stop - box[0].start) * (box[1].stop - box[1].start)


@dataclass(frozen=True)
class Probe:
    """A small picture, decoded and encoded to measure the memory. h: the tail's input for it. bytes: the peak of both."""

    pixels: int
    h: Tensor
    bytes: int


def probe(copy: comfy.sd.VAE, tail: Tail, z: Tensor, side: int) -> Probe:
    """The probe for a latent like z with `side` cells per side."""
    small, entered = z.new_zeros(1, *z.shape[1:-2], side, side, device=copy.device), []

    def there_and_back() -> None:
        entered.extend(enter(decode_of(copy), tail, small))
        latents_of(copy, entered[0])

    most = peak_bytes(there_and_back)
    picture, h, _ = entered
    return Probe(picture.shape[-1] * picture.shape[-2], h, most)


def line(pixels: Sequence[int], peaks: Sequence[int]) -> Cost:
    """The cost that goes through two measurements."""
    slope = (peaks[1] - peaks[0]) / (pixels[1] - pixels[0])
    return Cost(max(0.0, peaks[1] - slope * pixels[1]), slope)


def step_bytes(tail: Tail, h: Tensor, work: Work) -> int:
    """The peak memory of one step of the fit, with its gradients."""
    with trainable(tail.modules.parameters()):
        return peak_bytes(partial(forward_and_backward, tail, h, work))


def forward_and_backward(tail: Tail, h: Tensor, work: Work) -> None:
    """One step without the update."""
    with work.autocast(h.device):
        y = tail.decode(h, (0, 0, 0, 0), work.thrifty)
    y.float().square().mean().backward()


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes faster in bfloat16 than in float32. ComfyUI says no to every CPU, even to those that do."""
    if comfy.model_management.is_device_cpu(device):
        found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
    return comfy.model_management.should_use_bf16(device)
