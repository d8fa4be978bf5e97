"""An edit under a mask of 256x256 in a picture of 4096x4096, cut out and put back, beside the same edit of the crop of 512x512 alone.

``python run.py bench large-picture [--rounds N] [--json FILE]``.

Both run the small model on the same crop with the same seed, each in a process of its own and by turns. Memory is what the process holds
at most beyond what it held before the edit; the finished large picture is a part of it, and is told apart.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import nodes
import torch

from bench import _table
from bench._command import benchmark, quiet
from bench._nodes import defaults
from bench._process import apart, held, peak
from blended_latent_diffusion.bridge.vae.reconstruct import DECODER
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from blended_latent_diffusion.nodes.edit_cut_out import EditCutOut
from blended_latent_diffusion.nodes.edit_put_back import EditPutBack
from demo import loader

SIDE, MASK, STEPS = 4096, 256, 10


def picture(side: int) -> torch.Tensor:
    """A smooth picture with grain, (1, side, side, 3) in 0..1."""
    waves = torch.linspace(0, 40, side).sin() * 0.3 + 0.5
    grain = torch.randn(1, side, side, 1, generator=torch.Generator().manual_seed(0)) * 0.02
    return (waves[:, None, None] * waves[None, :, None] + grain).clamp(0, 1).expand(-1, -1, -1, 3).contiguous()


def measure(whole: bool) -> tuple[float, float]:
    """Seconds and MiB of one edit."""
    quiet()
    model, text, vae = loader.load()
    image, mask = picture(SIDE), torch.zeros(1, SIDE, SIDE)
    mask[:, 1000 : 1000 + MASK, 2000 : 2000 + MASK] = 1
    positive, negative = (nodes.CLIPTextEncode().encode(text, words)[0] for words in ("a sunflower", ""))
    if not whole:
        image, mask, *_ = (one.clone() if isinstance(one, torch.Tensor) else one for one in EditCutOut.execute(image, mask).args)
    edit(model, vae, torch.rand(1, 128, 128, 3), torch.ones(1, 128, 128), positive, negative, 1)  # everything is loaded
    before, start = held(), time.perf_counter()
    with torch.inference_mode(), peak() as most:
        crop, inside, where, _ = EditCutOut.execute(image, mask).args if whole else (image, mask, None, "")
        edited = edit(model, vae, crop, inside, positive, negative, STEPS)
        if whole:
            edited = EditPutBack.execute(edited, where, defaults(EditPutBack, "method", "paste")).args[0]
        seconds = time.perf_counter() - start
    return seconds, (most[0] - before) / 2**20


def edit(model: Any, vae: Any, image: torch.Tensor, mask: torch.Tensor, positive: list, negative: list, steps: int) -> torch.Tensor:
    """The edited crop."""
    with torch.inference_mode():
        latent = {"samples": vae.encode(image)}
        settings = {"seed": 1, "steps": steps, "cfg": 4.0, "sampler_name": "ddim", "scheduler": "ddim_uniform"}
        drawn = BlendedLatentKSampler.execute(model=model, positive=positive, negative=negative, latent_image=latent, mask=mask, **settings).args[0]
        return DecoderFinetuneReconstruct.execute(drawn, vae, image, mask, defaults(DecoderFinetuneReconstruct, "method", DECODER)).args[0]


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The table and its figures."""
    names = {"the crop of 512x512 alone": False, f"in a picture of {SIDE}x{SIDE}": True}
    rounds = [{name: apart(measure, whole) for name, whole in names.items()} for _ in range(options.rounds)]
    rows = {name: [statistics.median(one[name][i] for one in rounds) for i in (0, 1)] for name in names}
    (alone, small), (seconds, large) = rows.values()
    result = SIDE * SIDE * 3 * 4 / 2**20
    _table.show(f"median of {options.rounds}", {"seconds": "{:.2f}", "MiB": "{:.0f}"}, rows)
    print(f"time {seconds / alone:.3f}; memory {large / small:.3f}, without the finished picture ({result:.0f} MiB) {(large - result) / small:.3f}")
    return {"seconds": seconds / alone, "memory": large / small, "without result": (large - result) / small}


def main() -> None:
    """The command line."""
    benchmark(answer, rounds=(3, "how many of each"))


if __name__ == "__main__":
    main()
