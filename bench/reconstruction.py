"""Every way to bring the background back, beside the authors' own, on pictures that the VAE was not trained on; one table.

``python run.py bench reconstruction [--quick] [--large] [--vae FILE...] [--pictures FOLDER] [--size PIXELS] [--save FOLDER]
[--json FILE]``.

The pictures: the two photographs that scikit-learn ships, and a page of text; the small model's training saw nothing of the kind; or all
pictures of a folder. The edit: the mirror image's latent under the mask, or another picture's of the folder, faded in over the four
cells next to the mask's edge, as a sampler that saw the background makes it. The time is that of the processor, each method in its turn
on one picture, as a ratio to the authors'; memory is what the first picture takes in a process of its own, in main memory, beyond the
loaded models. Where the source is pasted outside the mask, the background is exact by composition; so "ours" has a row of what the
tuned decoder draws without that, and the authors' procedure one with it.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import folder_paths
import nodes as host_nodes
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from sklearn.datasets import load_sample_image
from torch import Tensor

from bench import _table
from bench._command import benchmark, quiet
from bench._nodes import defaults
from bench._process import TIDY, apart, held, peak
from blended_latent_diffusion.bld.metrics import figures, ring_psnr
from blended_latent_diffusion.bld.reconstruction import paste, poisson
from blended_latent_diffusion.bridge.vae.copies import trainable_copy
from blended_latent_diffusion.bridge.vae.pixels import decode_of
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from demo import loader

PHOTOS = "china.jpg", "flower.jpg"
SIZE, BATCH, EDITS, BAND = 256, 8, 10, 16
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
OURS = defaults(DecoderFinetuneReconstruct, "method", "decoder weights")
LATENT = {"method": "latent", "iterations": 75, "learning_rate": 0.05, "background_weight": 100.0}
CHEAP = {"paste": {"method": "paste", "feather": 0}, "colour fit": {"method": "colour fit", "feather": 0}, "Poisson": {"method": "poisson"}}
AUTHORS, OUR = "the authors' procedure", "ours"
# Like beside like: theirs with the source pasted outside the mask, and ours without that.
PASTED, ALONE = f"{AUTHORS}, source pasted outside", f"{OUR}, the tuned decoder alone"
COLUMNS = dict.fromkeys(("background dB", "16 px around", "worst block", "seam", "ΔE00", "inside"), "{:.2f}") | {"time": "{:.4f}", "memory, MiB": "{:.0f}"}
# Pixels a side at which the peak of memory is taken beside the table, for these.
LARGER, COMPARED = (512, 1024), ("plain decode", AUTHORS, OUR)


@dataclass(frozen=True)
class Case:
    """One edit: the source (1, H, W, 3), the mask (1, H, W) and the edited latents of the candidates."""

    source: Tensor
    mask: Tensor
    z: Tensor


@dataclass(frozen=True)
class Row:
    """Of the table: the mask's share of the picture, the method, and how many candidates."""

    share: float
    method: str
    count: int = 1

    @property
    def label(self) -> str:
        return f"{self.share:.0%} mask: {self.method}" + (f", {self.count} candidates, each" if self.count > 1 else "")


def photo(name: str, size: int) -> Tensor:
    """A photograph that scikit-learn ships, or a picture file: (1, size, size, 3)."""
    picture = Image.fromarray(load_sample_image(name)) if name in PHOTOS else Image.open(name).convert("RGB")
    return as_tensor(ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS))


def load_vae(files: list[Path]) -> Any:
    """The small model's VAE, or one from a file, or a tiny one from its encoder's and decoder's files, all as ComfyUI's VAE Loader loads them."""
    if not files:
        return loader.load()[2]
    folder_paths.add_model_folder_path("vae" if len(files) == 1 else "vae_approx", str(files[0].resolve().parent))
    name = files[0].name if len(files) == 1 else files[0].stem.rpartition("_")[0]
    return host_nodes.VAELoader().load_vae(name)[0]


