"""A real ComfyUI server: it starts with our packs alone, says what goes wrong, and leaves nothing behind."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from host import HostError
from host.client import Client, ExecutionFailed, Interrupted, PromptRefused
from host.server import ROOT, Server

STUB = """
import time, torch, comfy.utils
from comfy_api.latest import ComfyExtension, io

class Slow(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="StubSlow", inputs=[io.Int.Input("steps", default=3, min=0, max=1000),
            io.Int.Input("seed", control_after_generate=True),
            io.DynamicCombo.Input("method", options=[io.DynamicCombo.Option("plain", []),
                io.DynamicCombo.Option("level", [io.Float.Input("value", default=0.5, max=1.0)])])],
            outputs=[io.Image.Output()])

    @classmethod
    def execute(cls, steps, seed, method):
        bar = comfy.utils.ProgressBar(steps)
        for step in range(steps):
            time.sleep(0.02)
            bar.update(1)
        if seed == 13:
            raise ValueError("seed is 13, must be any other number")
        return io.NodeOutput(torch.full((1, 16, 16, 3), method.get("value", 0.25)))

class Extension(ComfyExtension):
    async def get_node_list(self):
        return [Slow]

async def comfy_entrypoint():
    return Extension()
"""


def write_pack(folder: Path, code: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(code, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def stub(open_server: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with one small pack, whose folder has a name that no module could have."""
    pack = write_pack(tmp_path_factory.mktemp("packs") / "a pack, v1.0", STUB)
    with open_server(packs={"stub-pack": pack}) as running:
        yield running


@pytest.fixture
def connected(stub: Server) -> Iterator[Client]:
    with Client(stub.url, diagnose=stub.log) as client:
        yield client


def prompt(steps: int = 3, seed: int = 0, method: str = "plain", **more: Any) -> dict:
    inputs = {"steps": steps, "seed": seed, "method": method, **more}
    return {"1": {"class_type": "StubSlow", "inputs": inputs},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}


