"""The pack's nodes as a user finds them."""

from __future__ import annotations

from typing import Any


def defaults(node: Any, name: str, key: str) -> dict[str, Any]:
    """What a node gets for an input that is a combination of a choice and its settings, where the user changes nothing else."""
    choice = next(i for i in node.define_schema().inputs if i.id == name)
    return {name: key} | {i.id: i.default for i in next(o for o in choice.options if o.key == key).inputs}
