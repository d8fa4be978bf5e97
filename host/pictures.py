"""Draw every picture of the documentation again: the nodes and graphs as the real frontend draws them, and what each node does.

    python run.py pictures [NAME ...]

NAME is a node, an example or `README`; without one, everything is drawn. The pictures land beside the pages that show them:
js/docs/images, example_workflows and docs/images. Every run draws the same edits, so only a change of the pack, of the demo
model or of the frontend changes a picture.
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from io import BytesIO
from itertools import accumulate, pairwise
from typing import Any

from PIL import Image, ImageChops, ImageDraw
from playwright.sync_api import Browser

from host.client import Client, Run
from host.demo import INPUTS
from host.panels import GREEN, Panel, below, changed, enlarged, lines, outlined, painted, save, sheet
from host.server import ROOT, Server, log_tail
from host.ui import Ui
from host.workshop import main

Json = dict[str, Any]
Link = list[Any]

EXAMPLES, HELP, DOCS = ROOT / "example_workflows", ROOT / "js" / "docs" / "images", ROOT / "docs" / "images"
NEEDS_A_CHECKPOINT = "sd15_or_sdxl"
SMALLEST = "smallest_graph"
OUTPUTS = {"PreviewAny", "PreviewImage", "SaveImage"}
SIDE = 220
# How an example's picture is labeled: the source, its mask, the result.
LABELS = {"background_edit": ("source", "painted: kept"), "scribble_edit": ("scribble", "scribble and mask")}


class Studio:
    """A real server with this pack and the demo model, and one tab of the real frontend. `last` is the last run."""

    def __init__(self, client: Client, ui: Ui) -> None:
        self.client = client
        self.ui = ui

    def example(self, name: str) -> Json:
        """The prompt of an example workflow."""
        return self.client.prompt(json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8")))

    def run(self, prompt: Json, texts: dict[str, Link] | None = None, **links: Link) -> dict[str, list[Any]]:
        """Run a prompt; returns the pictures of the given links, and the texts of the others, by name."""
        taps = {f"see {name}": {"class_type": "PreviewImage", "inputs": {"images": link}} for name, link in links.items()}
        taps |= {f"see {name}": {"class_type": "PreviewAny", "inputs": {"source": link}} for name, link in (texts or {}).items()}
        needed = {node_id: node for node_id, node in prompt.items() if node["class_type"] not in OUTPUTS}  # nothing but the taps asks for work
        run = self.last = self.client.run(needed | taps)
        pictures = {name: self.pictures(run, f"see {name}") for name in links}
        return pictures | {name: run.outputs[f"see {name}"]["text"] for name in texts or {}}

    def pictures(self, run: Run, node: str) -> list[Image.Image]:
        """What a node saved or previewed."""
        return [Image.open(BytesIO(data)).convert("RGB") for data in self.client.images(run, node)]

    def shot(self, margin: tuple[int, int, int, int], kind: str = "") -> Image.Image:
        """All nodes of the open graph, or those of a kind, as they are drawn, with a margin at the left, top, right and bottom."""
        left, top, width, height = self.ui.page.evaluate("""kind => {
            const nodes = app.graph.nodes.filter(n => !kind || n.type === kind), title = LiteGraph.NODE_TITLE_HEIGHT
            const low = i => Math.min(...nodes.map(n => n.pos[i])), high = i => Math.max(...nodes.map(n => n.pos[i] + n.size[i]))
            app.canvas.deselectAll()
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [120 - low(0), 200 - low(1)]
            app.canvas.setDirty(true, true)
            return [120, 200 - title, high(0) - low(0), high(1) - low(1) + title]
        }""", kind)
        self.ui.settle()
        clip = {"x": left - margin[0], "y": top - margin[1], "width": width + margin[0] + margin[2], "height": height + margin[1] + margin[3]}
        window = self.ui.page.viewport_size
        # Beside the graph there is room for the minimap and the buttons.
        needed = {"width": max(window["width"], int(left + width) + 300), "height": max(window["height"], int(top + height) + 300)}
        if needed != window:
            self.ui.page.set_viewport_size(needed)
            self.ui.settle()
        return Image.open(BytesIO(self.ui.page.screenshot(clip=clip))).convert("RGB")


def the(prompt: Json, kind: str) -> str:
    """The id of the only node of a kind."""
    (found,) = (node_id for node_id, node in prompt.items() if node["class_type"] == kind)
    return found


def inputs(prompt: Json, kind: str) -> Json:
    """The inputs of the only node of a kind."""
    return prompt[the(prompt, kind)]["inputs"]


def as_image(prompt: Json, mask: Link) -> Link:
    """Adds a node that turns a mask into a picture; returns its output."""
    name = f"mask {mask[0]} {mask[1]}"
    prompt[name] = {"class_type": "MaskToImage", "inputs": {"mask": mask}}
    return [name, 0]


def source_and_mask(prompt: Json) -> dict[str, Link]:
    """The links of the source picture and of its mask as a picture, and of a second mask where there is one."""
    loader = the(prompt, "LoadImage")
    second = {"second": as_image(prompt, [the(prompt, "LoadImageMask"), 0])} if any(one["class_type"] == "LoadImageMask" for one in prompt.values()) else {}
    return {"source": [loader, 0], "mask": as_image(prompt, [loader, 1])} | second


# -- what each node does ------------------------------------------------------------------------------------------------


def latent_mask_resize(studio: Studio) -> Image.Image:
    """A thin scribble beside its latent mask in every mode."""
    prompt = scribbled(studio, "blended_latent_edit", [(1, [(16, 28), (120, 44), (240, 18)]), (3, [(18, 88), (96, 56), (144, 100), (236, 66)]),
                                                       (9, [(24, 132), (24, 236)]), (88, [(132, 184), (180, 184)])])
    resize = the(prompt, "LatentMaskResize")
    modes = studio.client.object_info()["LatentMaskResize"]["input"]["required"]["mode"][1]["options"]
    links = {"mask": source_and_mask(prompt)["mask"]}
    for mode in modes:
        prompt[mode] = {"class_type": "LatentMaskResize", "inputs": prompt[resize]["inputs"] | {"mode": mode}}
        links[mode] = as_image(prompt, [mode, 0])
    made = studio.run(prompt, **links)
    return sheet([Panel("painted, 256x256 pixels", made["mask"][0]), *(Panel(f"{mode}, 32x32", made[mode][0]) for mode in modes)], 3, SIDE)


def scribbled(studio: Studio, example: str, strokes: list[tuple[int, list[tuple[int, int]]]]) -> Json:
    """An example's prompt with these strokes, width and points, painted into the mask of the demo's picture instead of its own."""
    picture = Image.open(INPUTS / "bld_demo_edit.png").convert("RGB")
    alpha = Image.new("L", picture.size, 255)
    draw = ImageDraw.Draw(alpha)
    for width, points in strokes:
        draw.line(points, fill=0, width=width, joint="curve")
    picture.putalpha(alpha)
    file = BytesIO()
    picture.save(file, "PNG")
    prompt = studio.example(example)
    inputs(prompt, "LoadImage")["image"] = studio.client.upload("bld_scribbled.png", file.getvalue())
    return prompt


def progressive_mask_dilate(studio: Studio) -> Image.Image:
    """The masks of the stages, with the part of the schedule that each covers."""
    prompt = scribbled(studio, "thin_stroke", [(5, [(40, 60), (96, 28), (152, 64), (208, 32)]), (112, [(72, 176), (184, 176)])])
    dilate = the(prompt, "ProgressiveMaskDilate")
    made = studio.run(prompt, **source_and_mask(prompt), stages=as_image(prompt, [dilate, 1]))
    ends = [0, *accumulate(studio.last.outputs[dilate]["schedule"][0]["shares"])]
    panels = [Panel(f"{start:.0%} to {end:.0%}", image) for (start, end), image in zip(pairwise(ends), made["stages"], strict=True)]
    return sheet([Panel("mask on the source", painted(made["source"][0], made["mask"][0])), *panels], len(panels) + 1, 180)


def blended_latent_ksampler(studio: Studio) -> Image.Image:
    """Source, mask and candidates of one prompt."""
    prompt = studio.example("blended_latent_edit")
    made = studio.run(prompt, **source_and_mask(prompt), candidates=[the(prompt, "VAEDecode"), 0])
    (source,), (mask,) = made["source"], made["mask"]
    panels = [Panel(f"candidate {index}", image) for index, image in enumerate(made["candidates"][:6])]
    return sheet([Panel("source", source), Panel("mask", painted(source, mask)), *panels], 4, 190)


def apply_mask_schedule(studio: Studio) -> Image.Image:
    """A stock KSampler under a thin stroke: with its own noise mask, and with the schedule; the same seeds."""
    prompt = studio.example("thin_stroke")
    dilate, resize = the(prompt, "ProgressiveMaskDilate"), the(prompt, "LatentMaskResize")
    settings = next(node["inputs"] for node in prompt.values() if node["class_type"] == "BlendedLatentKSampler")
    shared = {key: settings[key] for key in ("steps", "cfg", "positive", "negative", "denoise", "seed")} | {"sampler_name": "dpmpp_2m", "scheduler": "karras"}
    model, vae = settings["model"], inputs(prompt, "VAEEncode")["vae"]
    prompt["scheduled"] = {"class_type": "ApplyMaskSchedule", "inputs": {"model": model, "mask_schedule": [dilate, 0]}}
    prompt["four"] = {"class_type": "RepeatLatentBatch", "inputs": {"samples": [resize, 1], "amount": 4}}
    links = source_and_mask(prompt)
    for name, patched in {"alone": model, "with": ["scheduled", 0]}.items():
        prompt[f"sample {name}"] = {"class_type": "KSampler", "inputs": {**shared, "model": patched, "latent_image": ["four", 0]}}
        prompt[f"decode {name}"] = {"class_type": "VAEDecode", "inputs": {"samples": [f"sample {name}", 0], "vae": vae}}
        links[name] = [f"decode {name}", 0]
    made = studio.run(prompt, **links)
    masked = painted(made["source"][0], made["mask"][0])
    rows = [Panel(f"mask, “{wanted(prompt)[0]}”", masked), *(Panel("KSampler alone", image) for image in made["alone"]),
            Panel("the same mask", masked), *(Panel("with this node", image) for image in made["with"])]
    return sheet(rows, 5, 160)


def decoder_finetune_reconstruct(studio: Studio) -> Image.Image:
    """Source, plain decode and result, with a cut-out of the background and the change of each."""
    prompt = studio.example("blended_latent_edit")
    node = inputs(prompt, "DecoderFinetuneReconstruct")
    prompt["plain"] = {"class_type": "VAEDecode", "inputs": {"samples": node["samples"], "vae": node["vae"]}}
    made = studio.run(prompt, **source_and_mask(prompt), plain=["plain", 0], result=[the(prompt, "DecoderFinetuneReconstruct"), 0])
    names = {"source": "source", "plain": "VAE Decode", "result": "this node"}
    images, box = {name: made[name][0] for name in names}, (0, 150, 100, 250)
    whole = [Panel(label, outlined(images[name], box)) for name, label in names.items()]
    parts = [Panel(f"{label}, enlarged", enlarged(images[name], box)) for name, label in names.items()]
    errors = [Panel("mask", painted(images["source"], made["mask"][0])),
              *(Panel(f"{names[name]}: change x8", changed(images["source"], images[name])) for name in ("plain", "result"))]
    return sheet([*whole, *parts, *errors], 3, 170)


def clip_rank_batch(studio: Studio) -> Image.Image:
    """The candidates as they came, and best first with their scores."""
    prompt = studio.example("pruned_candidates")
    inputs(prompt, "BlendedLatentKSampler").update(candidates=8, seed=1)
    del inputs(prompt, "BlendedLatentKSampler")["pruning"]
    rank = the(prompt, "ClipRankBatch")
    made = studio.run(prompt, {"scores": [rank, 2], "order": [rank, 3]}, candidates=inputs(prompt, "ClipRankBatch")["images"], ranked=[rank, 0])
    before = [Panel(f"candidate {index}", image) for index, image in enumerate(made["candidates"])]
    after = [Panel(f"{place + 1}. candidate {order}: {float(score):.3f}", image, GREEN if place == 0 else None)
             for place, (image, score, order) in enumerate(zip(made["ranked"], made["scores"], made["order"], strict=True))]
    return sheet([*before, *after], 4, 170)


def prune_candidates(studio: Studio) -> Image.Image:
    """All candidates finished without pruning; those that pruning keeps are framed, the others pale."""
    prompt = studio.example("pruned_candidates")
    decode = the(prompt, "VAEDecode")
    sampler = the(prompt, "BlendedLatentKSampler")
    everything = {key: value for key, value in prompt[sampler]["inputs"].items() if key != "pruning"}
    prompt["all"] = {"class_type": "BlendedLatentKSampler", "inputs": everything}
    prompt["decode all"] = {"class_type": "VAEDecode", "inputs": prompt[decode]["inputs"] | {"samples": ["all", 0]}}
    made = studio.run(prompt, all=["decode all", 0], kept=[decode, 0])
    kept = {min(range(len(made["all"])), key=lambda index: distance(made["all"][index], image)) for image in made["kept"]}
    return sheet([Panel(f"{index}: goes on" if index in kept else f"{index}: dropped", image, GREEN if index in kept else None, index not in kept)
                  for index, image in enumerate(made["all"])], 8, 116)


def distance(one: Image.Image, other: Image.Image) -> float:
    """How different two pictures are: 0 for the same."""
    return sum(value * count for value, count in enumerate(changed(one, other).histogram()))


def edit_report(studio: Studio) -> Image.Image:
    """Source, edited picture and the error that the node draws, above the figures that it returns."""
    prompt = studio.example("blended_latent_edit")
    node = inputs(prompt, "DecoderFinetuneReconstruct")
    prompt["plain"] = {"class_type": "VAEDecode", "inputs": {"samples": node["samples"], "vae": node["vae"]}}
    prompt["report"] = {"class_type": "EditReport", "inputs": {"source": node["image"], "edited": ["plain", 0], "mask": node["mask"]}}
    names = ("background_psnr", "worst_block", "seam", "colour_shift")
    made = studio.run(prompt, {name: ["report", index] for index, name in enumerate(names)}, source=node["image"], edited=["plain", 0], error=["report", 5])
    units = ("dB", "dB", "levels of 255", "CIEDE2000")
    figures = lines([(name, f"{float(made[name][0]):.2f} {unit}") for name, unit in zip(names, units, strict=True)], 460)
    labels = {"source": "source", "edited": "edited, VAE Decode", "error": "error, 16 times"}
    return below(sheet([Panel(label, made[name][0]) for name, label in labels.items()], 3, SIDE), figures)


def edit_cut_out(studio: Studio) -> Image.Image:
    """A picture with its mask, the crop, and the crop's mask."""
    prompt = studio.example("large_picture")
    cut = the(prompt, "EditCutOut")
    made = studio.run(prompt, **source_and_mask(prompt), crop=[cut, 0], inside=as_image(prompt, [cut, 1]))
    whole = painted(made["source"][0], made["mask"][0])
    return sheet([Panel("picture and mask", whole), Panel("crop", made["crop"][0]), Panel("its mask", made["inside"][0])], 3, SIDE)