def running(pid: int) -> bool:
    """Whether there is such a process that has not ended: one that nobody has asked after its end is still listed."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def group_members(pid: int) -> list[int]:
    """The processes of the group that `pid` leads."""
    table = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in table.splitlines()]
    return [int(row[0]) for row in rows if int(row[1]) == pid and not row[2].startswith("Z")]


# -- it comes up, alone ---------------------------------------------------------------------------------------------


def test_the_host_has_our_pack_and_no_other(connected):
    modules = {node["python_module"].partition(".")[0] + "." + node["python_module"].split(".")[-1]
               for node in connected.object_info().values() if node["python_module"].startswith("custom_nodes")}
    assert modules == {"custom_nodes.stub-pack"}


def test_nothing_is_written_into_the_comfyui_tree(stub, host):
    lately = [path for folder in ("user", "input", "output", "temp", "models") if (host.comfyui / folder).exists()
              for path in (host.comfyui / folder).rglob("*") if path.stat().st_mtime > stub.log_file.stat().st_ctime - 60]
    assert not lately
    assert stub.base not in host.comfyui.parents and host.comfyui not in stub.base.parents


# -- it does what a client asks ---------------------------------------------------------------------------------------


def test_a_run_tells_its_progress_and_gives_its_picture(connected):
    events = []
    run = connected.run(prompt(4, seed=1, method="level", **{"method.value": 1.0}), events.append)
    assert run.executed == ["1", "2"] and run.cached == []
    assert [e.data["value"] for e in events if e.type == "progress"][-1] == 4
    (data,) = connected.images(run, 2)
    assert Image.open(BytesIO(data)).convert("RGB").getextrema() == ((255, 255),) * 3


def test_a_second_run_comes_from_the_cache(connected):
    connected.run(prompt(seed=2))
    again = connected.run(prompt(seed=2))
    assert again.executed == [] and set(again.cached) == {"1", "2"}
    assert len(connected.images(again, 2)) == 1


def test_two_prompts_queued_at_once_keep_their_events_apart(connected):
    first, second = connected.queue(prompt(5, seed=3)), connected.queue(prompt(5, seed=4))
    assert connected.wait(second).prompt_id == second
    assert connected.wait(first).executed == ["1", "2"]


def test_an_uploaded_picture_can_be_loaded(connected):
    file = BytesIO()
    Image.new("RGB", (24, 16), "red").save(file, "PNG")
    name = connected.upload("a red one.png", file.getvalue())
    load = {"1": {"class_type": "LoadImage", "inputs": {"image": name}},
            "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    (data,) = connected.images(connected.run(load), 2)
    assert Image.open(BytesIO(data)).convert("RGB").getpixel((3, 3)) == (255, 0, 0)


def test_a_picture_that_is_uploaded_again_is_left_alone_and_another_takes_its_place(stub, connected):
    path = stub.base / "input" / "some" / "picture.png"
    assert connected.upload(path.name, b"one", "some") == "some/picture.png"
    os.utime(path, (1, 1))
    assert connected.upload(path.name, b"one", "some") == "some/picture.png"
    assert path.stat().st_mtime == 1, "a run may be reading it"
    assert connected.upload(path.name, b"another", "some") == "some/picture.png"
    assert path.read_bytes() == b"another" and len(list(path.parent.iterdir())) == 1


# -- it says what goes wrong ------------------------------------------------------------------------------------------


def test_a_refused_workflow_names_node_input_and_reason(connected):
    bad = prompt(-1)
    bad["1"]["_meta"] = {"title": "My sampler"}
    with pytest.raises(PromptRefused) as info:
        connected.run(bad)
    assert info.value.node_errors["1"]["errors"][0]["type"] == "value_smaller_than_min"
    assert "node 1 (StubSlow “My sampler”): Value -1 smaller than min of 0 (steps)" in str(info.value)


def test_a_half_sound_workflow_is_refused_too(connected):
    half = prompt(seed=5) | {"3": {"class_type": "PreviewImage", "inputs": {}}}
    with pytest.raises(PromptRefused, match=r"node 3 \(PreviewImage\): Required input is missing \(images\)"):
        connected.run(half)


def test_an_unknown_node_is_refused(connected):
    with pytest.raises(PromptRefused, match="Nope"):
        connected.run({"1": {"class_type": "Nope", "inputs": {}}})


def test_a_node_that_raises_is_named_with_its_traceback(connected):
    with pytest.raises(ExecutionFailed) as info:
        connected.run(prompt(0, seed=13))
    failure = info.value
    assert (failure.node_id, failure.node_type, failure.exception_type) == ("1", "StubSlow", "ValueError")
    assert failure.message == "seed is 13, must be any other number" and "in execute" in failure.traceback
    assert connected.run(prompt(0, seed=14)).executed == ["1", "2"], "the server goes on"


def test_cancel_stops_the_run_and_the_server_goes_on(connected):
    prompt_id = connected.queue(prompt(1000, seed=6))
    with pytest.raises(Interrupted) as info:
        connected.wait(prompt_id, lambda event: event.type == "progress" and connected.interrupt(), timeout=15)
    assert info.value.node_type == "StubSlow"
    assert connected.run(prompt(0, seed=7)).executed == ["1", "2"]


def test_a_run_that_takes_too_long_is_given_up(connected):
    prompt_id = connected.queue(prompt(1000, seed=8))
    with pytest.raises(HostError, match="not done in 1 s"):
        connected.wait(prompt_id, timeout=1)
    connected.cancel(prompt_id)
    assert connected.run(prompt(0, seed=9), timeout=15).executed == ["1", "2"]


BROKEN = {
    "imports-nothing": ("import this_module_is_not_there", "No module named 'this_module_is_not_there'"),
    "no-python": ("def broken(:", "SyntaxError"),
    "no-list": ("async def comfy_entrypoint():\n    raise ValueError('cannot list my nodes')", "cannot list my nodes"),
    "no-nodes": ("x = 1", "due to the lack of NODE_CLASS_MAPPINGS"),
}


def test_packs_that_do_not_load_are_an_error_with_their_log_lines(open_server, tmp_path):
    packs = {name: write_pack(tmp_path / name, code) for name, (code, _) in BROKEN.items()}
    with pytest.raises(HostError) as info:
        open_server(packs={"sound": write_pack(tmp_path / "sound", STUB), **packs}).__enter__()
    told = str(info.value)
    assert all(f"{name} ({folder})" in told for name, folder in packs.items()) and "sound" not in told.partition("Its log says")[0]
    assert all(why in told for _, why in BROKEN.values()), told


def test_a_server_that_cannot_start_is_an_error_with_its_log(open_server):
    with pytest.raises(HostError, match=r"(?s)ended while it was starting.*unrecognized arguments: --no-such-option"):
        open_server(packs={}, arguments=["--no-such-option"]).__enter__()


def test_a_server_that_takes_too_long_is_an_error_and_is_ended(open_server):
    late = open_server(packs={}, timeout=0.5)
    with pytest.raises(HostError, match="did not come up in 0 s"):
        late.__enter__()
    assert not late.alive and not late.base.exists()


def test_a_server_that_dies_under_a_run_is_an_error_with_its_log(open_server, tmp_path):
    pack = write_pack(tmp_path / "pack", STUB.replace("raise ValueError", "import os; os._exit(3); raise ValueError"))
    with open_server(packs={"dying-pack": pack}) as dying, Client(dying.url, diagnose=lambda: "LOG" + dying.log()) as client:
        with pytest.raises(HostError, match="(?s)connection to ComfyUI at .* is lost.*LOG.*dying-pack"):
            client.run(prompt(0, seed=13), timeout=30)


# -- it leaves nothing behind -----------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="uses POSIX process groups")
def test_stopping_ends_the_server_and_its_children(open_server, tmp_path):
    code = STUB + "\nimport subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    with open_server(packs={"with-a-child": write_pack(tmp_path / "pack", code)}) as open_one:
        assert len(group_members(open_one.pid)) >= 2
    assert group_members(open_one.pid) == [] and not open_one.base.exists()
    assert (tmp_path / "pack" / "__init__.py").is_file(), "the pack's own folder stays"


@pytest.mark.skipif(os.name == "nt", reason="uses POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_serve_ends_with_its_server_when_it_is_told_to_and_when_it_is_killed(host, tmp_path, number):
    (tmp_path / "cache").mkdir()
    code = ("import sys; sys.path.append(sys.argv.pop(1)); import host.server as s, host.serve as serve; "
            "s.Server.__init__.__defaults__ = ({},) + s.Server.__init__.__defaults__[1:]; "
            "serve.INPUTS = serve.EXAMPLES = s.ROOT / 'host'; sys.exit(serve.main())")
    command = [sys.executable, "-c", code, str(ROOT), "--comfyui", str(host.comfyui)]
    environment = host.environment() | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as serving:
        assert "ComfyUI is open at http://127.0.0.1:" in serving.stdout.readline()
        child = next(int(line.split()[0]) for line in processes() if int(line.split()[1]) == serving.pid)
        serving.send_signal(number)
        assert serving.wait(30) in (0, 143, -signal.SIGKILL)
        deadline = time.monotonic() + 10
        while running(child) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not running(child)


def processes() -> list[str]:
    """Process id and parent's id of every process."""
    return subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.splitlines()
