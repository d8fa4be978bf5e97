"""Run a module with the next demo model in the place of today's: ``python -m demo.next MODULE ...``.

For example ``python -m demo.next demo.train vae --minutes 20``, or ``python -m demo.next bench.demo_model --quick``.
"""

from __future__ import annotations

import runpy
import sys

from . import data, files

# Before anything reads them, and in worker processes, too.
sys.modules["demo.files"], sys.modules["demo.train.data"] = files, data


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
