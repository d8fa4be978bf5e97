"""A whole edit with models as large as those that people use: it runs, what each part takes of the time, and its memory beside the plan.

``python run.py bench real-size [--model NAME...] [--size N] [--json FILE]``.

The weights are random, since neither time nor memory depends on them; the diffusion model and its VAE are of the host's own classes (bench/_full_size.py),
and the CLIP is open_clip's ViT-B-16, as large as the paper's. The edit: 4 candidates of 2 steps under a mask of a quarter of a photograph,
pruned, decoded, ranked, and the best reconstructed with decoder weights, 2 steps. So the shares of the time say little about an edit of 20
steps; the memory is that of any number of steps. A model is in a process of its own, in bfloat16 (Flux, whose weights would take 24 GB, in float8), and is
computed in what the host chooses for the device: float32 on a CPU. Attention is PyTorch's, as on most GPUs: what the host takes on a CPU
fills whatever memory is free.

Memory is the peak of each part beyond what was held when it began: of the GPU where there is one, else of the process. The plan of a
reconstruction is the pack's own and is measured; the pack takes the host's estimates for drawing and decoding as they are. The ranking has none.
"""

from __future__ import annotations

import argparse
import gc
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import open_clip
import psutil
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher

from bench import _nodes, _table, pipeline, ranking
from bench._command import benchmark, quiet
from bench._full_size import KINDS, Kind, by_the_node, diffusion_model, edit, edit_of, host_vae, random_prompt, random_weights, shapes_of, vae_weights
from bench._process import TIDY, apart, spent
from blended_latent_diffusion.bridge.clip import models as clips
from blended_latent_diffusion.bridge.comfy_internals import bytes_to_decode, bytes_to_encode
from blended_latent_diffusion.bridge.sampling.candidates import Helpers, plan
from blended_latent_diffusion.nodes.open_clip_loader import OpenClipLoader

CANDIDATES, STEPS, SHARE, CLIP = 4, 2, 0.25, "ViT-B-16"
STORED = {"Flux-schnell": torch.float8_e4m3fn}


def load_clip() -> Any:
    """OPEN_CLIP from a file of random weights."""
    with tempfile.TemporaryDirectory() as folder:
        comfy.utils.save_torch_file(open_clip.create_model(CLIP).state_dict(), str(Path(folder) / f"{CLIP}.safetensors"))
        folder_paths.add_model_folder_path(clips.FOLDER, folder)
        return OpenClipLoader.execute(f"{CLIP}.safetensors").args[0]


def with_pytorch_attention(model: ModelPatcher) -> ModelPatcher:
    """A clone that computes attention with PyTorch, as most GPUs do; ComfyUI takes another on a CPU, whose memory follows what is free."""
    clone = model.clone()
    clone.model_options["transformer_options"]["optimized_attention_override"] = lambda chosen, *inputs, **settings: attention_pytorch(*inputs, **settings)
    return clone


def lacking(name: str) -> str | None:
    """What to say of a model whose weights find no room in main memory."""
    itemsize = STORED.get(name, torch.bfloat16).itemsize
    weights, free = sum(one.numel() * itemsize for one in shapes_of(KINDS[name]).state_dict().values()), psutil.virtual_memory().available
    return f"does not fit: its weights take {weights / 2**30:.1f} GiB, and {free / 2**30:.1f} are free" if weights > free else None


def planned(kind: Kind, tools: _nodes.Tools, size: int, said: str) -> dict[str, float]:
    """The bytes that were planned for each part. said: what the edit says of itself."""
    z = torch.empty(1, kind.channels, size // 8, size // 8)
    at_once = plan(tools.model, z, CANDIDATES, kind.cfg, 0, Helpers()).at_once
    sampled = tools.model.memory_required([at_once * (1 if kind.cfg == 1 else 2), *z.shape[1:]])
    encoded, decoded = bytes_to_encode(tools.vae, (1, size, size, 3)), bytes_to_decode(tools.vae, z.shape[1:])
    finished, fit = int(said.split()[0]), float(re.search(r"planned with at most ([\d.]+) GiB", said)[1])
    return {"drawing": max(sampled, encoded), "decoding": finished * decoded, "reconstruction": fit * 2**30}


def measure(name: str, size: int) -> dict[str, Any]:
    """Of each part, its seconds, its peak of memory and what was planned, both in bytes; and what there is to say. Or why it can't run."""
    quiet()
    if told := lacking(name):
        return {"parts": {}, "said": told}
    kind = KINDS[name]
    with torch.inference_mode():
        model = diffusion_model(random_weights(shapes_of(kind), torch.bfloat16), dtype=STORED.get(name, torch.bfloat16))
        tools = replace(_nodes.load(), model=with_pytorch_attention(model), vae=host_vae(vae_weights(kind.channels)), clip=load_clip())
        prompts, settings = [random_prompt(kind, seed) for seed in (0, 1)], pipeline.OURS | {"steps": STEPS, "cfg": kind.cfg}
        parts: dict[str, dict[str, float]] = {}

        @contextmanager
        def part(name: str) -> Iterator[None]:
            gc.collect()
            start = time.perf_counter()
            with spent() as most:
                yield
            comfy.model_management.synchronize()
            parts[name] = {"seconds": time.perf_counter() - start, "peak": most[0]}

        said = edit(tools, edit_of(size, SHARE), prompts, settings, CANDIDATES, ranking.DEFAULT, True, lambda one: by_the_node(tools.vae, one, STEPS), part)
        for part_of, most in planned(kind, tools, size, said).items():
            parts[part_of]["planned"] = most
    return {"parts": parts, "said": said}


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The tables and their figures."""
    figures = {}
    for name in options.model or KINDS:
        size = options.size or KINDS[name].side
        found = figures[name] = apart(measure, name, size, environment=TIDY)
        total, rows = sum(part["seconds"] for part in found["parts"].values()), {}
        for part, one in found["parts"].items():
            of_plan = one["peak"] / one["planned"] if "planned" in one else None
            rows[part] = [one["seconds"] / total, one["peak"] / 2**20, one["planned"] / 2**20 if "planned" in one else None, of_plan]
        title = f"{name}, {size} px"
        _table.show(title, {"of the time": "{:.0%}", "peak MiB": "{:.0f}", "planned MiB": "{:.0f}", "peak / plan": "{:.2f}"}, rows)
        print(f"  {total:.0f} s; {found['said']}", flush=True)
    return figures


def main() -> None:
    """The command line."""
    benchmark(
        answer,
        model={"nargs": "+", "choices": list(KINDS), "help": "one or some of the models instead of all"},
        size=(None, "pixels a side instead of each model's own, 512 or 1024; a multiple of 64"),
    )


if __name__ == "__main__":
    main()
