"""The command line of what draws or makes files in the real frontend, and its server and browser."""
from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from host import exit_status
from host.browser import FLAGS
from host.demo import INPUTS
from host.provision import Host
from host.server import ALL_PACKS, Server

Work = Callable[[Server, Browser, list[str]], None]


def main(description: str | None, known: Sequence[str], work: Work) -> int:
    """Do the work for those of the known names that the arguments list, or for all of them; returns the exit status."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--overlay", type=Path)
    parser.add_argument("--browser", type=Path, required=True)
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*known, []], help=f"one of: {', '.join(known)}")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return exit_status(_run, options, options.names or list(known), work)


def _run(options: argparse.Namespace, names: list[str], work: Work) -> None:
    host = Host(Path(sys.executable), options.comfyui, options.overlay)
    with Server(host, packs=ALL_PACKS, inputs=[INPUTS]) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(options.browser), args=FLAGS)
        work(server, browser, names)
        browser.close()
