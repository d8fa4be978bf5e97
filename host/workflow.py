"""Turn a workflow as the browser saves it into the prompt that the browser would send (its graphToPrompt)."""
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from host import HostError

Json = dict[str, Any]

VIRTUAL = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}  # nodes that live in the browser only
MUTED, BYPASSED = 2, 4
# The input types for which the browser makes a widget; every type that it does not know is a socket.
DYNAMIC_COMBO, COMPARE = "COMFY_DYNAMICCOMBO_V3", "IMAGECOMPARE"
DEFAULTS: Json = {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "STRING": ""}
WIDGETS = {*DEFAULTS, "COMBO", DYNAMIC_COMBO, COMPARE, "MARKDOWN", "TEXTAREA", "COLOR", "CURVE"}
NOT_CONVERTED = {"BOUNDING_BOX", "BOUNDING_BOXES", "CHART", "COLORS", "GALLERIA", "PAINTER", "RANGE"}
MISSING = object()
# What an input meant before there was one, where its default is another, as js/old_workflows.js has it.
BEFORE = {"ProgressiveMaskDilate": {"where": "everywhere", "inset": 0}, "DecoderFinetuneReconstruct": {"keep_thin_edits": False}}
# The ends of a subgraph's links that are its own inputs and outputs.
TAKES, GIVES = -10, -20


def to_prompt(workflow: Json, object_info: Json) -> Json:
    """The API prompt for a workflow, given the server's /object_info.

    Alternatives in braces inside prompt texts are not drawn. Raises HostError for what the server doesn't know.
    """
    return Graph(unpacked(workflow), object_info).prompt()


def unpacked(workflow: Json) -> Json:
    """The workflow with the nodes of its subgraphs in the place of the nodes that hold them: 5 inside 12 becomes "12:5".

    Raises HostError for a subgraph that is bypassed.
    """
    inside = {one["id"]: one for one in (workflow.get("definitions") or {}).get("subgraphs", [])}
    nodes, links = workflow["nodes"], workflow.get("links", [])
    while holder := next((node for node in nodes if node["type"] in inside), None):
        nodes, links = _unpack(holder, inside[holder["type"]], [node for node in nodes if node is not holder], links)
    return {"nodes": nodes, "links": links}


def _unpack(holder: Json, subgraph: Json, nodes: list[Json], links: list[list[Any]]) -> tuple[list[Json], list[list[Any]]]:
    """The nodes and links with what a subgraph's node holds."""
    if holder.get("mode", 0) == BYPASSED:
        raise HostError(f"The subgraph {subgraph['name']} is bypassed, which is not converted here: unpack it in the browser.")
    outer = {link[0]: link for link in links}
    slots = {slot["name"]: slot for slot in holder.get("inputs", [])}
    takes = [slots.get(one["name"], {}) for one in subgraph["inputs"]]
    shown = [slot["name"] for slot in holder.get("inputs", []) if "widget" in slot]
    values = dict(zip(shown, holder.get("widgets_values") or [], strict=False))
    gives: dict[int, tuple[str, int]] = {}
    added: list[list[Any]] = []
    set_here: dict[tuple[int, int], Any] = {}  # what the holder's own widgets say, by node and input
    for link in subgraph["links"]:
        source, target = (link["origin_id"], link["origin_slot"]), (link["target_id"], link["target_slot"])
        if source[0] == TAKES:
            slot = takes[source[1]]
            if slot.get("link") in outer:
                added.append([_inner(holder, link["id"]), *outer[slot["link"]][1:3], _inner(holder, target[0]), target[1], link["type"]])
            elif slot.get("name") in values:
                set_here[target] = values[slot["name"]]
        elif target[0] == GIVES:
            gives[target[1]] = (_inner(holder, source[0]), source[1])
        else:
            added.append([_inner(holder, link["id"]), _inner(holder, source[0]), source[1], _inner(holder, target[0]), target[1], link["type"]])
    kept = [link for link in links if str(link[3]) != str(holder["id"])]
    led = [[link[0], *(gives.get(link[2], (None, 0)) if str(link[1]) == str(holder["id"]) else link[1:3]), *link[3:]] for link in kept]
    known = {link[0] for link in added}
    inner = []
    for node in subgraph["nodes"]:
        inputs = [slot | {"link": _inner(holder, slot.get("link")) if _inner(holder, slot.get("link")) in known else None} for slot in node.get("inputs", [])]
        given = {slot["name"]: set_here[node["id"], index] for index, slot in enumerate(inputs) if (node["id"], index) in set_here}
        inner.append(node | {"id": _inner(holder, node["id"]), "inputs": inputs, "given": given, "mode": holder.get("mode") or node.get("mode", 0)})
    return [*nodes, *inner], [link for link in [*led, *added] if link[1] is not None]


