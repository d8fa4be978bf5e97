"""Whole edits on a real server, many in a row, and what goes wrong on purpose between them."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from bench import _table
from bench._process import at_most
from host import HostError
from host.client import Client, ConnectionLost, ExecutionFailed, Interrupted
from host.demo import INPUTS
from host.provision import Host
from host.server import PACKS, ROOT, Server

METHODS = ("paste", "colour fit", "poisson", "decoder weights", "auto")
SIZES = (128, 96, 160)
PERIOD = 3 * 4 * 5 * 7  # edits this far apart have the same nodes, size and method
KINDS = 30  # this many in a row use every method and node several times
PROBE = {"bench-probe": ROOT / "bench" / "probe"}
# The nodes of an edit that are ours, or run under our patch.
OURS = {"cut", "resize", "dilate", "prune", "patch", "draw", "clip", "rank", "reconstruct", "put", "report"}
Prompt = dict[str, Any]


def the_host() -> Host:
    """The one that this benchmark runs on."""
    import folder_paths

    return Host(Path(sys.executable), Path(folder_paths.__file__).parent)


def edit(number: int) -> Prompt:
    """An edit of its own seed, mask, size, method and nodes, as the API takes it.

    Some edits are of a crop, some prune their candidates, and some are drawn by ComfyUI's own sampler, so that every node of ours has its turn.
    """
    chance = random.Random(number)
    side = SIZES[number % len(SIZES)]
    left, top, width, height = chance.randrange(0, side // 2), chance.randrange(0, side // 2), chance.randrange(6, side // 2), chance.randrange(6, side // 2)
    method = METHODS[number % len(METHODS)]
    of_crop, pruned, by_host = number % 4 == 1, number % 3 == 1, number % 7 == 6
    image, mask = (["cut", 0], ["cut", 1]) if of_crop else (["source", 0], ["mask", 0])
    result = ["put", 0] if of_crop else ["reconstruct", 0]
    drawing = {"seed": number, "steps": 4, "cfg": 4.0, "sampler_name": "ddim", "scheduler": "normal", "positive": ["positive", 0], "negative": ["negative", 0],
               "latent_image": ["latent", 0], "denoise": 1.0}  # fmt: skip
    ours = {"model": ["load", 0], "candidates": 4 if pruned else 2, "mask_schedule": ["dilate", 0], "background_noise": "every step", "chunk_size": 0,
            "resample_steps": 0, "pixel_blend": 0.0, **({"pruning": ["prune", 0]} if pruned else {})}  # fmt: skip
    nodes = [
        ("load", "LoadDemoModel", {}),
        ("picture", "LoadImage", {"image": "bld_demo_edit.png"}),
        ("source", "ImageScale", {"image": ["picture", 0], "upscale_method": "area", "width": side, "height": side, "crop": "disabled"}),
        ("black", "SolidMask", {"value": 0.0, "width": side, "height": side}),
        ("white", "SolidMask", {"value": 1.0, "width": width, "height": height}),
        ("mask", "MaskComposite", {"destination": ["black", 0], "source": ["white", 0], "x": left, "y": top, "operation": "add"}),
        ("cut", "EditCutOut", {"image": ["source", 0], "mask": ["mask", 0], "context": 0.5, "size": 64, "multiple": 8}),
        ("positive", "CLIPTextEncode", {"clip": ["load", 1], "text": chance.choice(("a fox", "a sunflower", "a pizza"))}),
        ("negative", "CLIPTextEncode", {"clip": ["load", 1], "text": ""}),
        ("latent", "VAEEncode", {"pixels": image, "vae": ["load", 2]}),
        ("resize", "LatentMaskResize", {"mask": mask, "latent": ["latent", 0], "mode": "max", "threshold": 0.5, "invert": False}),
        ("dilate", "ProgressiveMaskDilate", {"mask": ["resize", 0], "stages": 3, "growth": 1, "shape": "square", "takeover": 0.78, "spacing": "equal",
            "soft_edge": 0}),
        ("clip", "OpenClipLoader", {"clip_name": "bld_demo_clip.safetensors", "download": False}),
        ("prune", "PruneCandidates", {"clip": ["clip", 0], "vae": ["load", 2], "prompt": "a fox", "mask": mask, "start": 0.15, "keep": 0.5, "rounds": 2,
            "interval": 0.1, "at_least": 2, "scope": "box"}),
        ("patch", "ApplyMaskSchedule", {"model": ["load", 0], "mask_schedule": ["dilate", 0], "source": ["latent", 0]}),
        ("draw", "KSampler", drawing | {"model": ["patch", 0]}) if by_host else ("draw", "BlendedLatentKSampler", drawing | ours),
        ("decode", "VAEDecode", {"samples": ["draw", 0], "vae": ["load", 2]}),
        ("rank", "ClipRankBatch", {"images": ["decode", 0], "clip": ["clip", 0], "prompt": "a fox", "mask": mask, "scope": "box", "scope.context": 0.5,
            "top_k": 1, "negative_prompt": "", "latents": ["draw", 0]}),
        ("reconstruct", "DecoderFinetuneReconstruct", {"samples": ["rank", 1], "vae": ["load", 2], "image": image, "mask": mask, "method": method,
            **settings(method)}),
        ("put", "EditPutBack", {"edited": ["reconstruct", 0], "where": ["cut", 2], "method": "paste", "method.feather": 0}),
        ("report", "EditReport", {"source": ["source", 0], "edited": result, "mask": ["mask", 0]}),
        ("told", "PreviewAny", {"source": ["report", 4]}),
        ("save", "SaveImage", {"images": result, "filename_prefix": f"edit_{number}"}),
    ]  # fmt: skip
    # ComfyUI runs only what the last two need.
    return {name: {"class_type": kind, "inputs": inputs} for name, kind, inputs in nodes}


def settings(method: str) -> dict[str, Any]:
    """The settings of a method, with few steps."""
    crop = {"surroundings": 8, "background_target": 40.0, "memory_budget": 0.0, "feather": 8}
    fit = {"iterations": 4, "learning_rate": 1e-4, "background_weight": 100.0, **crop}
    auto = {"target_background": 40.0, "target_seam": 2.0, "memory_budget": 0.0}
    of_method = {"decoder weights": fit, "auto": auto, "poisson": {}}.get(method, {"feather": 0})
    return {f"method.{name}": value for name, value in of_method.items()}


@contextlib.contextmanager
def serving(base: Path | None = None, *arguments: str) -> Iterator[Server]:
    """A server with the pack, the demo model and the probe."""
    with Server(the_host(), packs=PACKS | PROBE, inputs=[INPUTS], base=base, timeout=600, arguments=arguments) as server:
        yield server


def pixels(server: Server, number: int) -> bytes:
    """What the latest run of an edit saved. Raises AssertionError for a file that is not whole."""
    path = max((server.base / "output").glob(f"edit_{number}_*.png"))
    return np.asarray(Image.open(path).convert("RGB")).tobytes()


def held(server: Server, client: Client) -> dict[str, float]:
    """What the server holds."""
    process, told = psutil.Process(server.pid), client.get("/probe")
    return {"MiB": process.memory_info().rss / 2**20, "files": process.num_fds(), "threads": process.num_threads(), "models": told["models"]}


def many_edits(count: int) -> dict[str, Any]:
    """Edits of two clients at once: what the server holds over time, and whether each result is that of a fresh server."""
    results, holds = {}, []
    # ComfyUI 0.30.0's own cache keeps the keys of every prompt, and its history the prompts: neither may be taken for ours.
    with serving(None, "--cache-classic") as server, Client(server.url) as first, Client(server.url) as second, ThreadPoolExecutor(2) as pool:
        for pair in range(0, count, 2):
            numbers = [number for number in (pair, pair + 1) if number < count]
            list(pool.map(lambda client, number: client.run(edit(number)), (first, second), numbers))
            results |= {number: pixels(server, number) for number in numbers}
            first.post("/history", {"clear": True})
            holds.append(held(server, first))
    with serving() as server, Client(server.url) as client:
        different = []
        for number in range(count - 1, -1, -1):  # so that no run has the same runs before it
            client.run(edit(number))
            if pixels(server, number) != results[number]:
                different.append(number)
    sixth = max(1, len(holds) // 6)
    early, late = holds[sixth : 2 * sixth] or holds[:1], holds[-sixth:]
    ratios = {name: float(np.mean([one[name] for one in late]) / np.mean([one[name] for one in early])) for name in holds[0]}
    _table.show(f"{count} edits by two clients, last sixth over the second", {name: "{:.3f}" for name in ratios}, {"ratio": list(ratios.values())})
    print(f"results that differ from those of another server: {different or 'none'}")
    return {"edits": count, "ratios": ratios, "different": different, "holds": holds}


def broken_edits(interrupts: int, faults: int, seed: int = 0) -> dict[str, Any]:
    """Edits that are interrupted at a random moment of one of our nodes, or in which a call fails: the next must come out as ever, and nothing may be left."""
    chance = random.Random(seed)
    found: dict[str, Any] = {"wrong": [], "ended": {}}
    with serving() as server, Client(server.url) as client:
        client.run(edit(0))
        right = pixels(server, 0)
        lasting = [spans(client, edit(number)) for number in range(KINDS)]
        assert set().union(*lasting) == OURS
        clean = client.get("/probe")
        for trial in range(interrupts + faults):
            number = PERIOD * (1 + trial // KINDS) + trial % KINDS
            if trial < interrupts:
                node, seconds = chance.choice(sorted(lasting[trial % KINDS].items()))
                what = interrupted(client, number, node, chance.uniform(0, seconds))
            else:
                fault = {"where": chance.choice(("model", "vae decode", "vae encode", "text encoder", "ranker")), "after": chance.randrange(8),
                         "kind": chance.choice(("error", "out of memory"))}  # fmt: skip
                what = failed(client, number, fault)
            found["ended"][what] = found["ended"].get(what, 0) + 1
            client.post("/free", {"free_memory": True})  # forgets the results that it remembers
            client.run(edit(0))
            now = client.get("/probe")
            left = {name: sorted((Counter(now[name]) - Counter(clean[name])).elements()) for name in ("threads", "replaced", "hooks")}
            if pixels(server, 0) != right or any(left.values()):
                found["wrong"].append({"trial": trial, "what": what, "left": left})
    rows = {what: [count] for what, count in sorted(found["ended"].items())}
    _table.show(f"{interrupts} interrupts, {faults} faults", {"times": "{}"}, rows)
    print(f"next runs that were not as ever: {found['wrong'] or 'none'}")
    return found


def spans(client: Client, prompt: Prompt) -> dict[str, float]:
    """The seconds that each of our nodes takes, as far as it runs."""
    starts: list[tuple[str | None, float]] = []
    client.post("/free", {"free_memory": True})  # else it takes from its memory what another edit has in common
    client.run(prompt, lambda event: starts.append((event.node, time.monotonic())) if event.type == "executing" else None)
    return {node: end - start for (node, start), (_, end) in itertools.pairwise(starts) if node in OURS}


def interrupted(client: Client, number: int, node: str, after: float) -> str:
    """Cancels an edit some seconds after a node of it has started; returns where it ended."""
    timer = threading.Timer(after, client.interrupt)
    prompt = edit(number)
    asked = f"interrupt in {prompt[node]['class_type']}"
    client.post("/free", {"free_memory": True})
    try:
        client.run(prompt, lambda event: timer.start() if event.type == "executing" and event.node == node else None)
    except Interrupted as error:
        return f"{asked}: ended in {error.node_type}"
    finally:
        timer.cancel()
        if timer.is_alive():
            timer.join()  # it is just asking
    return f"{asked}: too late"


def failed(client: Client, number: int, fault: dict[str, Any]) -> str:
    """Makes a call of an edit fail; returns how the edit ended."""
    client.post("/probe/fail", fault)
    try:
        client.run(edit(number))
        how = "went on"
    except ExecutionFailed as error:
        how = f"failed in {error.node_type}"
    finally:
        client.post("/probe/heal", {})
    return f"{fault['kind']} in {fault['where']}: {how}"


def kills(count: int, seed: int = 0) -> dict[str, Any]:
    """Servers killed at random moments of an edit, and started again on the same folders: whole files only, and the edit comes out as ever."""
    chance, wrong = random.Random(seed), []
    with serving() as server, Client(server.url) as client:
        seconds = client.run(edit(3)).seconds
        right, base = pixels(server, 3), server.base
        process = psutil.Process(server.pid)
        for trial in range(count):
            folder = base / f"killed_{trial}"
            with contextlib.suppress(HostError), serving(folder) as victim, Client(victim.url) as doomed:
                doomed.queue(edit(3))
                time.sleep(chance.uniform(0, seconds))
                psutil.Process(victim.pid).kill()
                raise HostError("killed")
            with serving(folder) as again, Client(again.url) as client_again:
                client_again.run(edit(3))
                whole = [Image.open(path).load() for path in (folder / "output").glob("*.png")]
                if pixels(again, 3) != right or not whole:
                    wrong.append(trial)
        assert process.is_running()
    print(f"{count} servers killed at random moments, started again, and not as ever: {wrong or 'none'}")
    return {"kills": count, "wrong": wrong}


def setups(count: int, seed: int = 0) -> dict[str, Any]:
    """Set-ups killed at random moments, each started again at once on the same cache folder: no process may be left, and the last must end well."""
    chance, rows, left = random.Random(seed), {}, []
    command = [sys.executable, "run.py", "test", "--fast", "tests/test_pages.py"]
    with tempfile.TemporaryDirectory(prefix="bld-set-ups-") as folder:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"XDG_CACHE_HOME": folder}
        log = Path(folder) / "log"
        for trial in range(1, count + 2):
            killed = trial <= count
            with log.open("wb") as output, subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT) as process:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(1, 60) if killed else None)
                children = stopped(process) if process.poll() is None else []
                process.kill()
            gone, alive = psutil.wait_procs(children, 10)
            rows[f"start {trial}"] = ["killed" if killed else f"ended with {process.returncode}", said(log), len(gone), len(alive)]
            left += [words(one) for one in alive]
    _table.show("set-up", {"how": "{}", "its last words": "{}", "processes that ended": "{}", "left": "{}"}, rows)
    print(f"left: {left or 'none'}; the last start ended {'well' if process.returncode == 0 else 'badly'}")
    return {"rows": rows, "left": left}


def stopped(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes below one that is held, so that it can start no more."""
    process.send_signal(signal.SIGSTOP)
    return psutil.Process(process.pid).children(recursive=True)


