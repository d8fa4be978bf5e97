"""Find a browser for the tests, or install one. Standard library only."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import webbrowser
from collections.abc import Mapping
from pathlib import Path

from host import HostError

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge", "msedge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)

# For a browser that nobody watches, on a machine without a GPU and without a network.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]


def find_browser(python: Path, environment: Mapping[str, str]) -> Path:
    """A Chromium-like browser: one that is installed, or else Playwright's, or else Debian's. Raises HostError.

    `python` and `environment` are those in which Playwright is installed.
    """
    found = installed_browser() or playwrights_browser(python, environment)
    if found:
        return found
    print("Installing a browser for the tests")
    said = ""
    for command in install_commands(python):
        done = subprocess.run(command, env=dict(environment), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        found = installed_browser() or playwrights_browser(python, environment)
        if found:
            return found
        said = f"\n    {' '.join(command)} said: {(done.stdout.strip().splitlines() or ['nothing'])[-1]}"
    raise HostError("The browser tests need Chromium or Chrome, and none could be installed: install one, "
                    f"or run the others with --fast.{said}")


def installed_browser() -> Path | None:
    """A browser on the search path or in its usual place."""
    found = next(filter(None, map(shutil.which, NAMES)), None) or next(filter(os.path.exists, PLACES), None)
    return Path(found) if found else None


def playwrights_browser(python: Path, environment: Mapping[str, str]) -> Path | None:
    """The Chromium that Playwright has downloaded, if it has."""
    code = ("from playwright.sync_api import sync_playwright as start\n"
            "with start() as playwright: print(playwright.chromium.executable_path)")
    done = subprocess.run([python, "-c", code], env=dict(environment), capture_output=True, text=True)
    path = Path(done.stdout.strip() or ".")
    return path if path.is_file() else None


def install_commands(python: Path) -> list[list[str]]:
    """The commands that may bring a browser, in the order in which to try them."""
    commands = [[str(python), "-m", "playwright", "install", "chromium"]]
    if sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get"):
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "chromium"]
        commands += [["apt-get", "update", "-q"], install]
    return commands


def open_for_user(address: str) -> None:
    """Open an address in the user's browser, if somebody sits in front of a screen."""
    screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen and sys.stdout.isatty():
        webbrowser.open(address)
