"""Start a real ComfyUI server with a base directory of its own and no packs but those named. Standard library only."""
from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType

from host import HostError, leash
from host.provision import Host

ROOT = Path(__file__).resolve().parent.parent
# The folder name is part of the pack's public face: the browser finds its templates and help pages under it.
PACK = "comfyui-blended-latent-diffusion"
PACKS = {PACK: ROOT, "bld-demo": ROOT / "demo"}
# What the example many_machines needs beside these: small nodes in the place of ComfyUI-Distributed's.
ALL_PACKS = PACKS | {"distributed": ROOT / "tests" / "distributed"}
FOLDERS = ("custom_nodes", "input", "output", "temp", "user", "models")
FAILURES = re.compile(r"IMPORT FAILED|Cannot import|due to the lack of|calling comfy_entrypoint|Traceback \(most|Failed to execute startup-script")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Proxies of the environment are for the outside; the server is on this machine.
LOCAL = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    """A running ComfyUI; a context manager that leaves no process behind.

    `packs` maps folder names under custom_nodes to the folders they link to, `inputs` are folders whose files are
    copied to the input folder. Without `base` the base directory is temporary and goes when the server stops.
    Entering raises HostError, with the log, when the server does not come up or a pack does not load.
    """

    def __init__(self, host: Host, packs: Mapping[str, Path] = PACKS, inputs: Sequence[Path] = (),
                 base: Path | None = None, offline: bool = True, arguments: Sequence[str] = (),
                 timeout: float = 180) -> None:
        self.host = host
        self.packs = dict(packs)
        self.inputs = list(inputs)
        self.offline = offline
        self.timeout = timeout
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._arguments = list(arguments)
        self._temporary = base is None
        self.base = base or Path(tempfile.mkdtemp(prefix="bld-comfyui-"))
        self.log_file = self.base / "server.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        try:
            self._prepare()
            self._start()
            self._wait()
            self._check_packs()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the server. Raises HostError when it was not started."""
        if self._process is None:
            raise HostError("The server was not started.")
        return self._process.pid

    def log(self) -> str:
        """All that the server has logged, without its colours."""
        text = self.log_file.read_text(encoding="utf-8", errors="replace") if self.log_file.exists() else ""
        return COLOUR.sub("", text)

    def follow(self) -> Iterator[str]:
        """The log, line by line, as it is written, until the server ends."""
        with self.log_file.open(encoding="utf-8", errors="replace") as file:
            while True:
                line = file.readline()
                if line:
                    yield line.rstrip()
                elif self.alive:
                    time.sleep(0.2)
                else:
                    return

    def stop(self) -> None:
        """End the server and all its children, and remove a temporary base directory."""
        with undisturbed():
            if self._process is not None:
                end_process_group(self._process)
                self._process.stdin.close()
            if self._temporary:
                for name in self.packs:
                    unlink_folder(self.base / "custom_nodes" / name)
                shutil.rmtree(self.base, ignore_errors=True)

    def _prepare(self) -> None:
        for name in FOLDERS:
            (self.base / name).mkdir(parents=True, exist_ok=True)
        for name, folder in self.packs.items():
            if not (folder / "__init__.py").is_file():
                raise HostError(f"{folder} is not a node pack: it has no __init__.py.")
            link_folder(folder, self.base / "custom_nodes" / name)
        example = self.host.comfyui / "input" / "example.png"  # a new ComfyUI has it, and workflows count on it
        if example.exists():
            shutil.copy2(example, self.base / "input")
        for folder in self.inputs:
            if not folder.is_dir():
                raise HostError(f"The folder of input pictures {folder} is not there.")
            shutil.copytree(folder, self.base / "input", dirs_exist_ok=True)

    def _start(self) -> None:
        command = ["main.py", "--listen", "127.0.0.1", "--port", str(self.port),
                   "--base-directory", str(self.base), "--database-url", "sqlite:///:memory:",
                   "--disable-api-nodes", "--disable-auto-launch", "--disable-all-custom-nodes"]
        if self.packs:
            command += ["--whitelist-custom-nodes", *self.packs]
        command += device_arguments(self.host) + self._arguments
        environment = self.host.environment(self.host.comfyui)
        if self.offline:
            environment["HF_HUB_OFFLINE"] = "1"
        with self.log_file.open("wb") as log:
            self._process = leash.start(self.host.python, *command, cwd=self.host.comfyui, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def _wait(self) -> None:
        deadline = time.monotonic() + self.timeout
        while True:
            if not self.alive:
                raise HostError(f"ComfyUI ended while it was starting. The end of its log:\n{log_tail(self.log())}")
            with suppress(OSError), LOCAL.open(f"{self.url}/system_stats", timeout=5):
                return
            if time.monotonic() > deadline:
                raise HostError(f"ComfyUI did not come up in {self.timeout:.0f} s. The end of its log:\n"
                                f"{log_tail(self.log())}")
            time.sleep(0.2)

    def _check_packs(self) -> None:
        with LOCAL.open(f"{self.url}/object_info", timeout=60) as answer:
            modules = {node.get("python_module") for node in json.load(answer).values()}
        missing = {name: folder for name, folder in self.packs.items() if f"custom_nodes.{name}" not in modules}
        if missing:
            named = ", ".join(f"{name} ({folder})" for name, folder in missing.items())
            raise HostError(f"ComfyUI did not load every node pack. Missing: {named}. Its log says:\n{failure_lines(self.log(), missing)}")


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep Ctrl-C and a request to end from cutting the clean-up short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@cache
def device_arguments(host: Host) -> list[str]:
    """`--cpu` where the host's torch sees no accelerator: ComfyUI doesn't start there without it. Raises HostError."""
    code = ("import torch; xpu = getattr(torch, 'xpu', None); "
            "print(torch.cuda.is_available() or torch.backends.mps.is_available() or bool(xpu and xpu.is_available()))")
    command = [str(host.python), "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=host.environment(), capture_output=True, text=True)
    if done.returncode:
        raise HostError(f"{host.python} cannot import torch:\n{log_tail(done.stderr)}")
    return [] if done.stdout.strip() == "True" else ["--cpu"]


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def link_folder(folder: Path, link: Path) -> None:
    """Make `link` point to `folder`: a symbolic link, or a junction on Windows, which needs no special right."""
    unlink_folder(link)
    if os.name == "nt":
        import _winapi
        _winapi.CreateJunction(str(folder), str(link))
    else:
        link.symlink_to(folder, target_is_directory=True)


def unlink_folder(link: Path) -> None:
    """Remove a link made by link_folder, and never what it points to."""
    if os.name == "nt" and os.path.lexists(link):
        os.rmdir(link)
    elif link.is_symlink():
        link.unlink()


def end_process_group(process: subprocess.Popen[bytes], patience: float = 10) -> None:
    """Ask a process that leads its own group to end, and kill the whole group if need be."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], capture_output=True)
        process.wait()
        return
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def log_tail(log: str, lines: int = 40) -> str:
    """The last lines of a log, indented."""
    return "\n".join("    " + line for line in log.strip().splitlines()[-lines:]) or "    (nothing)"


def failure_lines(log: str, packs: Iterable[str]) -> str:
    """The lines of a log that tell why packs did not load: tracebacks and warnings, or else its end."""
    kept: list[str] = []
    inside = False
    for line in log.splitlines():
        if FAILURES.search(line):
            inside = "Traceback" in line
            kept.append(line)
        elif inside:
            kept.append(line)
            inside = line.startswith(" ") or not line.strip()
    return log_tail("\n".join(kept), 100) if any(pack in line for pack in packs for line in kept) else log_tail(log)