def edit_put_back(studio: Studio) -> Image.Image:
    """The crop, the edited crop, and the whole picture with the edit in it."""
    prompt = studio.example("large_picture")
    back = inputs(prompt, "EditPutBack")
    made = studio.run(prompt, crop=[back["where"][0], 0], edited=back["edited"], whole=[the(prompt, "EditPutBack"), 0])
    return sheet([Panel("crop", made["crop"][0]), Panel("edited", made["edited"][0]), Panel("put back", made["whole"][0])], 3, SIDE)


def open_clip_loader(studio: Studio) -> Image.Image:
    """Where CLIP files go."""
    return lines([("ComfyUI/", ""), ("    models/", ""), ("        open_clip/", ""),
                  ("            ViT-B-16-quickgelu.safetensors", "a file named after its architecture"),
                  ("            my-clip.safetensors", "any name, with its open_clip config beside it:"),
                  ("            my-clip.json", ""),
                  ("            timm/vit_base_patch16_clip_224.openai/", "a pretrained model, as download stores it:"),
                  ("                open_clip_model.safetensors", "")], 860)


# Nodes that need the same samples follow each other, so that the server has them in its cache.
NODES: dict[str, Callable[[Studio], Image.Image]] = {
    "LatentMaskResize": latent_mask_resize,
    "ProgressiveMaskDilate": progressive_mask_dilate,
    "ApplyMaskSchedule": apply_mask_schedule,
    "BlendedLatentKSampler": blended_latent_ksampler,
    "DecoderFinetuneReconstruct": decoder_finetune_reconstruct,
    "EditReport": edit_report,
    "ClipRankBatch": clip_rank_batch,
    "PruneCandidates": prune_candidates,
    "OpenClipLoader": open_clip_loader,
    "EditCutOut": edit_cut_out,
    "EditPutBack": edit_put_back,
}


