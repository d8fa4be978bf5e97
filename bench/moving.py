"""Every way to bring the background of a moving picture back: how far the seam shows, how much it flickers, and what a frame takes.

``python run.py bench moving [--quick] [--save FILE] [--json FILE]``.

The scenes are of the small model's kind (bench/_moving.py): an object crosses a background while the light falls and comes back, the mask
follows another object, and the edit is that object, encoded frame by frame. Each frame goes through the small model's VAE. The columns:
the seam as everywhere; its flicker, the most that it changes from a frame to the next beyond the source's own change, mean and worst of
the scenes; what changes inside the mask against the plain decode; the processor's time, as a ratio to the authors' procedure on each frame.
Of the fitted colors, how far a frame's gain differs from that of the one before beyond what the source's own change is. And what a frame
more takes of memory, in pictures of its size.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench import _table
from bench._command import benchmark
from bench._moving import Moving, moving
from bench.reconstruction import AUTHORS, CHEAP, OURS, Case, authors, changed_inside, strip
from blended_latent_diffusion.bld.metrics import flicker, seam
from blended_latent_diffusion.bld.reconstruction import IN_PIXELS, colour_fit
from blended_latent_diffusion.bld.reconstruction.colour import own_changes, traits
from blended_latent_diffusion.bld.reconstruction.memory import peak_bytes
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from demo import loader

SCENES, FRAMES = 6, 9
SHOWN = "source", "plain decode", "paste", "colour fit", "decoder weights"


def node(vae: Any, one: Moving, method: dict[str, Any], frames: int = 0) -> Tensor:
    """What the pack's node gives; frames: of a video, 0 for all, 1 for each frame as a picture of its own."""
    return DecoderFinetuneReconstruct.execute(one.latent, vae, one.image, one.mask, method, False, frames).args[0]


def authors_frame_by_frame(vae: Any, one: Moving) -> Tensor:
    """Their procedure knows no videos."""
    frames = zip(one.image.split(1), one.mask.split(1), one.latent["samples"].split(1), strict=True)
    return torch.cat([authors(vae, Case(*frame)) for frame in frames])


def methods(vae: Any) -> dict[str, Callable[[Moving], Tensor]]:
    """The rows of the table, the baselines first."""
    return {
        "plain decode": lambda one: vae.decode(one.latent["samples"]),
        AUTHORS: lambda one: authors_frame_by_frame(vae, one),
        "paste": lambda one: node(vae, one, CHEAP["paste"]),
        "colour fit, each frame alone": lambda one: node(vae, one, CHEAP["colour fit"], frames=1),
        "colour fit": lambda one: node(vae, one, CHEAP["colour fit"]),
        "poisson": lambda one: node(vae, one, CHEAP["Poisson"]),
        "decoder weights": lambda one: node(vae, one, OURS),
    }


def measured(picture: Tensor, plain: Tensor, one: Moving) -> list[float]:
    """Seam, flicker and what changed inside, all in 8-bit levels."""
    y, x, m = picture.movedim(-1, 1), one.image.movedim(-1, 1), one.mask
    flickers = [level for level in flicker(y, x, m) if not math.isnan(level)]
    return [seam(y, x, m), max(flickers), changed_inside(y, plain.movedim(-1, 1), m)]


def jump(plain: Tensor, one: Moving, frames: int) -> float:
    """How far the fitted gain changes beyond the source's own change, at most."""
    x, m = one.image.movedim(-1, 1), one.mask
    fits = colour_fit(plain.movedim(-1, 1), x, m, frames=frames)[1]
    steps = torch.stack([traits(fit, fit.middle) for fit in fits]).diff(dim=0).abs()
    return float((steps - own_changes(x, m, 0, len(x)))[:, 0].clamp(min=0).max())


def bytes_of_a_frame(plain: Tensor, one: Moving, method: str) -> float:
    """The memory that a frame more takes, its source and its decode apart, in pictures of its size."""
    y, x, m = plain.movedim(-1, 1).contiguous(), one.image.movedim(-1, 1).contiguous(), one.mask
    few, many = (peak_bytes(lambda n=n: IN_PIXELS[method](y[:n], x[:n], m[:n], n, lambda: None)) for n in (2, len(y)))
    return (many - few) / (len(y) - 2) / y[0].nbytes


def film(pictures: dict[str, Tensor], path: Path) -> None:
    """The methods side by side, frame after frame, as an animated WebP."""
    first, *rest = [strip({name: frames[t : t + 1] for name, frames in pictures.items()}) for t in range(FRAMES)]
    first.save(path, save_all=True, append_images=[*rest, *reversed(rest[:-1])], duration=140, loop=0, quality=90)


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The tables and their figures."""
    torch.set_num_threads(1)
    vae = loader.load()[2]
    runs = methods(vae)
    if options.quick:
        runs.pop(AUTHORS)
    found: dict[str, list[list[float]]] = {name: [] for name in runs}
    jumped: dict[str, list[float]] = {"colour fit, each frame alone": [], "colour fit": []}
    for index in range(1 if options.quick else SCENES):
        one = moving(vae, FRAMES, index)
        plain, drawn = vae.decode(one.latent["samples"]), {"source": one.image}
        for name, run in runs.items():
            start = time.process_time()
            drawn[name] = run(one)
            seconds = time.process_time() - start
            found[name].append([*measured(drawn[name], plain, one), seconds])
        for name, frames in zip(jumped, (1, FRAMES), strict=True):
            jumped[name].append(jump(plain, one, frames))
        if options.save and index == 0:
            film({name: drawn[name] for name in SHOWN}, options.save)
    taken = {method: bytes_of_a_frame(plain, one, method) for method in IN_PIXELS}
    rows, base = {}, np.mean([row[-1] for row in found[AUTHORS]]) if AUTHORS in found else None
    for name, values in found.items():
        edge, unsteady, inside, seconds = np.array(values).T
        rows[name] = [edge.mean(), unsteady.mean(), unsteady.max(), inside.mean(), seconds.mean() / base if base else None]
    _table.show("", {"seam": "{:.2f}", "flicker": "{:.2f}", "worst flicker": "{:.2f}", "inside": "{:.1f}", "time": "{:.4f}"}, rows)
    for name, each in jumped.items():
        print(f"{name}: from frame to frame its gain changes by up to {max(each):.3f} beyond the source's own change")
    print("a frame more takes, in pictures of its size: " + ", ".join(f"{method} {share:.2f}" for method, share in taken.items()))
    return {"rows": rows, "jumps": jumped, "memory of a frame": taken}


def main() -> None:
    """The command line."""
    benchmark(answer, quick="one scene, without the authors' procedure", save={"type": Path, "help": "an animated WebP of the first scene"})


if __name__ == "__main__":
    main()
