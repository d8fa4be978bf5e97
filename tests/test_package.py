"""What is published: the archive as the registry builds it, what its code may not do, and what its dependencies leave alone."""
from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import posixpath
import re
import subprocess
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image
from test_host import wheel

from host import provision

ROOT = Path(__file__).resolve().parent.parent
# Everything at the top of the archive. Whoever adds something asks first whether users need it.
CONTENT = {".comfyignore", ".gitignore", "ARCHITECTURE.md", "LICENSE", "README.md", "SECURITY.md", "__init__.py", "bld", "bridge", "docs",
           "example_workflows", "js", "locales", "nodes", "pyproject.toml", "requirements.txt", "subgraphs"}
# The kinds of files in its folders.
KINDS = re.compile(r"""(bld|bridge|nodes)/.+\.py | docs/[^/]+\.md | docs/images/[^/]+\.(jpg|png|svg|webp) | example_workflows/[^/]+\.(jpg|json)
    | js/(lib/)?[^/]+\.(css|js) | js/docs/[^/]+\.md | js/docs/images/[^/]+\.(jpg|png) | locales/\w+/nodeDefs\.json | subgraphs/[^/]+\.json""", re.VERBOSE)
# With which code reaches the network, the environment, other programs, or code in data.
FORBIDDEN = re.compile(r"""((subprocess|_posixsubprocess|multiprocessing|pty|ctypes|_ctypes|cffi|socket|_socket|socketserver|ssl|urllib|urllib3|http|httpx
    |requests|aiohttp|websockets|ftplib|smtplib|xmlrpc|webbrowser|runpy|code|codeop|posix|nt|pickle|cloudpickle|dill|joblib|marshal|shelve)
    | os\.(environb?|getenvb?|putenv|unsetenv|system|popen|fork|forkpty|exec\w+|spawn\w+|posix_spawnp?|startfile)
    | asyncio\.(subprocess|create_subprocess_\w+|open_connection|open_unix_connection|start_server|start_unix_server)
    | torch\.(hub|load|multiprocessing|distributed|utils\.cpp_extension)
    | builtins\.(eval|exec|compile|__import__|__builtins__) | .+\.\*)(\..+)?""", re.VERBOSE)
# Of these, code may use the harmless names, but not hand on the whole module.
SYSTEM = {"os", "asyncio", "builtins", "importlib"}


def listed(path: Path) -> list[Requirement]:
    """What a requirements.txt or a file of constraints asks for."""
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line]


# The oldest packages that the suite runs on, and those of them that a user of ComfyUI has, with three that it brings in a version too old to build today.
TESTED = {wanted.name: next(iter(wanted.specifier)).version for wanted in (*map(Requirement, provision.OLDEST.torch), *listed(provision.OLDEST.constraints))}
ADDED = {"open-clip-torch", "timm", "ftfy", "wcwidth"}
OLDEST = {name: version for name, version in TESTED.items() if name not in ADDED} | {"tqdm": "4.0.0", "pyyaml": "5.1", "regex": "2019.12.20"}
TOO_OLD = {"pillow": "9.5.0"}