# -- the nodes and the graphs as the frontend draws them ------------------------------------------------------------------


def node_alone(studio: Studio, kind: str) -> Image.Image:
    """A new node of this kind in an empty graph."""
    studio.ui.page.evaluate("""kind => {
        app.graph.clear()
        const node = LiteGraph.createNode(kind)
        app.graph.add(node)
        const [width, height] = node.computeSize()
        node.setSize([Math.max(width, 380), height])
    }""", kind)
    return studio.shot((14, 30, 14, 14))


# Nodes that show what they did, and the graph that they are shown in: the main example, with a report on its edit.
SHOWING = ("LatentMaskResize", "ProgressiveMaskDilate", "BlendedLatentKSampler", "ClipRankBatch", "DecoderFinetuneReconstruct", "EditReport")
REPORT = """() => {
    const find = kind => app.graph.nodes.find(n => n.type === kind), restore = find('DecoderFinetuneReconstruct')
    const add = (kind, offset, ...sources) => {
        const node = LiteGraph.createNode(kind)
        app.graph.add(node)
        node.pos = [restore.pos[0] + offset, restore.pos[1] + 2000]
        for (const [slot, [source, output]] of sources.entries()) source.connect(output, node, slot)
        return node
    }
    const report = add('EditReport', 0, [find('LoadImage'), 0], [restore, 0], [find('LoadImage'), 1])
    add('PreviewAny', 600, [report, 4])
}"""


