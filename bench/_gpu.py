"""What bench/gpu.py measures of one model, in a host of its own: the command line is the host's; the request comes as JSON on standard
input, the figures go as JSON to the last line of standard output."""

from __future__ import annotations

import importlib
import sys

if __name__ == "__main__":
    # Before anything else of the host: its main.py reads the command line and sets dynamic VRAM up.
    importlib.import_module("main")

import gc
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import comfy.memory_management
import comfy.model_management as management
import comfy.ops
import comfy.sd
import comfy.utils
import numpy as np
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from torch import Tensor, nn

from bench import _nodes, pipeline, ranking
from bench._cases import Case as Edit
from bench._cases import mask_of
from bench.reconstruction import AUTHORS, BATCH, OURS, PHOTOS, Case, authors, box, photo
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from demo.train import sampling

# Of both SD1.5 and SDXL.
VAE = {"embed_dim": 4, "ddconfig": {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4],
       "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}}  # fmt: skip
UNET = {"image_size": 32, "use_checkpoint": False, "use_spatial_transformer": True, "legacy": False, "in_channels": 4, "out_channels": 4, "model_channels": 320,
        "num_head_channels": 64}  # fmt: skip
UNETS: dict[str, dict[str, Any]] = {
    "SD1.5": UNET | {"num_res_blocks": [2] * 4, "channel_mult": [1, 2, 4, 4], "transformer_depth": [1] * 6 + [0] * 2, "transformer_depth_middle": 1,
                     "transformer_depth_output": [1] * 9 + [0] * 3, "context_dim": 768, "use_linear_in_transformer": False},
    "SDXL": UNET | {"num_res_blocks": [2] * 3, "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10], "transformer_depth_middle": 10,
                    "transformer_depth_output": [0] * 3 + [2] * 3 + [10] * 3, "context_dim": 2048, "use_linear_in_transformer": True,
                    "num_classes": "sequential", "adm_in_channels": 2816},
}  # fmt: skip
TOKENS, POOLED = 77, 1280
PARTS = "drawing", "ranking", "reconstruction"
# Below one, so that half precision does not overflow however many blocks add up.
GAIN = 0.3
# So that a random decoder does all its steps: a target that none reaches, and a rate at which none diverges.
ALL_STEPS = OURS | {"background_target": 200.0, "learning_rate": 1e-7}


@dataclass(frozen=True)
class Amount:
    """How much is done: Adam steps of the authors and of ours, candidates of an edit, and the settings of both samplers."""

    theirs: int
    ours: int
    candidates: int
    samplers: tuple[dict[str, Any], dict[str, Any]]


FULL = Amount(75, OURS["iterations"], pipeline.CANDIDATES, (pipeline.AUTHORS, pipeline.OURS))
QUICK = Amount(2, 2, 3, (pipeline.AUTHORS | {"steps": 2}, pipeline.OURS | {"steps": 2}))


class Shapes(comfy.ops.disable_weight_init):
    """The host's layers, with weights that have shapes also under dynamic VRAM, where the host's own wait for those of a file."""

    class Linear(comfy.ops.disable_weight_init.Linear):
        _load_from_state_dict = nn.Linear._load_from_state_dict


def random_weights(module: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """A checkpoint for the module: norms as they start, the others so that no signal grows."""
    generator = torch.Generator().manual_seed(0)

    def draw(name: str, weight: Tensor) -> Tensor:
        if weight.ndim < 2:
            return torch.full(weight.shape, float(name.endswith("weight")), dtype=dtype)
        return torch.empty(weight.shape, dtype=dtype).normal_(0, GAIN / math.sqrt(math.prod(weight.shape[1:])), generator=generator)

    return {name: draw(name, weight) for name, weight in module.state_dict().items()}


def unet(name: str) -> Any:
    """MODEL, as the host's loader makes it of a checkpoint in half precision."""
    return comfy.sd.load_diffusion_model_state_dict(random_weights(UNetModel(**UNETS[name], device="meta", operations=Shapes), torch.float16))


def host_vae(weights: dict[str, Tensor], dtype: torch.dtype | None = None) -> comfy.sd.VAE:
    """VAE; in the precision that the host chooses, unless one is given."""
    return comfy.sd.VAE(sd=dict(weights), config={"params": VAE}, dtype=dtype)


# ---------------------------------------------------------------- reconstruction

def by_the_authors(vae: comfy.sd.VAE, one: Case, steps: int) -> str:
    """The paper's procedure, as it says of itself."""
    authors(vae, one, steps)
    return f"{steps} steps"


def by_the_node(vae: comfy.sd.VAE, one: Case, steps: int) -> str:
    """Decoder Finetune Reconstruct, and what its report says of the fit."""
    report = DecoderFinetuneReconstruct.execute({"samples": one.z}, vae, one.source, one.mask, ALL_STEPS | {"iterations": steps}).args[2]
    return " ".join(report.splitlines()[2:])


def by_the_decoder(vae: comfy.sd.VAE, one: Case, steps: int) -> str:
    """No reconstruction."""
    vae.decode(one.z)
    return ""


def measured(run: Callable[[int], str], steps: int) -> dict[str, Any]:
    """Seconds, peak bytes of GPU memory beyond what was loaded, and what there is to say, of run(steps) after run(1) as a warm-up."""
    try:
        run(1)
        # What is left of the warm-up must not count as loaded.
        gc.collect()
        management.soft_empty_cache()
        before, start = loaded(), now()
        said = run(steps)
        seconds = now() - start
        return {"seconds": seconds, "peak": None if before is None else torch.cuda.max_memory_allocated() - before, "said": said}
    except Exception as error:
        management.raise_non_oom(error)
        return {"seconds": math.nan, "peak": None, "said": "out of memory"}


def now() -> float:
    """Seconds, once the device has done all that it was told."""
    management.synchronize()
    return time.perf_counter()


def loaded() -> int | None:
    """Bytes that tensors hold on the GPU, from which on the peak is counted; None without one. What dynamic VRAM holds torch does not count."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def reconstructions(name: str, weights: dict[str, Tensor], size: int, amount: Amount) -> Iterator[dict[str, Any]]:
    """The rows of the first table."""
    z = torch.randn(BATCH, VAE["embed_dim"], size // 8, size // 8, generator=torch.Generator().manual_seed(1))
    many = Case(photo(PHOTOS[0], size), box(size, 0.25), z)
    one = replace(many, z=z[:1])
    for dtype in (torch.float32, torch.bfloat16):
        vae = host_vae(weights, dtype)
        rows = {
            AUTHORS: (partial(by_the_authors, vae, one), amount.theirs, 1),
            "plain decode": (partial(by_the_decoder, vae, one), 1, 1),
            "ours": (partial(by_the_node, vae, one), amount.ours, 1),
            f"ours, {BATCH} candidates, each": (partial(by_the_node, vae, many), amount.ours, BATCH),
        }
        theirs = math.nan
        for label, (run, steps, count) in rows.items():
            found = measured(run, steps)
            found["seconds"] /= count
            theirs = found["seconds"] if label == AUTHORS else theirs
            yield found | {"label": f"{name}, {size} px, {str(dtype).removeprefix('torch.')}: {label}", "ratio": found["seconds"] / theirs}


# ---------------------------------------------------------------- a whole edit

def edit(
    tools: _nodes.Tools, case: Edit, prompts: list[list], settings: dict[str, Any], candidates: int, scope: str, prune: bool,
    reconstruct: Callable[[Case], str]
) -> dict[str, Any]:  # fmt: skip
    """One edit, from the source to the reconstructed picture: seconds by part, and what there is to say."""
    clock = [now()]
    latent, mask = _nodes.source_of(tools, case), mask_of(case)
    schedule = ProgressiveMaskDilate.execute(LatentMaskResize.execute(mask, latent).args[0]).args[0]
    pruning = _nodes.prunings(tools, case, {"": {}})[""] if prune else None
    positive, negative = prompts
    latent = BlendedLatentKSampler.execute(
        tools.model, 0, cfg=sampling.CFG, positive=positive, negative=negative, latent_image=latent, candidates=candidates, mask_schedule=schedule,
        pruning=pruning, **settings
    ).args[0]  # fmt: skip
    clock.append(now())
    pictures = tools.vae.decode(latent["samples"])
    best = _nodes.best_of(tools, case, latent, pictures, scope)
    clock.append(now())
    said = reconstruct(Case(torch.from_numpy(case.source).float()[None] / 255, mask, best["samples"]))
    clock.append(now())
    parts = {name: after - before for name, (before, after) in zip(PARTS, itertools.pairwise(clock), strict=True)}
    return {"seconds": parts, "said": f"{len(pictures)} of {candidates} finished; {said}"}


def random_prompt(width: int, seed: int) -> list:
    """A CONDITIONING of the shape that the text encoders of SD1.5 (without the pooled part) and SDXL give."""
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, TOKENS, width, generator=generator), {"pooled_output": torch.randn(1, POOLED, generator=generator)}]]


def whole_edits(name: str, weights: dict[str, Tensor], size: int, amount: Amount) -> Iterator[dict[str, Any]]:
    """The rows of the second table; the VAE is in the precision that the host chooses."""
    model, vae = unet(name), host_vae(weights)
    tools = replace(_nodes.load(), model=model, vae=vae)
    prompts = [random_prompt(UNETS[name]["context_dim"], seed) for seed in (0, 1)]
    source, mask = (photo(PHOTOS[0], size)[0] * 255).byte().numpy(), box(size, 0.25)[0].bool().numpy()
    case = Edit(source, mask, 0, 0, "a red ball", np.zeros(0, bool))
    fits = (partial(by_the_authors, vae), amount.theirs), (partial(by_the_node, vae), amount.ours)
    theirs, ours = amount.samplers
    rows = ("the authors'", fits[0], theirs, ranking.PAPER, False), ("ours", fits[1], ours, ranking.DEFAULT, True)
    seconds = math.nan
    for label, (fit, steps), settings, scope, prune in rows:
        run = partial(edit, tools, case, prompts, candidates=amount.candidates, scope=scope, prune=prune)
        try:
            run(settings=settings | {"steps": 2}, reconstruct=lambda one, fit=fit: fit(one, 1))
            found = run(settings=settings, reconstruct=lambda one, fit=fit, steps=steps: fit(one, steps))
        except Exception as error:
            management.raise_non_oom(error)
            found = {"seconds": dict.fromkeys(PARTS, math.nan), "said": "out of memory"}
        total = sum(found["seconds"].values())
        seconds = total if math.isnan(seconds) else seconds
        yield found | {"label": f"{name}, {size} px, {amount.candidates} candidates: {label}", "ratio": total / seconds}


def told(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """All of them, each told of as it comes."""
    found = []
    for row in rows:
        print(f"  {row['label']}: {row['seconds']}", file=sys.stderr, flush=True)
        found.append(row)
    return found


def main() -> None:
    request = json.load(sys.stdin)
    name, size, amount = request["model"], request["size"], QUICK if request["quick"] else FULL
    comfy.utils.set_progress_bar_enabled(False)
    torch.set_flush_denormal(True)
    weights = random_weights(AutoencoderKL(**VAE), torch.float32)
    dynamic = f"dynamic VRAM {'on' if comfy.memory_management.aimdo_enabled else 'off'}"
    alone = "no GPU that has dynamic VRAM or counts memory, so this is the only table"
    host = f"{management.get_torch_device_name(management.get_torch_device())}: {dynamic if torch.cuda.is_available() else alone}"
    with torch.inference_mode():
        rows = told(reconstructions(name, weights, size, amount))
        management.unload_all_models()
        found = {"host": host, "rows": rows, "edits": told(whole_edits(name, weights, size, amount))}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
