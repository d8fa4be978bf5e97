"""The real frontend: each example opens, is what the server gets, runs at a press of Run and shows its result."""

from __future__ import annotations

import json
import re

import pytest
from test_conversion import meant
from test_workflows import EXAMPLES, NEEDS_A_CHECKPOINT, nodes_of, workflow

from conftest import ROOT, needs_math
from host import compose, examples
from host.server import PACK


def faults(ui, wires: bool = True) -> dict[str, list]:
    """What is wrong with how the open graph is laid out, its wires only if asked for, and what the console complains of."""
    behind = ui.wires_behind_nodes() if wires else []
    found = {"nodes that cover each other": ui.overlaps(), "wires behind other nodes": behind, "complaints": ui.complaints}
    return {what: those for what, those in found.items() if those}


def show_all_is_well(ui, when: str, vue: bool, wires: bool = True) -> None:
    """The open graph and what is inside its blueprint are laid out well in one renderer."""
    ui.show_renderer(vue)
    when = f"{when}, {'Nodes 2.0' if vue else 'classic'}"
    assert faults(ui, wires) == {}, when
    ui.keep(when)
    if examples.BLUEPRINT in ui.titles():
        ui.enter(examples.BLUEPRINT)
        assert faults(ui) == {}, f"{when}, inside the blueprint"
        ui.leave()


# The demo model and its picture in the places of a checkpoint and another picture, which no test has.
WITH_THE_DEMO = """() => {
    const node = kind => app.graph.nodes.find(n => n.type === kind)
    const set = (node, name, value) => { node.widgets.find(w => w.name === name).value = value }
    const checkpoint = node("CheckpointLoaderSimple"), demo = LiteGraph.createNode("LoadDemoModel")
    demo.pos = [...checkpoint.pos]
    demo.size = [...checkpoint.size]
    app.graph.add(demo)
    for (const [slot, { links }] of checkpoint.outputs.entries())
        for (const { target_id, target_slot } of (links ?? []).map(id => app.graph.getLink(id)))
            demo.connect(slot, app.graph.getNodeById(target_id), target_slot)
    app.graph.remove(checkpoint)
    set(node("LoadImage"), "image", "bld_demo_edit.png")
    set(node("OpenClipLoader"), "clip_name", "bld_demo_clip.safetensors")
}"""
# Few steps, in subgraphs too: that each node runs and shows what it made doesn't depend on them, and they take most of the time.
SHORTEN = """() => {
    const most = { "steps": 8, "method.iterations": 5 }
    const nodes = graph => graph.nodes.flatMap(node => node.subgraph ? [node, ...nodes(node.subgraph)] : [node])
    for (const node of nodes(app.graph)) for (const widget of node.widgets ?? []) {
        if (widget.name in most) widget.value = Math.min(widget.value, most[widget.name])
        if (widget.name === "quality") widget.value = "quick"
    }
}"""


def show_pictures(ui) -> None:
    """Each node that shows pictures has some."""
    shown, prompt = ui.pictures(), ui.prompt()
    for kind in ("SaveImage", "PreviewImage"):
        for node in nodes_of(prompt, kind):
            assert shown.get(node), f"{kind} {node} shows nothing"


@pytest.mark.promise("templates")
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_opens_and_runs_well_in_both_renderers(ui, client, name):
    """One run is shown in both: what it computes doesn't depend on who shows it."""
    if name == "one_node":
        needs_math(client)
    ui.open(name)
    assert ui.missing_nodes() == []
    sent, ours = (meant(prompt, client.object_info()) for prompt in (ui.prompt(), client.prompt(workflow(name))))
    assert sent == ours, "our client sends what the browser sends"
    for vue in (False, True):
        show_all_is_well(ui, "before a run", vue)
    wires = name not in NEEDS_A_CHECKPOINT
    if not wires:
        ui.page.evaluate(WITH_THE_DEMO)  # whose wires go straight
    ui.page.evaluate(SHORTEN)
    ui.set("Comfy.Execution.PreviewMethod", "latent2rgb")
    record = ui.run(during=lambda: [show_all_is_well(ui, "during a run", vue, wires) for vue in (True, False)])
    assert record["status"]["status_str"] == "success"
    for vue in (False, True):
        show_all_is_well(ui, "after a run", vue, wires)
        show_pictures(ui)


def test_a_node_that_covers_another_and_a_wire_behind_one_are_found(ui):
    ui.open("smallest_graph")
    ui.page.evaluate("""() => {
        const [encode, sampler] = ['VAEEncode', 'BlendedLatentKSampler'].map(type => app.graph.nodes.find(n => n.type === type))
        encode.pos = [sampler.pos[0] + 10, sampler.pos[1] + 60]
    }""")
    found = faults(ui)
    assert len(found["nodes that cover each other"]) == 1 and any("runs behind Blended Latent KSampler" in wire for wire in found["wires behind other nodes"])


