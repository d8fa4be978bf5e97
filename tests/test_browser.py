"""The real frontend: each example opens, is what the server gets, runs at a press of Run and shows its result."""

from __future__ import annotations

import re

import pytest
from test_workflows import EXAMPLES, RUNNABLE, nodes_of, workflow

from conftest import ROOT


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


def test_every_help_page_opens_with_all_its_pictures(ui):
    ui.open()
    for page in sorted((ROOT / "js" / "docs").glob("*.md")):
        linked = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        shown = ui.help_pictures(page.stem)
        assert len(linked) >= 2 and [source.rpartition("/docs/")[2] for source in shown] == linked, page.stem
        assert all(width > 0 for width in shown.values()), f"{page.stem}: {shown}"
    assert ui.complaints == []