def pictures_of(folder: Path | None, size: int, quick: bool) -> dict[str, Tensor]:
    """The pictures by name."""
    if folder is not None:
        return {str(path): photo(str(path), size) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    first, second = ({name: photo(name, size)} for name in PHOTOS)
    return first if quick else first | second | {"text": text(size)}


def text(size: int) -> Tensor:
    """A page of text on a coloured ground."""
    page = Image.new("RGB", (size, size), (236, 228, 210))
    draw = ImageDraw.Draw(page)
    for line in range(size // 20):
        draw.text((8, 4 + 20 * line), f"{line + 1}. The quick brown fox jumps over it.", fill=(30 + 9 * line % 120, 40, 60), font=ImageFont.load_default(13))
    return as_tensor(page)


def as_tensor(picture: Image.Image) -> Tensor:
    """An IMAGE of one."""
    return torch.from_numpy(np.asarray(picture, np.float32) / 255)[None]


def box(size: int, share: float, centre: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """A square mask of this share of the picture: (1, size, size)."""
    side = round(size * math.sqrt(share))
    mask = torch.zeros(1, size, size)
    top, left = (min(max(0, round(size * c - side / 2)), size - side) for c in centre)
    mask[:, top : top + side, left : left + side] = 1
    return mask


def edited(vae, source: Tensor, other: Tensor, mask: Tensor, count: int = 1) -> Tensor:
    """The source's latent with another's under the mask, faded in; candidates differ in how much of it."""
    z = vae.encode(source)
    cells = torch.nn.functional.avg_pool2d(mask[:, None], mask.shape[-1] // z.shape[-1]).floor()
    fade = sum(-torch.nn.functional.max_pool2d(-cells, 2 * k + 1, 1, k) for k in range(1, 5)) / 4
    mix = torch.linspace(1, 0.5, count)[:, None, None, None] * fade
    return z * (1 - mix) + vae.encode(other) * mix


def case(vae, source: Tensor, other: Tensor, share: float, count: int = 1) -> Case:
    """An edit of a picture by another."""
    mask = box(source.shape[1], share)
    return Case(source, mask, edited(vae, source, other, mask, count))


def pairs(pictures: dict[str, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Each picture with the next one of a folder, or its mirror image."""
    each = list(pictures.values())
    from_folder = not set(pictures) & set(PHOTOS) and len(each) > 1
    return ((source, each[(i + 1) % len(each)] if from_folder else source.flip(2)) for i, source in enumerate(each))


def authors(vae, one: Case, steps: int = 75) -> Tensor:
    """The paper's procedure: Adam on all weights of the decoder, the whole picture, float32, one image at a time; (1, H, W, 3)."""
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(vae)
        model, decode = copy.first_stage_model.to(vae.device), decode_of(copy)
        z, x, m = (t.clone().to(vae.device, torch.float32) for t in (one.z[:1], one.source.movedim(-1, 1) * 2 - 1, one.mask[:, None]))
        theta = [weight.requires_grad_(True) for name, weight in model.named_parameters() if "decoder." in name]
        optimiser = torch.optim.Adam(theta, lr=1e-4)
        with torch.no_grad():
            x_hat = decode(z)
        for _ in range(steps):
            optimiser.zero_grad()
            y = decode(z)
            loss = torch.nn.functional.mse_loss(y * m, x_hat * m) + 100 * torch.nn.functional.mse_loss(y * (1 - m), x * (1 - m))
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            return ((decode(z) + 1) / 2).clamp(0, 1).movedim(1, -1).cpu()


def node(vae, one: Case, method: dict) -> Tensor:
    """The pack's node, as a workflow runs it: the pictures."""
    return reconstructed(vae, one, method)[0]


def reconstructed(vae, one: Case, method: dict) -> tuple[Tensor, Any, str]:
    """All that the node gives."""
    return DecoderFinetuneReconstruct.execute({"samples": one.z}, vae, one.source, one.mask, method).args


def methods(vae) -> dict[str, Callable[[Case], Tensor]]:
    """The rows of the table, the baselines first."""
    nodes = {name: partial(node, vae, method=method) for name, method in (CHEAP | {"latent": LATENT}).items()}
    return {"plain decode": lambda one: vae.decode(one.z), **nodes, AUTHORS: partial(authors, vae), OUR: partial(reconstructed, vae, method=OURS)}


def views(name: str, found: Any, one: Case) -> dict[str, Tensor]:
    """The rows that a method fills, and their pictures."""
    if name == OUR:
        picture, tuned, _ = found
        return {name: picture, **({ALONE: tuned.decode(one.z)} if len(picture) == 1 else {})}
    if name == AUTHORS:
        return {name: found, PASTED: paste(found.movedim(-1, 1), one.source.movedim(-1, 1), one.mask).movedim(1, -1)}
    return {name: found}


def measured(picture: Tensor, plain: Tensor, one: Case) -> list[float]:
    """The columns but time and memory: the means over candidates."""
    x, m = one.source.movedim(-1, 1), one.mask
    rows = []
    for y, y_plain in zip(picture.movedim(-1, 1), plain.movedim(-1, 1), strict=False):
        found = figures(y[None], x, m)
        inside = changed_inside(y[None], y_plain[None], m)
        rows.append([found.background_psnr, ring_psnr(y[None], x, m, BAND), found.worst_block, found.seam, found.colour_shift, inside])
    return np.mean(rows, 0).tolist()


def changed_inside(y: Tensor, plain: Tensor, m: Tensor) -> float:
    """How far pictures (B, C, H, W) are from their plain decode under the masks (B, H, W), in levels of 255."""
    return 255 * float(((y - plain).abs() * m[:, None]).sum() / (y.shape[1] * m.sum()))


def table(vae, pictures: dict[str, Tensor], shares: list[float], slow: bool, folder: Path | None) -> dict[Row, list[float]]:
    """The means over the pictures; time in seconds. folder: where to save what each row drew, beside the source."""
    rows: dict[Row, list[list[float]]] = defaultdict(list)
    for share in shares:
        for title, (source, other) in zip(pictures, pairs(pictures), strict=True):
            drawn = {"source": source}
            for count in (1, BATCH) if share == 0.25 else (1,):
                one = case(vae, source, other, share, count)
                plain = vae.decode(one.z)
                for name, run in methods(vae).items():
                    if (count > 1 and name != OUR) or (name == "latent" and not (slow and share == 0.25)):
                        continue
                    start = time.process_time()
                    found = run(one)
                    seconds = (time.process_time() - start) / count
                    for label, picture in views(name, found, one).items():
                        rows[Row(share, label, count)].append([*measured(picture, plain, one), seconds])
                        drawn[label] = picture[:1] if count == 1 else drawn[label]
                    print(f"  {Row(share, name, count).label}: {seconds:.1f} s", file=sys.stderr, flush=True)
            if folder is not None:
                strip(drawn).save(folder / f"{Path(title).stem}_{100 * share:.0f}.jpg", quality=90)
    return {row: np.mean(values, 0).tolist() for row, values in rows.items()}


def strip(pictures: dict[str, Tensor]) -> Image.Image:
    """The pictures side by side, each (1, H, W, 3), with their names above."""
    height, width = next(iter(pictures.values())).shape[1:3]
    sheet = Image.new("RGB", (width * len(pictures), height + 20), "white")
    for place, (name, picture) in enumerate(pictures.items()):
        ImageDraw.Draw(sheet).text((width * place + 4, 3), name, fill="black", font=ImageFont.load_default(12))
        sheet.paste(Image.fromarray((picture[0].clamp(0, 1) * 255).round().byte().cpu().numpy()), (width * place, 20))
    return sheet


def memory(row: Row, size: int, budget: float = 0.0, steps: int = 2, files: tuple[Path, ...] = (), picture: str = PHOTOS[0]) -> dict[str, Any]:
    """Peak memory in MiB beyond the loaded models, seconds, and what the node says, of one method in a process of its own.

    A budget is held against all that a process keeps, as a user's does; without one, what is freed is given back at once.
    """
    return apart(run_one, row, size, budget, steps, files, picture, environment={} if budget else TIDY)


def run_one(row: Row, size: int, budget: float, steps: int, files: tuple[Path, ...], picture: str) -> dict[str, Any]:
    """What `memory` asks for."""
    quiet(1)
    vae = load_vae(list(files))
    with torch.inference_mode():
        z = vae.encode(photo(picture, 64))
        z = torch.nn.functional.interpolate(z, size * z.shape[-1] // 64, mode="bilinear").repeat(row.count, 1, 1, 1)
        one = Case(photo(picture, size), box(size, row.share), z)
        vae.decode(one.z[..., :8, :8])
        before, start, said = held(), time.process_time(), ""
        with peak() as most:
            if row.method == AUTHORS:
                authors(vae, one, steps)
            elif row.method == "plain decode":
                vae.decode(one.z)
            else:
                fewer = {name: method | {"memory_budget": budget, "iterations": steps} for name, method in (("latent", LATENT), (OUR, OURS))}
                said = reconstructed(vae, one, (CHEAP | fewer)[row.method])[2]
        seconds = time.process_time() - start
    return {"MiB": (most[0] - before) / 2**20, "seconds": seconds, "said": said}


def ten_edits(vae, source: Tensor) -> dict[str, tuple[float, float]]:
    """PSNR of what is never masked, after the first and after the tenth of edits at different places, each of the last one's result."""
    centres = [(0.15 + 0.23 * (k // 4), 0.15 + 0.23 * (k % 4)) for k in range(EDITS)]
    never = (sum(box(source.shape[1], 0.01, c) for c in centres) > 0).float()
    found = {}
    for name, run in {"plain decode": lambda one: vae.decode(one.z), "ours": lambda one: node(vae, one, OURS)}.items():
        picture, levels = source, []
        for centre in centres:
            mask = box(source.shape[1], 0.01, centre)
            z = edited(vae, picture, source.flip(2), mask)
            picture = run(Case(picture, mask, z))
            levels.append(figures(picture.movedim(-1, 1), source.movedim(-1, 1), never).background_psnr)
        found[name] = levels[0], levels[-1]
    return found


def seconds_of_poisson(size: int) -> float:
    """Of one picture, its mirror image put into it."""
    x, m = photo(PHOTOS[0], size).movedim(-1, 1), box(size, 0.25)
    start = time.perf_counter()
    poisson(x.flip(3), x, m)
    return time.perf_counter() - start


def answer(options: argparse.Namespace) -> dict[str, Any]:
    """The table, what it leaves out, and the figures."""
    torch.set_num_threads(1)
    vae, pictures = load_vae(options.vae), pictures_of(options.pictures, options.size, options.quick)
    rows = table(vae, pictures, [0.25] if options.quick else [0.05, 0.25, 0.5], not options.quick, options.save)
    repeated = ten_edits(vae, next(iter(pictures.values())))
    take = partial(memory, files=tuple(options.vae), picture=next(iter(pictures)))
    peaks: dict[int, dict[str, Any]] = {options.size: {row.label: take(row, options.size) for row in rows if row.method not in (PASTED, ALONE)}}
    _table.show("", COLUMNS, {row.label: [*values, seconds / rows[Row(row.share, AUTHORS)][-1], peaks[options.size].get(row.label, {}).get("MiB")]
                              for row, (*values, seconds) in rows.items()})  # fmt: skip
    print("a background of inf dB is exact by composition: the source is pasted outside the mask")
    for size in () if options.quick else [side for side in LARGER if side > options.size]:
        peaks[size] = {name: take(Row(0.25, name), size) for name in COMPARED}
        told = ", ".join(f"{name} {one['MiB']:.0f} MiB" for name, one in peaks[size].items())
        print(f"peak memory, {size}x{size}, 25% mask: {told}; ours is {peaks[size][OUR]['MiB'] / peaks[size][AUTHORS]['MiB']:.2f} of theirs")
    for name, (first, last) in repeated.items():
        print(f"ten edits, {name}: what is never masked is at {first:.2f} dB after the first, at {last:.2f} dB after the tenth")
    if options.large:
        found = take(Row(0.25, OUR), 2048, 8.0, OURS["iterations"])
        print(f"2048x2048, memory_budget 8: {found['MiB'] / 1024:.2f} GiB, {found['seconds']:.0f} s\n{found['said']}")
        print(f"4096x4096, 25 % mask, Poisson: {seconds_of_poisson(4096):.1f} s of wall time")
    return {"rows": {row.label: values for row, values in rows.items()}, "memory": peaks, "ten edits": repeated}


def main() -> None:
    """The command line."""
    benchmark(
        answer,
        quick="one mask, and one picture unless they come from a folder: a few minutes instead of twenty",
        large="also 2048x2048 within 8 GiB, and Poisson at 4096x4096",
        vae={"type": Path, "nargs": "+", "default": [], "help": "a VAE of yours instead of the small model's: its file, or encoder and decoder of a tiny one"},
        pictures={"type": Path, "help": "a folder of pictures of yours instead of the ones above"},
        size=(SIZE, "pixels a side of the pictures"),
        save={"type": Path, "help": "a folder for what each row of the table drew, beside the source"},
    )


if __name__ == "__main__":
    main()
