"""The real frontend: each example opens, is what the server gets, runs at a press of Run and shows its result."""

from __future__ import annotations

import pytest
from test_workflows import EXAMPLES, RUNNABLE, nodes_of, workflow


def without_titles(prompt: dict) -> dict:
    return {node_id: {"class_type": node["class_type"], "inputs": node["inputs"]} for node_id, node in prompt.items()}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_opens_without_a_complaint(ui, client, name):
    ui.open(name)
    assert ui.missing_nodes() == []
    assert without_titles(ui.prompt()) == without_titles(client.prompt(workflow(name))), "our client sends what the browser sends"
    assert ui.complaints == []


@pytest.mark.parametrize("name", RUNNABLE)
def test_an_example_shows_its_result_after_run(ui, name):
    ui.open(name)
    record = ui.run()
    assert record["status"]["status_str"] == "success"
    shown, prompt = ui.pictures(), ui.prompt()
    for kind in ("SaveImage", "PreviewImage", "LatentMaskResize"):
        for node in nodes_of(prompt, kind):
            assert shown.get(node), f"{kind} {node} shows nothing"
    assert ui.complaints == []
