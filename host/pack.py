"""Lets tests, benchmarks and training import ComfyUI as a library, and the pack by name as ComfyUI loads it: from its file, whatever its folder is called."""
from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import shutil
import sys
import tempfile
from functools import cache
from multiprocessing.util import Finalize
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


def prepare(cpu: bool | None = None) -> None:
    """After this, `import comfy.sample` and `from blended_latent_diffusion.bld import masks` work, given ComfyUI's tree on the path.

    Call it before you import anything of ComfyUI, which then learns whether to use the CPU. cpu: None means only where torch has nothing else.
    """
    # The repository comes last, since ComfyUI has something called nodes, too.
    sys.path[:] = [*(path for path in sys.path if Path(path or os.curdir).resolve() != ROOT), str(ROOT)]
    if not any(isinstance(finder, PackFinder) for finder in sys.meta_path):
        sys.meta_path.append(PackFinder())
    import torch
    from comfy.cli_args import args
    args.cpu = not (torch.cuda.is_available() or torch.backends.mps.is_available()) if cpu is None else cpu
    keep_previews_out_of_the_tree()


@cache
def keep_previews_out_of_the_tree() -> None:
    """Let nodes that run as a library write their previews to a folder that goes with the process: no server is there to clear ComfyUI's."""
    import folder_paths
    folder = tempfile.mkdtemp(prefix="bld-previews-")
    folder_paths.set_temp_directory(folder)
    # Unlike atexit, this also runs at the end of a process that multiprocessing started.
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=0)


def quick_bfloat16() -> bool:
    """Whether the CPU computes in bfloat16 itself. Where it does not, a convolution in bfloat16 takes up to 60 times as long as in float32."""
    import torch
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))
