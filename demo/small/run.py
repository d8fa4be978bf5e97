"""Run a module's ``main`` with the small model in the place of the demo's: ``python -m demo.small.run MODULE ...``.

For example ``python -m demo.small.run bench.demo_model --quick``, or ``python -m demo.small.run demo.train vae --minutes 20``.
"""

from __future__ import annotations

import importlib
import sys

from . import data, files

# Before anything reads them. Worker processes import this file first; they would not, were it a __main__.py.
sys.modules["demo.files"], sys.modules["demo.train.data"] = files, data


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    del sys.argv[0]
    module = importlib.import_module(sys.argv[0])
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{sys.argv[0]}.__main__")
    module.main()


if __name__ == "__main__":
    main()
