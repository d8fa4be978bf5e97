"""The demo's pack with the small model in the place of the demo model, so that the tests on a server take less time."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))


async def comfy_entrypoint() -> Any:
    from demo.small import files

    sys.modules["demo.files"] = files
    from demo.node import DemoExtension

    return DemoExtension()