def nodes_at_work(studio: Studio, kinds: list[str]) -> dict[str, Image.Image]:
    """Nodes as they look after a run, by kind."""
    studio.ui.open("blended_latent_edit")
    studio.ui.page.evaluate(REPORT)
    studio.ui.run()
    return {kind: studio.shot((14, 30, 14, 14), kind) for kind in kinds}


def graph(studio: Studio, example: str, run: bool) -> Image.Image:
    """An example in the frontend, after a run if asked for."""
    studio.ui.open(example)
    if run:
        studio.ui.run()
    return studio.shot((20, 40, 20, 20))


def example_picture(studio: Studio, name: str) -> Image.Image:
    """Source, mask and result of an example."""
    if name == NEEDS_A_CHECKPOINT:
        return fitted(graph(studio, name, run=False), 1400)
    prompt = studio.example(name)
    links = comparison(prompt) | {"result": inputs(prompt, "SaveImage")["images"]}
    made = studio.run(prompt, **links, **source_and_mask(prompt))
    source, mask, result = (made[key][0] for key in ("source", "mask", "result"))
    if "second" in made:
        mask = ImageChops.lighter(mask, made["second"][0])
    masked, text = painted(source, mask), " and ".join(f"“{text}”" for text in wanted(prompt))
    if "other" in made:
        return sheet([Panel(f"mask, {text}", masked), Panel("without shrinking", made["other"][0]), Panel("with shrinking", result)], 3, 256)
    first, second = LABELS.get(name, ("source", "mask"))
    return sheet([Panel(first, source), Panel(second, masked), Panel(text, result)], 3, 256)