def said(log: Path) -> str:
    """The last line of a log."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip()[:60] for line in reversed(lines) if line.strip()), "")


def shortages(count: int, seed: int = 0) -> dict[str, Any]:
    """Edits while the server's process may take hardly more memory than it has: an allocation fails somewhere, and the next run must come out as ever."""
    chance, ended, wrong, trial = random.Random(seed), {}, [], 0
    while trial < count:
        with serving() as server, Client(server.url) as client, contextlib.suppress(ConnectionLost):
            client.run(edit(0))
            right = pixels(server, 0)
            while trial < count:
                trial += 1
                what = starved(server, client, 2000 + trial, chance.randrange(400 * 2**20))
                ended[what] = ended.get(what, 0) + 1
                client.post("/free", {"free_memory": True})
                client.run(edit(0))
                if pixels(server, 0) != right:
                    wrong.append(trial)
    _table.show(f"{count} shortages of memory", {"times": "{}"}, {what: [times] for what, times in sorted(ended.items())})
    print(f"servers that ended by themselves: {count - sum(ended.values())}; next runs that were not as ever: {wrong or 'none'}")
    return {"ended": ended, "died": count - sum(ended.values()), "wrong": wrong}


def starved(server: Server, client: Client, number: int, spare: int) -> str:
    """Runs an edit with fresh models in a process that gets no more than so many bytes; returns how it ended."""
    client.post("/free", {"unload_models": True, "free_memory": True})
    try:
        with at_most(spare, server.pid):
            client.run(edit(number))
    except ExecutionFailed as error:
        return f"failed in {error.node_type}"
    return "went on"


