"""What every stage shares: the work folder, the clock, checkpoints, weight initialisation."""

from __future__ import annotations

import math
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from host.pack import quick_bfloat16

from ..files import WORK
from . import data


@dataclass
class Settings:
    """The command line of a stage."""

    work: Path
    minutes: float
    device: torch.device
    batch: int
    threads: int
    count: int = 0
    fresh: bool = False
    start: Path | None = None
    rate: float = 0.0
    workers: int = 0


def default_work() -> Path:
    """Where checkpoints and latents lie unless --work says otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / WORK


def prepare(threads: int, seed: int) -> None:
    """Set what makes CPU training fast (no denormals) and repeatable."""
    torch.set_flush_denormal(True)
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)


def initialise(module: torch.nn.Module) -> None:
    """The host's layers skip their initialisation; do it by class."""
    kinds = (torch.nn.Conv2d, torch.nn.Linear, torch.nn.GroupNorm, torch.nn.LayerNorm, torch.nn.Embedding)
    for part in module.modules():
        for kind in kinds:
            if isinstance(part, kind):
                kind.reset_parameters(part)


def autocast(device: torch.device) -> torch.autocast:
    """bf16 autocast, where it is faster than float32: on any recent GPU and some CPUs."""
    return torch.autocast(device.type, torch.bfloat16, device.type != "cpu" or quick_bfloat16())


class Clock:
    """Progress in [0, 1] of a training time that survives restarts (``spent`` seconds are kept in the checkpoint).

    Ask once a step: a gap of more than ten seconds (a paused process) counts as ten.
    """

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.total, self.active, self.last = minutes * 60, spent, time.monotonic()

    def spent(self) -> float:
        now = time.monotonic()
        self.active, self.last = self.active + min(10.0, now - self.last), now
        return self.active

    def progress(self) -> float:
        return min(1.0, self.spent() / max(self.total, 1e-9))


def cosine(progress: float, step: int, peak: float, warmup: int = 200, floor: float = 0.02) -> float:
    """Learning rate: linear warm-up by step, then a cosine over the time that is left."""
    return peak * min(1.0, (step + 1) / warmup) * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))


def descend(optimiser: torch.optim.Optimizer, loss: torch.Tensor, rate: float, longest: float = math.inf) -> None:
    """One step down the loss at this learning rate, along a gradient that is cut to a norm of at most `longest`."""
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([weight for group in optimiser.param_groups for weight in group["params"]], longest)
    optimiser.step()


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a killed process never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def load(path: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """A checkpoint written by ``save``, or None."""
    return torch.load(path, map_location=device, weights_only=False) if path.exists() else None


def _render(task: tuple[str, int]) -> np.ndarray:
    return data.render(data.plan(*task))


def pictures(split: str, start: int, count: int, workers: int = os.cpu_count() or 1) -> np.ndarray:
    """Scenes ``start .. start + count`` of a split: uint8 (count, H, W, 3)."""
    tasks = [(split, i) for i in range(start, start + count)]
    if count < 200 or workers < 2:
        return np.stack([_render(t) for t in tasks])
    with ProcessPoolExecutor(workers) as pool:
        return np.stack(list(pool.map(_render, tasks, chunksize=64)))


def pool(work: Path, count: int) -> np.ndarray:
    """Training scenes ``0 .. count`` from ``pictures.npy``, which grows as needed: uint8 (count, H, W, 3), read-only."""
    path = work / "pictures.npy"
    known = np.load(path, mmap_mode="r") if path.exists() else np.empty((0, data.SIZE, data.SIZE, 3), np.uint8)
    if len(known) < count:
        part = path.with_suffix(".part.npy")
        part.parent.mkdir(parents=True, exist_ok=True)
        np.save(part, np.concatenate([known, pictures("train", len(known), count - len(known))]))
        part.replace(path)
        known = np.load(path, mmap_mode="r")
    return known[:count]


def to_tensor(pixels: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 (B, H, W, 3) to float (B, 3, H, W) in [-1, 1], contiguous."""
    return (torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).contiguous().to(device).float() / 127.5) - 1


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Mean over pictures of the PSNR in dB; inputs (B, 3, H, W) in [-1, 1]."""
    error = ((a.clamp(-1, 1) - b) / 2).square().flatten(1).mean(1)
    return float((-10 * torch.log10(error)).mean())


class Ema:
    """Exponential moving average of a module's parameters, with a warm-up so that short runs are not stale."""

    def __init__(self, module: torch.nn.Module, decay: float = 0.999) -> None:
        self.decay, self.steps = decay, 0
        self.shadow = {k: v.detach().clone().float() for k, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module) -> None:
        self.steps += 1
        rate = min(self.decay, self.steps / (self.steps + 20))
        live = module.state_dict()
        torch._foreach_lerp_(list(self.shadow.values()), [live[k].float() for k in self.shadow], 1 - rate)

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "shadow": self.shadow}

    def restore(self, state: dict[str, Any]) -> None:
        self.steps, self.shadow = state["steps"], state["shadow"]