def _inner(holder: Json, inner: Any) -> str:
    """The name that a node or link inside a subgraph has outside of it."""
    return f"{holder['id']}:{inner}"


def title(node: Json, object_info: Json) -> str:
    """What the browser writes over a node."""
    return node.get("title") or object_info.get(node["type"], {}).get("display_name") or node["type"]


class Graph:
    """A saved workflow with its nodes and links by id."""

    def __init__(self, workflow: Json, object_info: Json) -> None:
        self.nodes: dict[str, Json] = {str(node["id"]): node for node in workflow["nodes"]}
        self.links: dict[int, list[Any]] = {link[0]: link for link in workflow.get("links", [])}
        self.info = object_info
        self._check()

    def prompt(self) -> Json:
        """The prompt. Raises HostError."""
        result = {node_id: self._entry(node) for node_id, node in self.nodes.items() if self._runs(node)}
        for entry in result.values():
            entry["inputs"] = {name: value for name, value in entry["inputs"].items()
                               if not (is_link(value) and value[0] not in result)}
        return result

    def _check(self) -> None:
        used = {node["type"] for node in self.nodes.values() if self._runs(node)}
        unknown = sorted(used - set(self.info))
        if unknown:
            raise HostError(f"The workflow uses nodes that ComfyUI does not know: {', '.join(unknown)}.")

    def _runs(self, node: Json) -> bool:
        return node["type"] not in VIRTUAL and node.get("mode", 0) not in (MUTED, BYPASSED)

    def _entry(self, node: Json) -> Json:
        inputs = {name: wrap(value) for name, value in [*widget_values(node, self.info[node["type"]]), *node.get("given", {}).items()]}
        for slot in node.get("inputs", []):
            primitive = self._primitive_value(slot)
            if primitive is not MISSING:
                inputs[slot["name"]] = primitive
            source = self._resolve_input(slot, slot["type"], set())
            if source is not None:
                inputs[slot["name"]] = list(source)
        return {"inputs": inputs, "class_type": node["type"], "_meta": {"title": title(node, self.info)}}

    def _primitive_value(self, slot: Json) -> Any:
        """The value of a PrimitiveNode that feeds an input: the browser copies it into the widget."""
        link = self.links.get(slot.get("link"))
        origin = self.nodes[str(link[1])] if link else None
        if origin is None or origin["type"] != "PrimitiveNode" or not origin.get("widgets_values"):
            return MISSING
        return origin["widgets_values"][0]

    def _resolve_input(self, slot: Json, kind: str, seen: set[tuple[str, int]]) -> tuple[str, int] | None:
        """The node and output that an input gets its value from, through reroutes and bypassed nodes."""
        link = self.links.get(slot.get("link"))
        if link is None:
            return None
        node_id, index = str(link[1]), int(link[2])
        if (node_id, index) in seen:
            raise HostError(f"The links of the workflow run in a circle through node {node_id}.")
        seen.add((node_id, index))
        node = self.nodes[node_id]
        if self._runs(node):
            return node_id, index
        inputs = node.get("inputs", [])
        through = self._way_through(node, index, kind)
        return None if through is None else self._resolve_input(inputs[through], kind, seen)

    def _way_through(self, node: Json, index: int, kind: str) -> int | None:
        """Which input a node that does not run passes on at an output."""
        inputs = node.get("inputs", [])
        if node.get("mode", 0) == MUTED or not inputs:
            return None
        if node.get("mode", 0) != BYPASSED:
            return index if node["type"] == "Reroute" else None
        if kind in ("*", ""):
            return index if len(inputs) > index else 0
        offered = node["outputs"][index]["type"]

        def fits(slot: Json) -> bool:
            return connects(slot["type"], offered) and connects(slot["type"], kind)

        if index < len(inputs) and fits(inputs[index]):
            return index
        exact = [i for i, slot in enumerate(inputs) if slot["type"] == kind]
        loose = [i for i, slot in enumerate(inputs) if fits(slot)]
        return next(iter(exact + loose), None)


