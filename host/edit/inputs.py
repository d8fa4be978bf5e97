"""Which inputs of a workflow take the picture, the mask, the prompt and the seed."""
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from host import HostError
from host.edit.graph import Address, Workflow
from host.workflow import is_link

Json = dict[str, Any]

PICTURE, MASK_FILE = "LoadImage", "LoadImageMask"
SEEDS = ("seed", "noise_seed")
CONDITIONED = ("positive", "conditioning")  # the second is that of guiders that take no negative prompt
RANKED = {"ClipRankBatch", "PruneCandidates"}  # these read the prompt as text
CONVERT = {"INT": int, "FLOAT": float, "STRING": str}
SWITCH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclass(frozen=True)
class Places:
    """Where the cells of a table go: addresses by column, and whether the picture needs its mask in its alpha channel.

    `recorded` are those that tell of an edit: of the columns, and of prompt and seed where no column gives them.
    """

    columns: dict[str, list[Address]]
    mask_in_alpha: bool
    recorded: dict[str, list[Address]]

    def values(self, prompt: Json) -> Json:
        """What a prompt has in the recorded places, where that is one value."""
        values = {column: [prompt[node]["inputs"][name] for node, name in places] for column, places in self.recorded.items()}
        return {column: found[0] for column, found in values.items() if found and all(value == found[0] for value in found)}


def find_places(workflow: Workflow, columns: set[str], settings: Sequence[str]) -> Places:
    """The places for these columns; `settings` are the user's own, NODE.INPUT=COLUMN. Raises HostError for what is unclear."""
    found: dict[str, list[Address]] = {}
    for setting in settings:
        target, equals, column = setting.rpartition("=")
        if not equals:
            raise HostError(f"--set {setting} must be NODE.INPUT=COLUMN.")
        if column not in columns:
            raise HostError(f"--set {setting}: there is no column {column}; there are: {', '.join(sorted(columns))}.")
        found.setdefault(column, []).append(_named(workflow, target))
    finders = {"image": pictures, "prompt": texts, "seed": seeds}
    for column in (column for column in finders if column in columns and column not in found):
        found[column] = _clear(column, finders[column](workflow), workflow)
    in_alpha = "mask" not in found and any(_uses(workflow.prompt, node, 1) for node, _ in found["image"] if _kind(workflow, node) == PICTURE)
    if "mask" in columns and "mask" not in found and not in_alpha:
        files = [(node, "image") for node in workflow.prompt if _kind(workflow, node) == MASK_FILE]
        found["mask"] = _clear("mask", files, workflow)
    recorded = {"prompt": texts(workflow), "seed": seeds(workflow)} | found
    return Places(found, in_alpha, {column: places for column, places in recorded.items() if column not in ("image", "mask")})


def as_type(value: Any, spec: Sequence[Any], column: str) -> Any:
    """A cell's value as an input of this type takes it. Raises HostError."""
    if spec[0] == "BOOLEAN":
        if str(value).lower() not in SWITCH:
            raise HostError(f"{column} is {value!r}, but must be true or false.")
        return SWITCH[str(value).lower()]
    try:
        return CONVERT.get(str(spec[0]), lambda same: same)(value)
    except (TypeError, ValueError):
        raise HostError(f"{column} is {value!r}, but must be a {'whole ' if spec[0] == 'INT' else ''}number.") from None


def pictures(workflow: Workflow) -> list[Address]:
    """The picture loaders."""
    return [(node, "image") for node in workflow.prompt if _kind(workflow, node) == PICTURE]


def texts(workflow: Workflow) -> list[Address]:
    """The texts of the positive prompt, and those that candidates are ranked by."""
    prompt = workflow.prompt
    for name in CONDITIONED:
        starts = [node["inputs"][name][0] for node in prompt.values() if is_link(node["inputs"].get(name))]
        if starts:
            break
    found = {address for start in starts for address in _texts_before(workflow, start)}
    for node, entry in prompt.items():
        if entry["class_type"] in RANKED:
            found |= set(_origin(workflow, (node, "prompt")))
    return sorted(found)


def seeds(workflow: Workflow) -> list[Address]:
    """The seeds of the samplers."""
    found = {origin for node, entry in workflow.prompt.items() for name in SEEDS if name in entry["inputs"] for origin in _origin(workflow, (node, name))}
    return sorted(found)


def _clear(column: str, found: list[Address], workflow: Workflow) -> list[Address]:
    """The addresses, if they are one place or have one value. Raises HostError."""
    values = [workflow.prompt[node]["inputs"][name] for node, name in found]
    if found and (len(found) == 1 or column == "prompt" and all(value == values[0] for value in values)):
        return found
    told = "it has " + ", ".join(f"{node}.{name}" for node, name in found) if found else "none was found"
    raise HostError(f"It is not clear which input of the workflow takes the {column}: {told}. Say it with --set NODE.INPUT={column}.")


def _named(workflow: Workflow, target: str) -> Address:
    """The address of NODE.INPUT, where NODE is an id, a title or a type. Raises HostError."""
    found = []
    for node, entry in workflow.prompt.items():
        names = {node, entry["class_type"], entry.get("_meta", {}).get("title")}
        found += [(node, name) for name in entry["inputs"] if target in {f"{one}.{name}" for one in names}]
    if len(found) != 1:
        raise HostError(f"--set {target}: the workflow has {len(found)} such inputs, not one. Use the id of the node.")
    if is_link(workflow.prompt[found[0][0]]["inputs"][found[0][1]]):
        raise HostError(f"--set {target}: this input is linked to another node. Name the input that the value comes from.")
    return found[0]


def _kind(workflow: Workflow, node: str) -> str:
    return workflow.prompt[node]["class_type"]


def _uses(prompt: Json, node: str, output: int) -> bool:
    """Whether any node takes this output."""
    return any(value == [node, output] for entry in prompt.values() for value in entry["inputs"].values())


def _origin(workflow: Workflow, address: Address) -> Iterator[Address]:
    """Where the value of an input is written: there, or in the primitive that it is linked to."""
    node, name = address
    value = workflow.prompt[node]["inputs"].get(name)
    if not is_link(value):
        yield address
    elif "value" in workflow.prompt[value[0]]["inputs"]:
        yield from _origin(workflow, (value[0], "value"))


def _texts_before(workflow: Workflow, start: str) -> Iterator[Address]:
    """The texts written in a node and in all that it depends on."""
    waiting, seen = [start], set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        for name, value in workflow.prompt[node]["inputs"].items():
            if is_link(value):
                waiting.append(value[0])
            elif workflow.spec((node, name))[0] == "STRING":
                yield node, name