def commands(folder: Path) -> dict[str, list[str]]:
    """Every command that starts a server. folder: for what they read and write."""
    pictures = folder / "pictures"
    pictures.mkdir()
    shutil.copy(INPUTS / "bld_demo_edit.png", pictures)
    return {
        "demo": ["demo"],
        "serve": ["serve"],
        "edit": ["edit", str(pictures), "--out", str(folder / "out")],
        "test": ["test", "tests/test_workflows.py"],
        "bench": ["bench", "folder", "--pictures", "10"],
        "pictures": ["pictures", "README"],
        "compose": ["compose", "smallest_graph"],
    }


def signals() -> dict[str, Any]:
    """Each command that starts a server, ended by each signal: none of its processes may be left."""
    host, left, rows = the_host(), [], {}
    # A shell that starts this in the background has it ignored, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bld-signals-") as folder:
        for name, command in commands(Path(folder)).items():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
                arguments = [str(host.python), "run.py", *command, "--comfyui", str(host.comfyui), "--python", str(host.python)]
                with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                    children = wait_for_server(process)
                    time.sleep(1)
                    process.send_signal(number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(60)
                    slow = process.poll() is None
                    process.kill()
                gone, alive = psutil.wait_procs(children, 15)
                rows[f"{name}, {number.name}"] = [len(gone), len(alive), "over 60 s" if slow else ""]
                left += [f"{name}, {number.name}: {words(one)}" for one in alive]
    _table.show("command and signal", {"processes that ended": "{}", "left": "{}", "the command itself": "{}"}, rows)
    print(f"left: {left or 'none'}")
    return {"rows": rows, "left": left}


def wait_for_server(command: subprocess.Popen[bytes], timeout: float = 240) -> list[psutil.Process]:
    """The processes below a command, once a ComfyUI is among them."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and command.poll() is None:
        children = psutil.Process(command.pid).children(recursive=True)
        if any("main.py" in words(child) for child in children):
            return children
        time.sleep(0.2)
    raise HostError(f"{command.args} started no server.")


def words(process: psutil.Process) -> str:
    """The command line of a process, empty for one that has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""
