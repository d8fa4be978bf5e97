"""Make the files of the example workflows and the blueprint from host/examples.py: built, run and measured in the real frontend, then laid out.

    python run.py compose [NAME ...]

NAME is an example or `blueprint`; without one, all are made.

Each is opened in both of the frontend's renderers, before, during and after a run, and every node gets the room that it takes at most.
"""
from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from host import examples, layout
from host.examples import EXAMPLES, Graph, Node
from host.server import ROOT, Server
from host.ui import Ui
from host.workshop import main

Json = dict[str, Any]

FOLDER, BLUEPRINTS = ROOT / "example_workflows", ROOT / "subgraphs"
TAKES, GIVES, FIRST = -10, -20, 100  # the ids of a subgraph's own inputs and outputs, and below those of its nodes
NEEDS_A_CHECKPOINT = "sd15_or_sdxl"
# Nodes are made, set and linked as by hand, so that the file is what the frontend would save.
BUILD = """async ({start, nodes, links}) => {
    if (start) await app.loadGraphData(start)
    const made = {}
    for (const {name, kind, title, values} of nodes) {
        const node = made[name] = app.graph.nodes.find(n => n.title === kind) ?? LiteGraph.createNode(kind)
        if (!node) throw new Error(`the frontend knows no ${kind}`)
        if (!node.graph) app.graph.add(node)
        if (title) node.title = title
        for (const [key, value] of Object.entries({control_after_generate: 'fixed', ...values})) {
            const widget = node.widgets?.find(w => w.name === key)
            if (widget) {
                widget.value = value
                widget.callback?.(value, app.canvas, node)
                // An older frontend takes the values from inside a subgraph.
                for (const id of node.subgraph?.inputs.find(slot => slot.name === key)?.linkIds ?? []) {
                    const { target_id, target_slot } = node.subgraph.links.get(id)
                    const inner = node.subgraph.getNodeById(target_id), shown = inner.inputs[target_slot].widget.name
                    inner.widgets.find(w => w.name === shown).value = value
                }
            } else if (key !== 'control_after_generate') throw new Error(`${kind} has no widget ${key}`)
        }
    }
    for (const {from, output, to, input} of links) {
        const [origin, target] = [made[from], made[to]]
        const slots = [origin.findOutputSlot(output), target.findInputSlot(input)]
        if (slots.includes(-1) || !origin.connect(slots[0], target, slots[1])) throw new Error(`no link ${from}.${output} to ${to}.${input}`)
    }
    return {workflow: app.graph.serialize(), ids: Object.fromEntries(Object.entries(made).map(([name, node]) => [name, Number(node.id)]))}
}"""
MEASURE = """() => Object.fromEntries(app.canvas.graph.nodes.map(n => [n.id, {
    size: [...n.size],
    inputs: (n.inputs ?? []).map((_, i) => n.getInputPos(i)[1] - n.pos[1]),
    outputs: (n.outputs ?? []).map((_, i) => n.getOutputPos(i)[1] - n.pos[1]),
}]))"""
# Few steps: how much room a node takes does not depend on them. Another seed: ComfyUI samples nothing twice.
HURRY = """seed => {
    for (const node of [app.rootGraph, ...app.rootGraph.subgraphs.values()].flatMap(graph => graph.nodes))
        for (const widget of node.widgets ?? []) widget.value = {seed, steps: 12, 'method.iterations': 1, quality: 'quick'}[widget.name] ?? widget.value
}"""
# What the frontend writes into a file that depends on who saved it.
PASSING = {"cnr_id", "ver", "aux_id"}


def read(path: Path) -> Json:
    """A workflow from its file."""
    return json.loads(path.read_text(encoding="utf-8"))


def named(graph: Graph) -> Iterator[tuple[str, Node]]:
    """All nodes of a graph, by name."""
    for step in graph:
        for column in step.columns:
            yield from column.items()


