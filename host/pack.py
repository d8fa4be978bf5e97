"""Lets tests and benchmarks import the pack by name, as ComfyUI loads it: from its file, whatever its folder is called."""
from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NAME = "blended_latent_diffusion"


class PackFinder(importlib.abc.MetaPathFinder):
    """Finds `blended_latent_diffusion`; its submodules are found through it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """The pack's spec under its one name."""
        if name != NAME:
            return None
        return importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])


def make_importable() -> None:
    """After this, `from blended_latent_diffusion.bld import masks` works, given ComfyUI on the path."""
    sys.meta_path.append(PackFinder())


def use_the_device_there_is() -> None:
    """Tell ComfyUI to use the CPU where torch has nothing else; it must hear that before anything of it is imported."""
    import torch
    from comfy.cli_args import args
    args.cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available())
