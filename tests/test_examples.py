"""The files of the example workflows: what host/examples.py says is in them, in words that a newcomer reads."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT, needs_math
from host.examples import BLUEPRINT, EXAMPLES, Graph, blueprint

Json = dict[str, Any]


def read(path: Path) -> Json:
    return json.loads(path.read_text(encoding="utf-8"))


def workflow(name: str) -> Json:
    return read(ROOT / "example_workflows" / f"{name}.json")


def inside(path: Path) -> Json:
    """The definition of the only subgraph in a file."""
    (only,) = read(path)["definitions"]["subgraphs"]
    return only


def of_kind(opened: Json, kind: str) -> list[Json]:
    return [node for node in opened["nodes"] if node["type"] == kind]


def sources(opened: Json, node: Json) -> dict[str, tuple[Json, int]]:
    """The node and its output behind each connected input, by the input's name."""
    nodes = {one["id"]: one for one in opened["nodes"]}
    links = {link[0]: link for link in opened["links"]}
    ends = {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
    return {name: (nodes[link[1]], link[2]) for name, link in ends.items()}


def before(opened: Json, node: Json) -> list[int]:
    """The ids of all nodes that a node's inputs lead back to, with its own."""
    return [node["id"], *(found for source, _ in sources(opened, node).values() for found in before(opened, source))]


def shown_headings(file: Json) -> list[str]:
    return [group["title"] for group in file["groups"]]


def headings(graph: Graph) -> list[str]:
    """Of the steps that have one."""
    return [step.title for step in graph if step.title]


def test_the_files_are_the_examples():
    assert {path.stem for path in (ROOT / "example_workflows").glob("*.json")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_cut_into_its_steps_and_says_what_to_change_first(name):
    opened = workflow(name)
    shown = shown_headings(opened)
    assert shown == headings(EXAMPLES[name]())
    assert not set("".join(shown)) & set("=_("), "headings are words"
    (note,) = of_kind(opened, "MarkdownNote")
    assert "**Change first:**" in note["widgets_values"][0]


def test_the_blueprint_is_cut_into_its_steps_and_is_the_one_in_its_example():
    made = inside(ROOT / "subgraphs" / f"{BLUEPRINT}.json")
    assert made["name"] == BLUEPRINT and shown_headings(made) == headings(blueprint())
    example = inside(ROOT / "example_workflows" / "one_node.json")
    values = {node["id"]: node.get("widgets_values") for node in example["nodes"]}
    assert example == made | {"nodes": [node | ({"widgets_values": values[node["id"]]} if values[node["id"]] else {}) for node in made["nodes"]]}


def test_the_widgets_of_the_blueprints_node_say_the_same_inside(client):
    """An older frontend takes their values from there."""
    needs_math(client)
    opened = workflow("one_node")
    hollow = copy.deepcopy(opened)
    holder = next(node for node in hollow["nodes"] if node["type"] == hollow["definitions"]["subgraphs"][0]["id"])
    holder["widgets_values"] = []
    assert client.prompt(hollow) == client.prompt(opened)
    from_the_blueprint = opened | {"definitions": read(ROOT / "subgraphs" / f"{BLUEPRINT}.json")["definitions"]}
    assert client.prompt(from_the_blueprint) == client.prompt(opened), "they are all that differs from the blueprint"


def test_two_edits_ties_two_prompts_to_two_masks():
    opened = workflow("two_edits")
    regions = [sources(opened, node) for node in of_kind(opened, "ConditioningSetMask")]
    prompts = {region["conditioning"][0]["widgets_values"][0] for region in regions}
    masks = {(node["id"], output) for node, output in (region["mask"] for region in regions)}
    assert len(regions) == len(prompts) == len(masks) == 2
    (sampler,) = of_kind(opened, "BlendedLatentKSampler")
    positive, _ = sources(opened, sampler)["positive"]
    assert {node["id"] for node in of_kind(opened, "ConditioningSetMask")} <= set(before(opened, positive))


def test_edit_an_edit_encodes_the_best_of_the_first_edit_again():
    opened = workflow("edit_an_edit")
    encodes = [(node, sources(opened, node)["pixels"][0]) for node in of_kind(opened, "VAEEncode")]
    ((again, restored),) = [pair for pair in encodes if pair[1]["type"] == "DecoderFinetuneReconstruct"]
    best, output = sources(opened, restored)["samples"]
    (rank,) = of_kind(opened, "ClipRankBatch")
    assert rank["id"] in before(opened, best) and best["outputs"][output]["type"] == "LATENT"
    samplers = of_kind(opened, "BlendedLatentKSampler")
    assert [sources(opened, sampler)["latent_image"][0] == again for sampler in samplers] == [False, True]
    (save,) = of_kind(opened, "SaveImage")
    assert {again["id"], rank["id"], restored["id"]} < set(before(opened, save)), "what is saved comes from both"