def build(ui: Ui, graph: Graph, start: Json | None = None) -> tuple[Json, dict[str, int]]:
    """The graph as the frontend saves it, without its links to "@in", and the ids of its nodes by name. start: what is open before."""
    nodes, links = [], []
    for name, node in named(graph):
        values = {}
        for key, value in node.inputs.items():
            if isinstance(value, str) and value.startswith("@"):
                origin, _, output = value[1:].rpartition(".")
                if origin != "in":
                    links.append({"from": origin, "output": output, "to": name, "input": key})
                elif output in examples.WIDGETS:
                    values[key] = examples.WIDGETS[output]
            else:
                values[key] = value
        nodes.append({"name": name, "kind": node.kind, "title": node.title, "values": values})
    made = ui.page.evaluate(BUILD, {"start": start, "nodes": nodes, "links": links})
    return made["workflow"], made["ids"]


def tidy(workflow: Json, name: str) -> None:
    """Leave out what differs from one machine or run to the next."""
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://github.com/blended-latent-diffusion/{name}"))
    workflow["extra"] = {}
    for index, node in enumerate(workflow["nodes"]):
        node["properties"] = {key: value for key, value in node["properties"].items() if key not in PASSING}
        node["flags"] = {}
        for side in ("inputs", "outputs"):
            node[side] = [given(slot) for slot in node.get(side, [])]
        workflow["nodes"][index] = given(node)


def given(part: Json) -> Json:
    """Without what is null, links apart."""
    return {key: value for key, value in part.items() if value is not None or key in ("link", "links")}


def compose(ui: Ui, name: str) -> Json:
    """The finished workflow of an example. The blueprint must be there."""
    graph = EXAMPLES[name]()
    start = read(BLUEPRINTS / f"{examples.BLUEPRINT}.json") if any(node.kind == examples.BLUEPRINT for _, node in named(graph)) else None
    workflow, ids = build(ui, graph, start)
    tidy(workflow, name)
    if start:
        ((saved,), (inside,)) = (one["definitions"]["subgraphs"] for one in (workflow, start))
        set_here = {node["id"]: {"widgets_values": node["widgets_values"]} for node in saved["nodes"] if node.get("widgets_values")}
        inside["nodes"] = [node | set_here.get(node["id"], {}) for node in inside["nodes"]]
        workflow["definitions"] = start["definitions"]
    groups = [layout.Group(step.title, [[ids[key] for key in column] for column in step.columns]) for step in graph]
    room = Room({ids[key]: node for key, node in named(graph)})
    layout.lay_out(workflow, groups, room.sizes, room.slots)
    for vue in (True, False):
        ui.show_renderer(vue)
        ui.load(workflow)
        room.take(ui)
        if name != NEEDS_A_CHECKPOINT:
            room.take_of_run(ui, seed=int(vue))
    layout.lay_out(workflow, groups, room.sizes, room.slots)
    return workflow