def published() -> list[str]:
    """The files that the registry's tool packs: those that git tracks, without what .comfyignore names."""
    def listed(*options: str) -> set[str]:
        done = subprocess.run(["git", "ls-files", "-z", "--cached", *options], cwd=ROOT, capture_output=True, text=True, check=True)
        return set(filter(None, done.stdout.split("\0")))

    return sorted(listed() - listed("--ignored", "--exclude-from=.comfyignore"))


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Path]:
    """The archive as the registry's tool makes it, unpacked under a name with a space and letters that are not ASCII, where nobody may write."""
    folder = tmp_path / "custom_nodes" / "Überblendung für 北京"
    with zipfile.ZipFile(tmp_path / "node.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in published():
            packed.write(ROOT / name, name)
    with zipfile.ZipFile(tmp_path / "node.zip") as packed:
        packed.extractall(folder)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def strays(names: Iterable[str]) -> list[str]:
    """The files that have no place in the archive."""
    return [name for name in names if name not in CONTENT and not KINDS.fullmatch(name)]


@pytest.mark.promise("left-out")
def test_the_archive_holds_what_users_need_and_nothing_else(archive):
    files = {path.relative_to(archive).as_posix(): path.stat().st_size for path in archive.rglob("*") if path.is_file()}
    assert {name.partition("/")[0] for name in files} == CONTENT
    assert strays(files) == []
    assert sum(files.values()) < 20e6


@pytest.mark.parametrize("name", [
    "x.py", "run.py", "bld/x.txt", "nodes/x.json", "bridge/clip/x.md", "docs/x.py", "docs/images/x.md", "docs/more/x.md", "js/x.md", "js/docs/x.js",
    "example_workflows/x.png", "locales/nodeDefs.json", "subgraphs/x.jpg", "tests/x.py",
])  # fmt: skip
def test_a_file_that_has_no_place_in_the_archive_is_found(name):
    assert strays([name]) == [name]


def imported(tree: ast.AST) -> dict[str, str]:
    """What each name that Python code gets by an import stands for."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name: f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0]: alias.name.partition(".")[0] for alias in node.names if not alias.asname}
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
    return found


def names_used(code: str) -> set[str]:
    """Every name that Python code imports or uses, in full (os.path.join), whatever the code calls it."""
    tree = ast.parse(code)
    known = imported(tree)
    # Inside os.path.join, os and os.path are not used by themselves.
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in inner:
            first, dot, rest = ast.unparse(node).partition(".")
            used.add(known.get(first, f"builtins.{first}") + dot + rest)
    if "importlib.import_module" in {*known.values(), *used}:  # any text may be the name of a module
        used |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {*known.values(), *(f"{name}.*" if name in SYSTEM else name for name in used)}


def forbidden(code: str) -> list[str]:
    """The names in the code that the pack may not use."""
    return sorted(filter(FORBIDDEN.fullmatch, names_used(code)))


@pytest.mark.promise("asks-nobody", "no-programs")
@pytest.mark.parametrize("name", [name for name in published() if name.endswith(".py")])
def test_no_code_reaches_for_the_network_the_environment_or_other_programs(name):
    assert forbidden((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("code", [
    "import os; os.environ['HOME']", "import os as o; o.environ.get('HOME')", "from os import environ as e", "from os import getenv", "import os; os.environb",
    "import os; x = os; x.environ", "import os; getattr(os, 'environ')", "import os.path; os.environ", "import os; f = lambda g=os.system: g('ls')",
    "from os import *", "import os; os.execv('/bin/ls', [])", "import os; os.spawnl(0, 'ls')", "import os; os.posix_spawn('ls', [], {})",
    "from posix import system", "import pty", "import subprocess as s", "from subprocess import run as go",
    "import asyncio; asyncio.create_subprocess_shell('ls')",
    "from asyncio import create_subprocess_exec", "from asyncio.subprocess import Process", "import runpy", "from torch import hub",
    "import torch; torch.hub.load('a', 'b')", "import torch as t; t.load('x')", "import torch.multiprocessing", "from multiprocessing.util import Finalize",
    "import urllib.request as r", "from http.client import HTTPConnection", "from socket import create_connection", "import pickle as p",
    "eval('1')", "exec('1')", "run = exec", "import builtins as b; b.eval('1')", "import builtins as b; c = b", "__import__('os')", "__builtins__['eval']",
    "import importlib; importlib.import_module('os').system('ls')", "from importlib import import_module as i; i('subprocess')",
    "import importlib as i; getattr(i, 'import_module')('os')", "import importlib; m = 'socket'; importlib.import_module(m)",
])  # fmt: skip
def test_code_that_reaches_for_them_is_found(code):
    assert forbidden(code)


def test_other_code_is_not_taken_for_it():
    assert forbidden("import os, re, torch; from . import code; re.compile('a'); model.eval(); os.path.join(os.sep, 'a'); http = model.load; http.exec") == []


def browser_code() -> dict[str, str]:
    """The text of each published file of browser code, by its path."""
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in published() if name.endswith(".js")}


# With which a text becomes code or markup, or goes to another machine. The one address is a name, by which a page knows SVG.
RUNS_TEXTS = r"""\beval\b|\bFunction\(|innerHTML|outerHTML|insertAdjacentHTML|DOMParser|createContextualFragment|srcdoc|setHTML|document\.write
    |https?://(?!www\.w3\.org/2000/svg)|XMLHttpRequest|importScripts|\bWorker\(|WebSocket|sendBeacon|\bfetch\("""
# With which code reaches into the frontend, whose insides change; what it offers to packs is `app` and `api`.
REACHES_INSIDE = r"\.prototype\b|\bgetContext\(|\bLiteGraph\b|\bcomfyAPI\b"
FRONTEND = {"js/lib/comfy.js": ["../../../scripts/app.js", "../../../scripts/api.js"]}


@pytest.mark.promise("asks-nobody", "texts-stay-texts")
def test_no_browser_code_runs_texts_asks_other_machines_or_reaches_into_the_frontend():
    never = re.compile(f"{RUNS_TEXTS}|{REACHES_INSIDE}", re.VERBOSE)
    assert {name: found for name, code in browser_code().items() if (found := never.findall(code))} == {}


def test_browser_code_imports_only_its_own_files_and_the_frontend_in_one_place():
    named = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*(["'`])(.*?)\1|\bimport\s*\(\s*([^"'`\s].*)""")
    ours = browser_code()
    for name, code in ours.items():
        asked = [text or computed for _, text, computed in named.findall(code)]
        others = [one for one in asked if posixpath.normpath(posixpath.join(posixpath.dirname(name), one)) not in ours]
        assert others == FRONTEND.get(name, []), name


START = """
import asyncio, json, os, sys
pack, temp = sys.argv[1:]
sys.argv[1:] = ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import folder_paths, nodes, torch
folder_paths.set_temp_directory(temp)
WRITES = ("open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod", "shutil.rmtree")
REACHES = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "subprocess.Popen", "os.system", "os.exec",
           "os.spawn", "os.posix_spawn", "os.fork", "os.forkpty", "os.startfile", "pty.spawn")
seen = []
def watch(event, arguments):
    if event in REACHES or event in WRITES and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
        seen.append([event, *map(str, arguments[:2 if event == "os.rename" else 1])])
loop = asyncio.new_event_loop()
sys.addaudithook(watch)
stock = set(nodes.NODE_CLASS_MAPPINGS)
loop.run_until_complete(nodes.load_custom_node(pack))
added = sorted(set(nodes.NODE_CLASS_MAPPINGS) - stock)
picture, mask = torch.rand(1, 64, 64, 3), torch.zeros(1, 64, 64)
mask[:, 16:32, 16:32] = 1
with torch.inference_mode():
    small = nodes.NODE_CLASS_MAPPINGS["LatentMaskResize"].execute(mask, {"samples": torch.zeros(1, 4, 8, 8)}).args[0]
    psnr = nodes.NODE_CLASS_MAPPINGS["EditReport"].execute(picture, picture, mask).args[0]
print(json.dumps([added, seen, nodes.EXTENSION_WEB_DIRS, small.sum().item(), psnr]))
"""


@pytest.mark.promise("any-folder", "asks-nobody", "no-programs", "folder-unchanged")
def test_the_archive_starts_and_runs_under_any_name_and_writes_only_previews_and_asks_nobody(archive, host, tmp_path):
    """For the system's administrator no folder is read-only, so what Python says it is about to do counts, too."""
    temp = tmp_path / "temp"
    before = {path: path.stat().st_mtime_ns for path in archive.rglob("*")}
    environment = host.environment(host.comfyui) | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([host.python, "-c", START, archive, temp], cwd=host.comfyui, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    added, seen, web, painted, psnr = json.loads(done.stdout.splitlines()[-1])
    assert added == sorted(json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8")))
    assert [one for one in seen if not all(Path(path).is_relative_to(temp) for path in one[1:])] == []
    assert (painted, psnr) == (4, 150) and any(temp.iterdir()) and seen
    assert web == {archive.name: str(archive / "js")}
    assert {path: path.stat().st_mtime_ns for path in archive.rglob("*")} == before


def test_the_two_lists_of_dependencies_are_one():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert 'dynamic = ["dependencies"]' in project and re.findall(r"^dependencies.*", project, re.M) == ['dependencies = { file = ["requirements.txt"] }']


def installed(python: Path) -> dict[str, str]:
    """The version of each package that pip lists."""
    listed = json.loads(run_pip(python, "list", "--format=json"))
    return {one["name"]: one["version"] for one in listed}


def run_pip(python: Path, *arguments: str | Path) -> str:
    done = subprocess.run([python, "-m", "pip", "--disable-pip-version-check", *arguments], capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That of a new environment. Its pip finds packages without code only: the user's in an old and a newer version, and what the pack adds."""
    index = tmp_path / "index"
    index.mkdir()
    for name in (*OLDEST, *ADDED):
        wheel(index, name, importlib.metadata.version(name), importlib.metadata.requires(name) or () if name in (*ADDED, "scipy") else ())
    for name, version in (*OLDEST.items(), *TOO_OLD.items()):
        wheel(index, name, version)
    for name in [name for name in os.environ if name.startswith(("PIP_", "PYTHON"))]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index)}.items():
        monkeypatch.setenv(name, value)
    provision.make_venv(tmp_path / "venv")
    return provision.find_python(tmp_path)


@pytest.mark.promise("replaces-nothing")
@pytest.mark.parametrize("older", [{}, TOO_OLD], ids=["the oldest that works", "a Pillow too old"])
def test_an_installation_replaces_nothing_but_a_pillow_too_old(python, older):
    run_pip(python, "install", *(f"{name}=={version}" for name, version in (OLDEST | older).items()))
    before = installed(python)
    run_pip(python, "install", "-r", ROOT / "requirements.txt")
    after = installed(python)
    assert {name for name, version in before.items() if after.get(name) != version} == {*older}
    assert {*after} - {*before} == ADDED


@pytest.mark.promise("replaces-nothing")
def test_the_versions_that_are_asked_for_are_the_oldest_that_the_suite_runs_on():
    asked = {one.name.replace("_", "-"): str(one.specifier) for one in listed(ROOT / "requirements.txt") if one.specifier}
    assert asked == {name: f">={TESTED[name].removesuffix('.0')}" for name in ("pillow", "open-clip-torch")}


def test_icon_and_banner_are_there_and_have_the_sizes_that_the_registry_takes():
    address = r'^(Icon|Banner) = "https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/(.+)"$'
    named = dict(re.findall(address, (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    with Image.open(ROOT / named["Icon"]) as icon, Image.open(ROOT / named["Banner"]) as banner:
        assert icon.width == icon.height <= 400
        assert banner.width * 9 == banner.height * 21
