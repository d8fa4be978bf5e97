"""Two nodes with the names and signatures of ComfyUI-Distributed's, where that pack is not: on one machine, they hand on what they get.

Their hidden inputs are what the pack puts into each machine's prompt. A test does it in its place, and carries the pictures from server to server.
"""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
from folder_paths import get_annotated_filepath
from PIL import Image


class DistributedSeed:
    """A seed for each machine: the master's own, and one more for each worker. machine: 0 is the master."""

    CATEGORY, FUNCTION = "distributed", "seed"
    RETURN_TYPES, RETURN_NAMES = ("INT",), ("seed",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"seed": ("INT", {"default": 0, "min": 0, "max": 2**50 - 1})}, "hidden": {"machine": ("INT", {"default": 0})}}

    def seed(self, seed: int, machine: int = 0) -> tuple[int]:
        return (seed + machine,)


class DistributedCollector:
    """On the master, its own pictures and then those of the workers. received: the names of the workers' PNG files."""

    CATEGORY, FUNCTION = "distributed", "collect"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "AUDIO"), ("images", "audio")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"images": ("IMAGE",), "load_balance": ("BOOLEAN", {"default": False})}, "hidden": {"received": ("STRING", {"default": ""})}}

    def collect(self, images: torch.Tensor, load_balance: bool, received: str = "") -> tuple[torch.Tensor, None]:
        others = [np.asarray(Image.open(get_annotated_filepath(name)).convert("RGB"), np.float32) / 255 for name in received.split()]
        return torch.cat([images, *(torch.from_numpy(one)[None] for one in others)]), None


NODE_CLASS_MAPPINGS = {"DistributedSeed": DistributedSeed, "DistributedCollector": DistributedCollector}
NODE_DISPLAY_NAME_MAPPINGS = {"DistributedSeed": "Distributed Seed", "DistributedCollector": "Distributed Collector"}
