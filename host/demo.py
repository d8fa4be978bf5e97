"""Run the pack's main example in a real ComfyUI and write every stage of it to output/."""
from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import textwrap
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from host import HostError, exit_status
from host.browser import open_for_user
from host.client import Client, Event, Run
from host.files import whole
from host.own_picture import own_picture
from host.provision import Host
from host.server import ROOT, Server, log_tail
from host.workflow import is_link

Json = dict[str, Any]

WORKFLOW = ROOT / "example_workflows" / "blended_latent_edit.json"
INPUTS = ROOT / "demo" / "input"
EXAMPLE = "bld_demo_edit.png"
OUTPUT = ROOT / "output"
RANK, RECONSTRUCT, SAMPLE = "ClipRankBatch", "DecoderFinetuneReconstruct", "BlendedLatentKSampler"
TILE = 256


def main() -> int:
    """Run the demo; returns the exit status."""
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return exit_status(demo, options)


def parse() -> argparse.Namespace:
    """The command line that run.py builds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--overlay", type=Path)
    parser.add_argument("--prompt")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--image", type=Path)
    parser.add_argument("--mask", type=Path)
    return parser.parse_args()


def demo(options: argparse.Namespace) -> None:
    """Edit the example's picture, or the user's in its place. Raises HostError."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bld-demo-") as folder:
        pictures = INPUTS
        if options.image or options.mask:
            with Image.open(INPUTS / EXAMPLE) as example:
                save(own_picture(options.image, options.mask, example.size), Path(folder) / EXAMPLE)
            pictures = Path(folder)
        edit(options, pictures, start)


def edit(options: argparse.Namespace, pictures: Path, start: float) -> None:
    """Start the server, run the workflow on the picture in this folder, write the pictures. Raises HostError."""
    print("Starting ComfyUI ...", flush=True)
    host = Host(Path(sys.executable), options.comfyui, options.overlay)
    with Server(host, inputs=[pictures]) as server:
        print(f"  up in {time.monotonic() - start:.1f} s", flush=True)
        with Client(server.url, diagnose=lambda: log_tail(server.log())) as client:
            prompt = client.prompt(json.loads(WORKFLOW.read_text(encoding="utf-8")))
            change(prompt, options.prompt, options.seed)
            taps = tap(prompt, client.object_info())
            run = client.run(prompt, Narrator(prompt))
            inputs, name = text_input(prompt)
            sheet = write(client, run, taps, inputs[name])
    print(f"Done in {time.monotonic() - start:.1f} s: look at {sheet}")
    open_for_user(sheet.as_uri())


def change(prompt: Json, text: str | None, seed: int | None) -> None:
    """Put another text or seed into the prompt."""
    if text is not None:
        inputs, name = text_input(prompt)
        inputs[name] = text
        ranker = only(prompt, RANK)[1]["inputs"]
        if not is_link(ranker["prompt"]):
            ranker["prompt"] = text
    if seed is not None:
        only(prompt, SAMPLE)[1]["inputs"]["seed"] = seed


def text_input(prompt: Json) -> tuple[Json, str]:
    """The inputs, and the name of the one, that hold the text which the sampler is given."""
    inputs, name = prompt[only(prompt, SAMPLE)[1]["inputs"]["positive"][0]]["inputs"], "text"
    while is_link(inputs[name]):
        inputs, name = prompt[inputs[name][0]]["inputs"], "value"  # of a Primitive node
    return inputs, name


def only(prompt: Json, kind: str) -> tuple[str, Json]:
    """The one node of a type, with its id. Raises HostError."""
    found = [(node_id, node) for node_id, node in prompt.items() if node["class_type"] == kind]
    if len(found) != 1:
        raise HostError(f"{WORKFLOW.name} has {len(found)} nodes of type {kind}; the demo needs one.")
    return found[0]


def tap(prompt: Json, object_info: Json) -> dict[str, str]:
    """Add preview nodes for every stage; returns their ids by the stage's name."""
    rank_id, rank = only(prompt, RANK)
    edit_id, edit = only(prompt, RECONSTRUCT)
    outputs = object_info[RANK]["output_name"]
    wanted = {"source": edit["inputs"]["image"], "candidates": rank["inputs"]["images"], "result": [edit_id, 0]}
    prompt["tap_mask"] = node("MaskToImage", mask=edit["inputs"]["mask"])
    wanted["mask"] = ["tap_mask", 0]
    for name, link in wanted.items():
        prompt[f"tap_{name}_view"] = node("PreviewImage", images=link)
    for name in ("scores", "order"):
        prompt[f"tap_{name}_view"] = node("PreviewAny", source=[rank_id, outputs.index(name)])
    return {name: f"tap_{name}_view" for name in (*wanted, "scores", "order")}


