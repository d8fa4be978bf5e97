"""The workflow: read from a file in either format, and made into a prompt with other values in it."""
from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from host import HostError
from host.server import ROOT
from host.workflow import DYNAMIC_COMBO, to_prompt

Json = dict[str, Any]
Address = tuple[str, str]  # the id of a node in the prompt, and the name of an input of it

EXAMPLES = ROOT / "example_workflows"
MARK = "bld: whose value is this?"


class Workflow:
    """A workflow in the format of the browser or of the API. `prompt` is what the server would get for it as it is.

    Raises HostError for what is neither, and for nodes that the server doesn't know.
    """

    def __init__(self, content: Json, object_info: Json) -> None:
        self.content = content
        self.info = object_info
        self.saved_by_browser = isinstance(content.get("nodes"), list)
        if not self.saved_by_browser and not _is_prompt(content):
            raise HostError("The workflow is neither one that ComfyUI's browser saves nor one in its API format.")
        self.prompt: Json = to_prompt(content, object_info) if self.saved_by_browser else content
        self._places: dict[Address, list[Any]] = {}
        unknown = sorted({node["class_type"] for node in self.prompt.values()} - set(object_info))
        if unknown:
            raise HostError(f"The workflow uses nodes that ComfyUI does not know: {', '.join(unknown)}.")

    def filled(self, values: Mapping[Address, Any]) -> tuple[Json, Json | None]:
        """The prompt with these values, and the workflow with them as the browser opens it, None for the API format. Raises HostError."""
        content = copy.deepcopy(self.content)
        if not self.saved_by_browser:
            for (node, name), value in values.items():
                content[node]["inputs"][name] = value
            return content, None
        for address, value in values.items():
            _put(content, self._place(address), value)
        return to_prompt(content, self.info), content

    def spec(self, address: Address) -> list[Any]:
        """How the server describes an input: its type, and its options if it has some."""
        node, name = address
        groups = self.info[self.prompt[node]["class_type"]]["input"]
        return next((group[name] for group in groups.values() if name in group), ["*"])

    def _place(self, address: Address) -> list[Any]:
        """Where in the file the value of an input is kept: of a widget, a primitive or the node of a subgraph. Raises HostError."""
        if address not in self._places:
            node, name = address
            if self.spec(address)[0] == DYNAMIC_COMBO:
                raise HostError(f"The input {name} of node {node} decides which other inputs the node has, so a saved workflow can't take another one: "
                                "save it with the choice that you want, or export it as API.")
            found = (place for place, value in _widgets(self.content) if value == self.prompt[node]["inputs"][name] and self._leads(place, address))
            place = next(found, None)
            if place is None:
                raise HostError(f"The input {name} of node {node} has no widget in the workflow, so it cannot be set.")
            self._places[address] = place
        return self._places[address]

    def _leads(self, place: list[Any], address: Address) -> bool:
        """Whether what is written there is what an input gets."""
        trial = copy.deepcopy(self.content)
        _put(trial, place, MARK)
        return to_prompt(trial, self.info)[address[0]]["inputs"].get(address[1]) == MARK


def read_workflow(name: str) -> Json:
    """The content of a workflow file, or of the example of this name. Raises HostError."""
    example = EXAMPLES / f"{name}.json"
    path = example if example.is_file() else Path(name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        examples = ", ".join(sorted(path.stem for path in EXAMPLES.glob("*.json")))
        raise HostError(f"Cannot read the workflow {name}: {error}. Name a file, or one of the examples: {examples}.") from None
    if not isinstance(content, dict):
        raise HostError(f"{name} is not a workflow.")
    return content


def _is_prompt(content: Json) -> bool:
    return bool(content) and all(isinstance(node, dict) and "class_type" in node and "inputs" in node for node in content.values())


def _widgets(content: Json) -> Iterator[tuple[list[Any], Any]]:
    """Place and value of every widget of the workflow and of its subgraphs."""
    graphs: list[tuple[list[Any], Json]] = [([], content)]
    for index, inside in enumerate((content.get("definitions") or {}).get("subgraphs", [])):
        graphs.append((["definitions", "subgraphs", index], inside))
    for path, graph in graphs:
        for index, node in enumerate(graph["nodes"]):
            for slot, value in enumerate(node.get("widgets_values") or []):
                yield [*path, "nodes", index, "widgets_values", slot], value


def _put(content: Any, place: list[Any], value: Any) -> None:
    for key in place[:-1]:
        content = content[key]
    content[place[-1]] = value
