"""docs/PROMISES.md: every promise stands word for word where it is said to stand, and its tests exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def promises() -> list[tuple[str, str, str]]:
    """The page that promises, the promise, and its tests, of each row."""
    found, page = [], ""
    for line in (ROOT / "docs" / "PROMISES.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            page = line.removeprefix("## ") + ".md"
        elif line.startswith("| ") and not line.startswith(("| ---", "| Promise |")):
            promise, tests = line.strip("| ").split(" | ")
            found.append((page, promise, tests))
    return found


@pytest.mark.parametrize("page, promise, tests", promises(), ids=lambda text: text[:40])
def test_a_promise_stands_and_its_tests_exist(page, promise, tests):
    assert promise in (ROOT / page).read_text(encoding="utf-8")
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
    assert named
    for file, test in named:
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        assert test in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, f"{file} has no {test}"


def test_every_point_of_security_has_a_row():
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    points = re.findall(r"^- .*", text.partition("## What the pack promises")[2].partition("## ")[0], re.MULTILINE)
    kept = [promise for page, promise, _ in promises() if page == "SECURITY.md"]
    assert points and all(any(promise in point for promise in kept) for point in points)