def node(kind: str, **inputs: Any) -> Json:
    """A node of a prompt."""
    return {"class_type": kind, "inputs": inputs}


class Narrator:
    """Prints each stage of a run as it starts, its progress and its time."""

    def __init__(self, prompt: Json) -> None:
        self._names = {node_id: node["_meta"]["title"] for node_id, node in prompt.items() if "_meta" in node}
        self._terminal = sys.stdout.isatty()
        self._current = ""
        self._start = 0.0

    def __call__(self, event: Event) -> None:
        if event.type == "executing":
            self._finish()
            self._current = self._names.get(event.node or "", "")
            self._start = time.monotonic()
            self._show()
        elif event.type == "progress" and event.data.get("max"):
            self._show(f"{event.data['value'] / event.data['max']:4.0%}")
        elif event.type == "execution_error":
            self._current = ""

    def _show(self, text: str = "") -> None:
        if self._current and self._terminal:
            print(f"\r\x1b[K  {self._current:<44} {text}", end="", flush=True)

    def _finish(self) -> None:
        if self._current:
            clear = "\r\x1b[K" if self._terminal else ""
            print(f"{clear}  {self._current:<44} {time.monotonic() - self._start:5.1f} s", flush=True)


def write(client: Client, run: Run, taps: dict[str, str], text: str) -> Path:
    """Write the pictures of a run under output/; returns the contact sheet. Raises HostError."""
    pictures = {name: [picture(data) for data in client.images(run, taps[name])]
                for name in ("source", "mask", "candidates", "result")}
    files = {"source.png": pictures["source"][0], "mask.png": pictures["mask"][0], "result.png": pictures["result"][0]}
    tiles = [("source", files["source.png"]), ("mask", files["mask.png"])]
    for index, image in enumerate(pictures["candidates"]):
        files[f"candidate_{index:02d}.png"] = image
    for rank, (index, score) in enumerate(ranking(run, taps), 1):
        tiles.append((f"{rank}. candidate {index:02d}, score {score:.3f}", files[f"candidate_{index:02d}.png"]))
    tiles.append(("result: best, reconstructed", files["result.png"]))
    files["contact_sheet.png"] = contact_sheet(text, tiles)
    for name, image in files.items():
        save(image, OUTPUT / name)
    for old in OUTPUT.glob("candidate_*.png*"):  # also the part of one, which a killed run leaves
        if old.name not in files:
            old.unlink()
    print(f"Wrote source, mask, {len(pictures['candidates'])} candidates, result and contact_sheet to {OUTPUT}")
    return OUTPUT / "contact_sheet.png"


def save(image: Image.Image, path: Path) -> None:
    """Write a picture as a PNG file. Raises HostError."""
    # Not straight into the file: where the disk gets full, Pillow may write half of it and say nothing.
    data = BytesIO()
    image.save(data, "PNG")
    with whole(path) as part:
        part.write_bytes(data.getvalue())


def picture(data: bytes) -> Image.Image:
    """A picture from the bytes of its file."""
    return Image.open(BytesIO(data)).convert("RGB")


def ranking(run: Run, taps: dict[str, str]) -> list[tuple[int, float]]:
    """Number and score of each candidate, best first."""
    order, scores = (run.outputs[taps[name]]["text"] for name in ("order", "scores"))
    return [(int(index), float(score)) for index, score in zip(order, scores, strict=True)]


def contact_sheet(heading: str, tiles: list[tuple[str, Image.Image]]) -> Image.Image:
    """The pictures side by side, each with its label, under a heading."""
    columns = min(4, len(tiles))
    rows = -(-len(tiles) // columns)
    gap, label, top = 12, 26, 56
    sheet = Image.new("RGB", (gap + columns * (TILE + gap), top + rows * (TILE + label + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    title = textwrap.shorten(heading, 70, placeholder=" ...")
    draw.text((gap, 14), f"“{title}”", fill="black", font=ImageFont.load_default(24))
    for index, (text, image) in enumerate(tiles):
        left = gap + index % columns * (TILE + gap)
        upper = top + index // columns * (TILE + label + gap)
        draw.text((left, upper + 2), text, fill="black", font=ImageFont.load_default(16))
        image = image.resize((TILE, TILE), Image.Resampling.NEAREST if image.width < TILE else Image.Resampling.LANCZOS)
        sheet.paste(image, (left, upper + label))
    return sheet


if __name__ == "__main__":
    sys.exit(main())