def widget_values(node: Json, info: Json) -> Iterator[tuple[str, Any]]:
    """Name and value of each widget of a node that goes into the prompt. Raises HostError."""
    values = node.get("widgets_values") or []
    if not isinstance(values, list):
        raise HostError(f"The widgets_values of node {node['id']} ({node['type']}) are not a list.")
    if node["type"] == "CustomCombo":  # its options are the browser's own
        yield from _own_combo(values)
        return
    meant = BEFORE.get(node["type"], {}) if values else {}
    yield from _assign(info["input"], info.get("input_order", {}), "", iter(values), meant)


def _own_combo(values: list[Any]) -> Iterator[tuple[str, Any]]:
    """Choice and options of a Custom Combo, and which of them is chosen."""
    choice, _, *options = values
    yield "choice", choice
    yield "index", options.index(choice)
    yield from ((f"option{index}", option) for index, option in enumerate(options, 1))


def _assign(groups: Json, order: Json, prefix: str, values: Iterator[Any], meant: Json) -> Iterator[tuple[str, Any]]:
    """meant: what a missing value stands for where that is not the default."""
    for name, spec in _ordered(groups, order):
        kind, options = _kind(spec)
        if kind in NOT_CONVERTED:
            raise HostError(f"The input {prefix + name} has a widget of the type {kind}, which is not converted here.")
        if kind not in WIDGETS or options.get("forceInput"):
            continue
        value = ["", ""] if kind == COMPARE else next(values, MISSING)  # the browser sends that one and saves it not
        full = prefix + name
        if value is MISSING:
            value = meant.get(full, _default(kind, spec, options))
        yield full, value
        if kind == DYNAMIC_COMBO:
            chosen = next((option["inputs"] for option in options["options"] if option["key"] == value), {})
            yield from _assign(chosen, {}, full + ".", values, meant)
        # The browser keeps its own "control after generate" widgets in the list, and doesn't send them.
        for _ in range(_control_widgets(full, kind, options)):
            next(values, None)


def _ordered(groups: Json, order: Json) -> Iterator[tuple[str, list[Any]]]:
    for group in ("required", "optional"):
        specs = groups.get(group) or {}
        names = [name for name in order.get(group, []) if name in specs]
        for name in [*names, *(name for name in specs if name not in names)]:
            yield name, specs[name]


def _kind(spec: list[Any]) -> tuple[str, Json]:
    options = spec[1] if len(spec) > 1 else {}
    return ("COMBO" if isinstance(spec[0], list) else options.get("widgetType", spec[0])), options


def _default(kind: str, spec: list[Any], options: Json) -> Any:
    if kind == DYNAMIC_COMBO:
        return options["options"][0]["key"]
    if kind == "COMBO":
        choices = spec[0] if isinstance(spec[0], list) else options.get("options") or [None]
        return options.get("default") or next(iter(choices), None)
    return options.get("default", DEFAULTS.get(kind))


def _control_widgets(name: str, kind: str, options: Json) -> int:
    """How many entries of widgets_values follow a widget that the browser can change after each run."""
    control = options.get("control_after_generate", kind == "INT" and name in ("seed", "noise_seed"))
    if not control:
        return 0
    return {"INT": 1, "FLOAT": 1, "COMBO": 2}.get(kind, 0)


def wrap(value: Any) -> Any:
    """A list marked as a value: a bare list in a prompt is a link."""
    return {"__value__": value} if isinstance(value, list) else value


def is_link(value: Any) -> bool:
    """Whether a prompt's input is a link to another node."""
    return isinstance(value, list) and len(value) == 2


def connects(one: str, other: str) -> bool:
    """Whether the browser lets a link run between two socket types."""
    if str(one) in ("", "*", "0") or str(other) in ("", "*", "0"):
        return True
    return bool(set(str(one).lower().split(",")) & set(str(other).lower().split(",")))
