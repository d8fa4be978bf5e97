"""docs/PROMISES.md: every promise stands word for word where it is said to stand, and the tests that hold it are those that name it."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def promises() -> list[tuple[str, str, str, str]]:
    """The page that promises, the promise's id, its words, and its tests, of each row."""
    found, page = [], ""
    for line in (ROOT / "docs" / "PROMISES.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            page = line.removeprefix("## ") + ".md"
        elif line.startswith("| ") and not line.startswith(("| ---", "| Id |")):
            found.append((page, *line.strip("| ").split(" | ")))
    return found


def promised(file: str, code: str) -> set[tuple[str, str, str]]:
    """A promise's id, the file and the test, of each promise that a test in the code names."""
    found = set()
    for test in ast.parse(code).body:
        if isinstance(test, ast.FunctionDef) and test.name.startswith("test_"):
            marks = [mark for mark in test.decorator_list if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise"]
            found |= {(ast.literal_eval(name), file, test.name) for mark in marks for name in mark.args}
    return found


@pytest.mark.parametrize("page, promise", [(page, promise) for page, _, promise, _ in promises()], ids=lambda text: text[:40])
def test_a_promise_stands(page, promise):
    assert promise in (ROOT / page).read_text(encoding="utf-8")


def test_the_tests_of_a_promise_are_those_that_name_it():
    rows = {(name, *test) for _, name, _, tests in promises() for test in re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)}
    assert rows == set().union(*(promised(path.name, path.read_text(encoding="utf-8")) for path in (ROOT / "tests").glob("test_*.py")))


def test_every_promise_has_a_test_and_an_id_of_its_own():
    names = Counter(name for _, name, _, _ in promises())
    assert names.most_common(1)[0][1] == 1
    assert all("::test_" in tests for _, _, _, tests in promises())


def points(page: str) -> list[str]:
    """What a page promises in points: SECURITY in its list, the README at its beginning, in the notes on the installation and in the table of nodes."""
    text = (ROOT / page).read_text(encoding="utf-8")
    if page == "SECURITY.md":
        return re.findall(r"^- .*", text.partition("## What the pack promises")[2].partition("## ")[0], re.MULTILINE)
    lists = [text.partition("## ")[0], text.partition("Restart ComfyUI afterwards.")[2].partition("## ")[0]]
    found = [re.findall(r"^- .*", one, re.MULTILINE) for one in lists] + [re.findall(r"^\| \[.*\]\(js/docs/.*\) \| (.*) \|$", text, re.MULTILINE)]
    assert all(found)
    return sum(found, [])


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md"])
def test_every_point_has_a_row(page):
    kept = [promise for of, _, promise, _ in promises() if of == page]
    assert points(page) and [point for point in points(page) if not any(promise in point for promise in kept)] == []
