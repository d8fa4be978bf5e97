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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
from PIL import Image

from bench import _table
from bench._process import at_most
from host import HostError
from host.client import Client, ConnectionLost, Event, ExecutionFailed, Interrupted
from host.demo import INPUTS
from host.provision import Host
from host.server import PACKS, ROOT, Server

METHODS = ("paste", "colour fit", "poisson", "decoder weights", "auto")
SIZES = (128, 96, 160)
PERIOD = 3 * 4 * 5 * 7  # edits this far apart have the same nodes, size and method
KINDS = 30  # this many in a row use every method and node several times
FAULTY = ("model", "vae decode", "vae encode", "decoder", "text encoder", "ranker's pictures", "ranker's texts")  # calls that the probe can make fail
MOST = 1.02  # how much more a server may hold late than early
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
            "soft_edge": 0, "where": ("everywhere", "thin parts")[number % 2]}),
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


@contextlib.contextmanager
def watched(*arguments: str) -> Iterator[tuple[Server, Client]]:
    """A server with a client, which has run nodes of ComfyUI alone, and counts as clean as it is then."""
    with serving(None, *arguments) as server, Client(server.url) as client:
        client.run(by_host(6))
        client.post("/probe/clean", {})
        yield server, client


def by_host(number: int) -> Prompt:
    """An edit of the whole picture by ComfyUI's own nodes and the demo's loader."""
    prompt = {name: node for name, node in edit(number).items() if name not in OURS - {"draw"}}
    prompt["draw"] |= {"class_type": "KSampler", "inputs": prompt["draw"]["inputs"] | {"model": ["load", 0]}}
    prompt["latent"]["inputs"]["pixels"], prompt["save"]["inputs"]["images"] = ["source", 0], ["decode", 0]
    del prompt["told"]
    return prompt


def left_by(client: Client, trial: Callable[[], str]) -> tuple[str, list[str]]:
    """What a trial answers, and what it has left on the server: at once, while the models are still those of the trial, and after an edit like no other."""
    told = trial()
    # A patched model that the server remembers as a node's result has its wrappers by right.
    at_once = [one for one in client.get("/probe/left") if not one.startswith("ModelPatcher.")]
    client.post("/free", {"free_memory": True})  # forgets the results that it remembers
    client.run(edit(0))
    return told, sorted({*at_once, *client.get("/probe/left")})


def tell(findings: list[str]) -> list[str]:
    """Prints findings and returns them."""
    print("\n".join(["findings:", *findings]) if findings else "no findings")
    return findings


def pixels(server: Server, number: int) -> bytes:
    """What the latest run of an edit saved. Raises AssertionError for a file that is not whole."""
    path = max((server.base / "output").glob(f"edit_{number}_*.png"))
    return np.asarray(Image.open(path).convert("RGB")).tobytes()


def held(server: Server, client: Client) -> dict[str, float]:
    """What the server holds."""
    process, told = psutil.Process(server.pid), client.get("/probe")
    return {"MiB": process.memory_info().rss / 2**20, "files": process.num_fds(), "threads": process.num_threads(), "models": told["models"]}


