"""The pages that people read: whole, with every picture and every file that they point to."""
from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "js" / "docs").rglob("*.md"), *(ROOT / "demo").rglob("*.md")])


def targets(text: str) -> list[str]:
    """What a page's links and pictures point to, without web addresses, places on the page and ComfyUI's own files."""
    found = re.findall(r"\]\(([^)\s]+)\)", text)
    return [target.partition("#")[0] for target in found if not re.match(r"https?:|#|/", target)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_is_whole(page: Path):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"^(<<<<<<<|>>>>>>>|=======$)", text, re.MULTILINE), "a merge was not finished"
    missing = [target for target in targets(text) if not (page.parent / target).exists()]
    assert not missing, f"points to what is not there: {missing}"
