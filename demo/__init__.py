"""The embedded demo model of Blended Latent Diffusion, a ComfyUI node pack of its own (see MODEL_CARD.md)."""

from __future__ import annotations

from typing import Any


async def comfy_entrypoint() -> Any:
    """The host's entry; imports the node only here, so that the training recipe can run without a server."""
    from .node import DemoExtension

    return DemoExtension()