def many_edits(count: int) -> dict[str, Any]:
    """Edits of two clients at once: what the server holds over time, what is left, and whether each result is that of another server."""
    # The other server runs beside it. Two that compute on all cores would wait for each other.
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"), ThreadPoolExecutor(1) as beside:
        others = beside.submit(in_reverse, count)
        results, holds, left = by_two(count)
        different = [number for number, data in others.result().items() if data != results[number]]
    sixth = max(1, len(holds) // 6)
    early, late = holds[sixth : 2 * sixth] or holds[:1], holds[-sixth:]
    ratios = {name: float(np.mean([one[name] for one in late]) / np.mean([one[name] for one in early])) for name in holds[0]}
    _table.show(f"{count} edits by two clients, last sixth over the second", {name: "{:.3f}" for name in ratios}, {"ratio": list(ratios.values())})
    findings = [f"edit {number} differs from that of another server" for number in different] + [f"left: {one}" for one in left]
    if sixth * 2 >= KINDS:  # else the second sixth has not seen every kind of edit, each of which takes room when it first comes
        findings += [f"more {name}: {ratio:.3f} times" for name, ratio in ratios.items() if ratio > MOST]
    return {"edits": count, "ratios": ratios, "holds": holds, "findings": tell(findings)}


def by_two(count: int) -> tuple[dict[int, bytes], list[dict[str, float]], list[str]]:
    """Edits of two clients at once: their results, what the server holds after each pair, and what is left in the end."""
    results, holds = {}, []
    # ComfyUI 0.30.0's own cache keeps the keys of every prompt, and its history the prompts: neither may be taken for ours.
    with watched("--cache-classic") as (server, first), Client(server.url) as second, ThreadPoolExecutor(2) as pool:
        for pair in range(0, count, 2):
            numbers = [number for number in (pair, pair + 1) if number < count]
            list(pool.map(lambda client, number: client.run(edit(number)), (first, second), numbers))
            results |= {number: pixels(server, number) for number in numbers}
            first.post("/history", {"clear": True})
            holds.append(held(server, first))
        return results, holds, left_by(first, str)[1]


def in_reverse(count: int) -> dict[int, bytes]:
    """The results of the same edits on a server of their own, so that none has the same ones before it."""
    with serving() as server, Client(server.url) as client:
        results = {}
        for number in range(count - 1, -1, -1):
            client.run(edit(number))
            results[number] = pixels(server, number)
        return results


def broken_edits(interrupts: int, faults: int, seed: int = 0) -> dict[str, Any]:
    """Edits that are interrupted at a random moment of one of our nodes, or in which a call fails: the next must come out as ever, and nothing may be left."""
    chance = random.Random(seed)
    ended, findings = Counter[str](), []
    with watched() as (server, client):
        client.run(edit(0))
        right = pixels(server, 0)
        lasting = [spans(client, edit(number)) for number in range(min(interrupts, KINDS))]
        assert interrupts < KINDS or set().union(*lasting) == OURS
        for trial in range(interrupts + faults):
            number = PERIOD * (1 + trial // KINDS) + trial % KINDS
            if trial < interrupts:
                node, seconds = chance.choice(sorted(lasting[trial % KINDS].items()))
                breaking = partial(interrupted, client, number, node, chance.uniform(0, seconds))
            else:
                fault = {"where": chance.choice(FAULTY), "after": chance.randrange(8), "kind": chance.choice(("error", "out of memory"))}
                breaking = partial(failed, client, number, fault)
            what, left = left_by(client, breaking)
            ended[what] += 1
            findings += [f"trial {trial}, {what}: left {one}" for one in left]
            if pixels(server, 0) != right:
                findings.append(f"trial {trial}, {what}: the next edit is another")
    _table.show(f"{interrupts} interrupts, {faults} faults", {"times": "{}"}, {what: [count] for what, count in sorted(ended.items())})
    return {"ended": ended, "findings": tell(findings)}


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
    """Makes a call of an edit fail, an earlier one where the edit has no such many; returns how the edit ended."""
    while True:
        client.post("/free", {"free_memory": True})
        client.post("/probe/fail", fault)
        how = "recovered"
        try:
            client.run(edit(number))
        except ExecutionFailed as error:
            how = f"failed in {error.node_type}"
        if client.post("/probe/heal", {})["reached"]:
            return f"{fault['kind']} in {fault['where']}: {how}"
        if not fault["after"]:
            return f"{fault['kind']} in {fault['where']}: never reached"
        fault = fault | {"after": fault["after"] // 2}


def kills(count: int, seed: int = 0) -> dict[str, Any]:
    """Servers killed as they sample or fit, and started again on the same folders: whole files only, and the edit comes out as ever."""
    chance, ended, findings = random.Random(seed), Counter[str](), []
    with serving() as server, Client(server.url) as client:
        client.run(edit(3))
        right, base, lasting = pixels(server, 3), server.base, spans(client, edit(3))
        for trial in range(count):
            folder, node = base / f"killed_{trial}", ("draw", "reconstruct")[trial % 2]
            what = killed(folder, node, chance.uniform(0, lasting[node]))
            ended[what] += 1
            with serving(folder) as again, Client(again.url) as client_again:
                client_again.run(edit(3))
                whole = [Image.open(path).load() for path in (folder / "output").glob("*.png")]
                if pixels(again, 3) != right or not whole:
                    findings.append(f"trial {trial}, {what}: the next edit is another")
        assert server.alive
    _table.show(f"{count} servers killed, and started again", {"times": "{}"}, {what: [times] for what, times in sorted(ended.items())})
    return {"ended": ended, "findings": tell(findings)}


def killed(folder: Path, node: str, after: float) -> str:
    """Kills a server some seconds after a node of its edit has started; returns where the edit was."""
    prompt, started = edit(3), []

    def look(event: Event) -> None:
        if event.type == "executing" and event.node:
            started.append(event.node)
            if event.node == node:
                timer.start()

    with serving(folder) as victim, Client(victim.url) as client:
        timer = threading.Timer(after, psutil.Process(victim.pid).kill)
        with contextlib.suppress(ConnectionLost):
            client.run(prompt, look)
            started.append("")
        timer.join()
    return f"killed in {prompt[node]['class_type']}: was in {prompt[started[-1]]['class_type'] if started[-1] else 'no node any more'}"


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
    findings = [f"left: {one}" for one in left] + (["the last start ended badly"] if process.returncode else [])
    return {"rows": rows, "findings": tell(findings)}


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
    chance, ended, findings, trial = random.Random(seed), Counter[str](), [], 0
    while trial < count:
        with watched() as (server, client), contextlib.suppress(ConnectionLost):
            client.run(edit(0))
            right = pixels(server, 0)
            while trial < count:
                trial += 1
                what, left = left_by(client, partial(starved, server, client, 2000 + trial, chance.randrange(400 * 2**20)))
                ended[what] += 1
                findings += [f"trial {trial}, {what}: left {one}" for one in left]
                if pixels(server, 0) != right:
                    findings.append(f"trial {trial}, {what}: the next edit is another")
    ended["the server ended by itself"] = count - ended.total()
    _table.show(f"{count} shortages of memory", {"times": "{}"}, {what: [times] for what, times in sorted(ended.items())})
    return {"ended": ended, "findings": tell(findings)}


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


def signals(seed: int = 0) -> dict[str, Any]:
    """Each command that starts a server, ended by each signal at a random moment: none of its processes may be left."""
    chance, host, findings, rows = random.Random(seed), the_host(), [], {}
    # A shell that starts this in the background has it ignored, and so would its children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="bld-signals-") as folder:
        for name, command in commands(Path(folder)).items():
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
                arguments = [str(host.python), "run.py", *command, "--comfyui", str(host.comfyui), "--python", str(host.python)]
                with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
                    wait_for_server(process)
                    time.sleep(chance.uniform(0, 30))
                    ended = process.poll() is not None
                    children = psutil.Process(process.pid).children(recursive=True) if not ended else []
                    process.send_signal(number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(60)
                    slow = process.poll() is None
                    process.kill()
                gone, alive = psutil.wait_procs(children, 15)
                what = f"{name}, {number.name}"
                rows[what] = [len(gone), len(alive), "over 60 s" if slow else "had ended before" if ended else ""]
                findings += [f"{what}: left {words(one)}" for one in alive] + ([f"{what}: takes over 60 s"] if slow else [])
    _table.show("command and signal", {"processes that ended": "{}", "left": "{}", "the command itself": "{}"}, rows)
    return {"rows": rows, "findings": tell(findings)}


def wait_for_server(command: subprocess.Popen[bytes], timeout: float = 240) -> None:
    """Waits until a ComfyUI is among the processes below a command."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline and command.poll() is None:
        if any("main.py" in words(child) for child in psutil.Process(command.pid).children(recursive=True)):
            return
        time.sleep(0.2)
    raise HostError(f"{command.args} started no server.")


def words(process: psutil.Process) -> str:
    """The command line of a process, empty for one that has just ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""
