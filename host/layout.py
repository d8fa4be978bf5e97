"""Lays out a workflow: columns of nodes side by side, a group around each step, and long wires in lanes above all of it."""
from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
Size = tuple[float, float]

TITLE = 30  # of a node, above its position
ROW, COLUMN, WIRE, LANE = 60, 110, 14, 24  # pixels between nodes, between columns, and between wires beside and above each other
PAD, HEAD = 24, 44  # between a group's frame and its nodes, and for its heading
COLOR = "#3f789e"


@dataclass(frozen=True)
class Group:
    """One step of a workflow: what it does, in words, and its columns of node ids, from the left and from the top."""

    title: str
    columns: Sequence[Sequence[int]]


@dataclass(frozen=True)
class Slots:
    """How far below a node's position its inputs and outputs are."""

    inputs: Sequence[float]
    outputs: Sequence[float]


def lay_out(workflow: Json, groups: Sequence[Group], sizes: Mapping[int, Size], slots: Mapping[int, Slots]) -> None:
    """Give every node of a saved workflow its place and size, draw the groups, and lead wires that pass by a column around it."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    columns = [list(column) for group in groups for column in group.columns]
    place = {node: index for index, column in enumerate(columns) for node in column}
    long = [link for link in workflow["links"] if place[link[3]] - place[link[1]] > 1]
    lanes = _lanes(long, columns)
    beside = [_upright(index, long, place) for index in range(len(columns))]
    lefts, left = [], 0.0
    for index, column in enumerate(columns):
        lefts.append(left)
        width, top = max(sizes[node][0] for node in column), 0.0
        for node in column:
            nodes[node]["pos"], nodes[node]["size"] = [round(left), round(top)], [round(width), round(sizes[node][1])]
            top += sizes[node][1] + TITLE + ROW
        left += width + COLUMN + WIRE * beside[index]
    workflow["groups"] = _frames(groups, nodes)
    _lead(workflow, long, lanes, slots, place, lefts)


def _upright(index: int, long: Sequence[list], place: Mapping[int, int]) -> int:
    """How many wires run up or down in the gap after a column."""
    rising = {(link[1], link[2]) for link in long if place[link[1]] == index}
    falling = {(link[1], link[2]) for link in long if place[link[3]] == index + 1}
    return len(rising) + len(falling)


def _lanes(long: Sequence[list], columns: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """The outputs whose wires need a lane, (node, slot), the outermost lane first."""
    order = [node for column in columns for node in column]
    return sorted({(link[1], link[2]) for link in long}, key=lambda output: (order.index(output[0]), output[1]))


def _frames(groups: Sequence[Group], nodes: Mapping[int, Json]) -> list[Json]:
    """The groups as a workflow holds them; those without a title are not drawn."""
    frames = []
    for group in groups:
        if not group.title:
            continue
        inside = [nodes[node] for column in group.columns for node in column]
        left, right = min(node["pos"][0] for node in inside), max(node["pos"][0] + node["size"][0] for node in inside)
        bottom = max(node["pos"][1] + node["size"][1] for node in inside)
        bounding = [left - PAD, -TITLE - HEAD, right - left + 2 * PAD, bottom + TITLE + HEAD + PAD]
        frames.append({"id": len(frames) + 1, "title": group.title, "bounding": bounding, "color": COLOR, "flags": {}})
    return frames


def _lead(workflow: Json, long: Sequence[list], lanes: Sequence[tuple[int, int]], slots: Mapping[int, Slots], place: Mapping[int, int],
          lefts: Sequence[float]) -> None:  # fmt: skip
    """Reroutes: from an output up to its lane, along it, and down to the inputs of each column."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    reroutes: list[Json] = []
    extensions = []
    used: dict[int, int] = defaultdict(int)  # wires that come down before a column
    top = -TITLE - HEAD - 2 * LANE

    def reroute(x: float, y: float, parent: int | None, links: Sequence[int]) -> int:
        reroutes.append({"id": len(reroutes) + 1, "pos": [round(x), round(y)], "linkIds": list(links)} | ({} if parent is None else {"parentId": parent}))
        return len(reroutes)

    risen: dict[int, int] = defaultdict(int)
    for index, (origin, slot) in enumerate(lanes):
        lane, node = top - LANE * (len(lanes) - 1 - index), nodes[origin]
        mine = sorted((link for link in long if (link[1], link[2]) == (origin, slot)), key=lambda link: place[link[3]])
        risen[place[origin]] += 1
        x = node["pos"][0] + node["size"][0] + PAD + WIRE * risen[place[origin]]
        everything = [link[0] for link in mine]
        last = reroute(x, node["pos"][1] + slots[origin].outputs[slot], None, everything)
        last = reroute(x, lane, last, everything)
        for column in sorted({place[link[3]] for link in mine}):
            used[column] += 1
            x = lefts[column] - PAD - WIRE * used[column]
            last = reroute(x, lane, last, [link[0] for link in mine if place[link[3]] >= column])
            for link in (link for link in mine if place[link[3]] == column):
                target = nodes[link[3]]
                end = reroute(x, target["pos"][1] + slots[link[3]].inputs[link[4]], last, [link[0]])
                extensions.append({"id": link[0], "parentId": end})
    extra = {key: value for key, value in workflow.get("extra", {}).items() if key not in ("reroutes", "linkExtensions")}
    workflow["extra"] = extra | ({"reroutes": reroutes, "linkExtensions": extensions} if reroutes else {})