def comparison(prompt: Json) -> dict[str, Link]:
    """The picture without shrinking, where an example draws one."""
    found = [node["inputs"]["images"] for node in prompt.values() if node["_meta"]["title"] == "Without shrinking" and node["class_type"] == "PreviewImage"]
    return {"other": found[0]} if found else {}


def wanted(prompt: Json) -> list[str]:
    """The texts of an example's edits."""
    texts = [node["inputs"] for node in prompt.values() if node["class_type"] in ("PrimitiveStringMultiline", "CLIPTextEncode")]
    return [text for one in texts for text in one.values() if isinstance(text, str) and text]


def fitted(image: Image.Image, width: int) -> Image.Image:
    """The picture scaled down to a width."""
    return image if image.width <= width else image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)


# -- all of them --------------------------------------------------------------------------------------------------------


def draw(studio: Studio, names: list[str]) -> None:
    """Draw the pictures of the nodes, examples and pages named."""
    nodes = [name for name in NODES if name in names]
    for name in nodes:
        save(NODES[name](studio), HELP / f"{name}.jpg")
    showing = [name for name in nodes if name in SHOWING]
    if showing:
        for name, image in nodes_at_work(studio, showing).items():
            save(image, HELP / f"{name}_node.png")
    if len(nodes) > len(showing):
        studio.ui.open()
        for name in nodes:
            if name not in SHOWING:
                save(node_alone(studio, name), HELP / f"{name}_node.png")
    for name in examples():
        if name in names:
            save(example_picture(studio, name), EXAMPLES / f"{name}.jpg")
    if "README" in names:
        save(fitted(graph(studio, SMALLEST, run=True), 1600), DOCS / f"{SMALLEST}.jpg")


def examples() -> list[str]:
    """The names of the example workflows."""
    return sorted(path.stem for path in EXAMPLES.glob("*.json"))


def work(server: Server, browser: Browser, names: list[str]) -> None:
    """Draw these names."""
    with Client(server.url, diagnose=lambda: log_tail(server.log())) as client:
        page = browser.new_page(viewport={"width": 2200, "height": 1500}, device_scale_factor=1.5)
        draw(Studio(client, Ui(page, server.url)), names)


if __name__ == "__main__":
    sys.exit(main(__doc__, [*NODES, *examples(), "README"], work))