class Room:
    """The room that each node of a graph takes at most, and where its slots are."""

    def __init__(self, nodes: dict[int, Node]) -> None:
        self.sizes = {key: (float(node.width), float(node.height)) for key, node in nodes.items()}
        self.slots = {key: layout.Slots([20.0] * 40, [20.0] * 10) for key in nodes}

    def take(self, ui: Ui) -> None:
        """Look at the nodes as they are drawn now."""
        ui.settle()
        for key, found in ui.page.evaluate(MEASURE).items():
            width, height = self.sizes[int(key)]
            self.sizes[int(key)] = max(width, found["size"][0]), max(height, 10 * -(-found["size"][1] // 10))
            self.slots[int(key)] = layout.Slots(found["inputs"], found["outputs"])

    def take_of_run(self, ui: Ui, seed: int) -> None:
        """Look at them during a run, with a live preview, and after it."""
        ui.page.evaluate(HURRY, seed)
        ui.set("Comfy.Execution.PreviewMethod", "latent2rgb")
        ui.run(during=lambda: self.take(ui))
        self.take(ui)


# -- the blueprint ------------------------------------------------------------------------------------------------------------


def blueprint(ui: Ui) -> Json:
    """The finished blueprint: a workflow of its one node, with what is inside."""
    graph = examples.blueprint()
    workflow, ids = build(ui, graph)
    tidy(workflow, examples.BLUEPRINT)
    inside = Inside(workflow, graph, ids)
    room = Room({key + FIRST: node for key, node in ((ids[name], node) for name, node in named(graph))})
    draft = inside.blueprint(room)
    for vue in (True, False):
        ui.show_renderer(vue)
        build(ui, EXAMPLES["one_node"](), draft)
        ui.enter(examples.BLUEPRINT)
        room.take(ui)
        room.take_of_run(ui, seed=int(vue))
    return inside.blueprint(room)


class Inside:
    """The nodes of a subgraph, with their links to its own inputs and outputs."""

    def __init__(self, workflow: Json, graph: Graph, ids: dict[str, int]) -> None:
        self.id = workflow["id"]
        self.nodes = {node["id"] + FIRST: node | {"id": node["id"] + FIRST} for node in workflow["nodes"]}
        self.links = [[link[0], link[1] + FIRST, link[2], link[3] + FIRST, *link[4:]] for link in workflow["links"]]
        self.graph = graph
        self.ids = {name: key + FIRST for name, key in ids.items()}
        self.takes = [*examples.SOCKETS, *examples.WIDGETS]
        self.types = dict(examples.SOCKETS)
        for name, node in named(graph):
            for key, value in node.inputs.items():
                if str(value).startswith("@in."):
                    self._take(value.removeprefix("@in."), self.nodes[self.ids[name]], key)
        for index, link in enumerate(examples.GIVES.values()):
            origin, _, output = link[1:].rpartition(".")
            self._give(index, self.nodes[self.ids[origin]], output)

    def _take(self, name: str, node: Json, key: str) -> None:
        """Link an input of the subgraph to one of a node."""
        slot = next(index for index, one in enumerate(node["inputs"]) if one["name"] == key)
        self.types[name] = node["inputs"][slot]["type"]
        node["inputs"][slot]["link"] = self._link(TAKES, self.takes.index(name), node["id"], slot, self.types[name])

    def _give(self, index: int, node: Json, output: str) -> None:
        """Link an output of a node to one of the subgraph."""
        slot = next(index for index, one in enumerate(node["outputs"]) if one["name"] == output)
        link = self._link(node["id"], slot, GIVES, index, node["outputs"][slot]["type"])
        node["outputs"][slot]["links"] = [*(node["outputs"][slot]["links"] or []), link]

    def _link(self, *ends: Any) -> int:
        self.links.append([max((link[0] for link in self.links), default=0) + 1, *ends])
        return self.links[-1][0]

    def blueprint(self, room: Room) -> Json:
        """The workflow of the blueprint, laid out in this room."""
        ends = {TAKES: {"id": TAKES}, GIVES: {"id": GIVES}}
        counts = {TAKES: len(self.takes), GIVES: len(examples.GIVES)}
        heights = {key: 40.0 + 20 * count for key, count in counts.items()}
        rows = {key: [20.0 + 20 * row for row in range(count)] for key, count in counts.items()}
        scene = {"nodes": [*self.nodes.values(), *ends.values()], "links": self.links}
        steps = [layout.Group(step.title, [[self.ids[name] for name in column] for column in step.columns]) for step in self.graph]
        groups = [layout.Group("", [[TAKES]]), *steps, layout.Group("", [[GIVES]])]
        sizes = room.sizes | {key: (140.0, height) for key, height in heights.items()}
        slots = room.slots | {key: layout.Slots(row, row) for key, row in rows.items()}
        layout.lay_out(scene, groups, sizes, slots)
        node = {"id": 1, "type": self.id, "pos": [0, 0], "size": [examples.WIDE, 500], "flags": {}, "order": 0, "mode": 0, "inputs": self._inputs(),
                "outputs": [{"name": name, "type": self._type(name), "links": []} for name in examples.GIVES], "properties": {}, "widgets_values": [],
                "title": examples.BLUEPRINT}  # fmt: skip
        return {"revision": 0, "last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": [], "version": 0.4,
                "definitions": {"subgraphs": [self._definition(scene, ends, heights)]},
                "extra": {"BlueprintDescription": examples.ABOUT, "BlueprintSearchAliases": examples.ALIASES}}  # fmt: skip

    def _inputs(self) -> list[Json]:
        return [{"name": name, "type": self.types[name], "link": None} | ({"widget": {"name": name}} if name in examples.WIDGETS else {})
                for name in self.takes]  # fmt: skip

    def _type(self, output: str) -> str:
        index = list(examples.GIVES).index(output)
        return next(link[5] for link in self.links if link[3:5] == [GIVES, index])

    def _definition(self, scene: Json, ends: dict[int, Json], heights: dict[int, float]) -> Json:
        """The subgraph itself."""
        parents = {one["id"]: one["parentId"] for one in scene["extra"].get("linkExtensions", [])}
        reroutes = scene["extra"].get("reroutes", [])
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        links = [dict(zip(names, link, strict=True)) | ({"parentId": parents[link[0]]} if link[0] in parents else {}) for link in self.links]

        def slot(kind: str, index: int, name: str, type_: str, end: int, side: int) -> Json:
            mine = [link[0] for link in self.links if (link[1:3] if side == 1 else link[3:5]) == [end, index]]
            left, top = ends[end]["pos"]
            return {"id": str(uuid.uuid5(uuid.UUID(self.id), f"{kind} {name}")), "name": name, "type": type_, "linkIds": mine,
                    "pos": [left + (120 if side == 1 else 20), top + 20 + 20 * index]}  # fmt: skip

        return {
            "id": self.id, "version": 1, "revision": 0, "config": {}, "name": examples.BLUEPRINT,
            "state": {"lastGroupId": len(scene["groups"]), "lastNodeId": max(self.nodes), "lastLinkId": len(self.links), "lastRerouteId": len(reroutes)},
            "inputNode": {"id": TAKES, "bounding": [*ends[TAKES]["pos"], 140, heights[TAKES]]},
            "outputNode": {"id": GIVES, "bounding": [*ends[GIVES]["pos"], 140, heights[GIVES]]},
            "inputs": [slot("input", index, name, self.types[name], TAKES, 1) for index, name in enumerate(self.takes)],
            "outputs": [slot("output", index, name, self._type(name), GIVES, 3) for index, name in enumerate(examples.GIVES)],
            "widgets": [], "nodes": [self.nodes[key] for key in sorted(self.nodes)], "groups": scene["groups"], "links": links, "reroutes": reroutes,
            "extra": {}, "category": "Image generation and editing/Inpaint image", "description": examples.ABOUT,
        }  # fmt: skip


def work(server: Server, browser: Browser, names: list[str]) -> None:
    """Write the files of these names."""
    for name in names:
        page = browser.new_page(viewport={"width": 1600, "height": 1000})
        ui = Ui(page, server.url)
        ui.open()
        if name == "blueprint":
            write(BLUEPRINTS / f"{examples.BLUEPRINT}.json", blueprint(ui))
        else:
            write(FOLDER / f"{name}.json", compose(ui, name))
        page.close()


def write(path: Path, workflow: Json) -> None:
    """Write a workflow, and say how large it is."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(workflow, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path.name}: {len(workflow['nodes'])} nodes", flush=True)


if __name__ == "__main__":
    sys.exit(main(__doc__, ["blueprint", *EXAMPLES], work))