@pytest.mark.promise("blueprint")
def test_the_blueprint_comes_from_the_node_search_and_gives_a_result(ui, client):
    needs_math(client)
    ui.open()
    ui.add(examples.BLUEPRINT)
    compose.build(ui, examples.one_node())
    ui.page.evaluate(SHORTEN)
    assert ui.run()["status"]["status_str"] == "success"
    shown, prompt = ui.pictures(), ui.prompt()
    assert {kind: shown[node] for kind in ("SaveImage", "PreviewImage") for node in nodes_of(prompt, kind)} == {"SaveImage": 1, "PreviewImage": 8}
    assert ui.complaints == []


@pytest.mark.parametrize(("quality", "steps", "fit"), [("quick", 12, 10), ("balanced", 20, 20), ("best", 50, 75)])
def test_the_quality_of_the_blueprint_sets_the_steps(client, quality, steps, fit):
    needs_math(client)
    blueprint = workflow("one_node")
    (holder,) = (node for node in blueprint["nodes"] if node["type"] == blueprint["definitions"]["subgraphs"][0]["id"])
    holder["widgets_values"][2] = quality
    prompt = client.prompt(blueprint)
    sampler, restore = (prompt[nodes_of(prompt, kind)[0]]["inputs"] for kind in ("BlendedLatentKSampler", "DecoderFinetuneReconstruct"))
    chosen = {"steps": sampler["steps"], "fit": restore["method.iterations"]}
    asked = {f"see {name}": {"class_type": "PreviewAny", "inputs": {"source": link}} for name, link in chosen.items()}
    needed = {key: node for key, node in prompt.items() if node["class_type"] in ("CustomCombo", "StringCompare", "ComfyMathExpression")}
    run = client.run(needed | asked)
    assert [run.outputs[f"see {name}"]["text"] for name in chosen] == [[str(steps)], [str(fit)]]


ADDED = {"ClipRankBatch": {"pick": "", "frames": 1}, "DecoderFinetuneReconstruct": {"keep_thin_edits": False, "frames": 1},
         "ProgressiveMaskDilate": {"where": "everywhere", "thin": 2, "inset": 0}}  # fmt: skip


def test_a_workflow_from_before_inputs_were_added_means_what_it_meant(ui):
    """tests/old_workflow.json stays as it was saved then."""
    saved = json.loads((ROOT / "tests" / "old_workflow.json").read_text(encoding="utf-8"))
    ui.open()
    ui.load(saved)
    prompt = ui.prompt()
    for node in (node for node in saved["nodes"] if node["type"] in ADDED):
        names = [slot["name"] for slot in node["inputs"] if "widget" in slot]
        meant = dict(zip(names, node["widgets_values"], strict=True)) | ADDED[node["type"]]
        told = {name: value for name, value in prompt[str(node["id"])]["inputs"].items() if not isinstance(value, list)}
        assert told == {name: value for name, value in meant.items() if name in told} and told.keys() >= ADDED[node["type"]].keys()
    assert ui.complaints == []


FOUND_BY = {"inpaint": "Blended Latent KSampler", "seam": "Decoder Finetune Reconstruct", "best of": "CLIP Rank Batch", "pick": "CLIP Rank Batch",
            "compare": "Edit Report", "thin mask": "Progressive Mask Dilate", "blended latent edit": examples.BLUEPRINT}  # fmt: skip


@pytest.mark.parametrize(("words", "title"), FOUND_BY.items())
def test_the_node_search_finds_the_right_node_of_ours_first(ui, words, title):
    """Other packs' nodes that have the words in their names always come before."""
    ui.renew()  # the search box of the page opens once for sure
    ui.open()
    found = ui.search(words)
    assert next(name for name, *about in found if PACK in about or name == examples.BLUEPRINT) == title, found


@pytest.mark.promise("help-pages")
def test_every_help_page_opens_with_all_its_pictures(ui):
    ui.open()
    ui.renew()  # the help stays open
    nodes = json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8"))
    for page in (ROOT / "js" / "docs" / f"{node}.md" for node in nodes):
        linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        shown = ui.help_pictures(page.stem)
        assert len(linked) >= 2 and [source.rpartition("/docs/")[2] for source in shown] == linked, page.stem
        assert all(width > 0 for width in shown.values()), f"{page.stem}: {shown}"
    assert ui.complaints == []
