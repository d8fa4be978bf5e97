"""Leave the real ComfyUI open, with the pack and its example workflows at hand."""
from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from host import HostError, exit_status
from host.browser import open_for_user
from host.demo import INPUTS
from host.provision import Host, cache_root, free_folder
from host.server import PACK, ROOT, Server

EXAMPLES = ROOT / "example_workflows"
FIRST = "blended_latent_edit"  # the one that the browser opens


def main() -> int:
    """Serve until Ctrl-C; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--overlay", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a script starts deaf to it
    return exit_status(serve, Host(Path(sys.executable), options.comfyui, options.overlay))


def serve(host: Host) -> None:
    """Start the server, say where it is, and show its log. Raises HostError when it ends by itself."""
    # What the user makes is kept from one run to the next, but two servers must not share a folder.
    with free_folder(cache_root() / "serve") as base:
        copy_examples(base)
        start_blank(base)
        # Ctrl-C is how serving is meant to end.
        with Server(host, inputs=[INPUTS], base=base, offline=False) as server, suppress(KeyboardInterrupt):
            show(server)


def copy_examples(base: Path) -> None:
    """Put the example workflows where the browser's Workflows list finds them, in a folder that is ours."""
    target = base / "user" / "default" / "workflows" / "examples"
    target.mkdir(parents=True, exist_ok=True)
    for example in sorted(EXAMPLES.glob("*.json")):
        shutil.copy2(example, target / example.name)


def start_blank(base: Path) -> None:
    """Let the browser start with nothing but our example: else it opens a stock one, and asks for that one's models."""
    file = base / "user" / "default" / "comfy.settings.json"
    if file.exists():
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings.pop("Comfy.TutorialCompleted", None)
        file.write_text(json.dumps(settings, indent=4), encoding="utf-8")


def show(server: Server) -> None:
    """Say where the server is, open the browser, and show the log until it ends. Raises HostError then."""
    address = f"{server.url}/?template={FIRST}&source={PACK}"
    print(f"ComfyUI is open at {address}\n"
          f"  More examples: Workflows (key w), folder examples; or Templates, {PACK}.\n"
          f"  Pictures are kept in {server.base / 'output'}. Ctrl-C stops it.\n", flush=True)
    open_for_user(address)
    for line in server.follow():
        print(line, flush=True)
    raise HostError("ComfyUI ended by itself; its last lines are above.")


if __name__ == "__main__":
    sys.exit(main())
