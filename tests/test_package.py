"""What is published: the archive as the registry builds it, what its code may not do, and what its dependencies leave alone."""
from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import posixpath
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image
from test_host import wheel

from host import provision

ROOT = Path(__file__).resolve().parent.parent
# Everything at the top of the archive, and the kinds of files in it. Whoever adds one asks first whether users need it.
CONTENT = {".comfyignore", ".gitignore", "ARCHITECTURE.md", "LICENSE", "README.md", "SECURITY.md", "__init__.py", "bld", "bridge", "docs",
           "example_workflows", "js", "locales", "nodes", "pyproject.toml", "requirements.txt", "subgraphs"}
KINDS = {"", ".css", ".jpg", ".js", ".json", ".md", ".png", ".py", ".svg", ".toml", ".txt"}
# Names of modules, functions and attributes with which code reaches the network, the environment, other programs, or code in data.
FORBIDDEN = {"eval", "exec", "compile", "__import__", "environ", "getenv", "putenv", "system", "popen", "fork", "subprocess", "multiprocessing", "ctypes",
             "socket", "ssl", "urllib", "http", "httpx", "requests", "aiohttp", "pickle", "marshal", "shelve"}


def listed(path: Path) -> list[Requirement]:
    """What a requirements.txt or a file of constraints asks for."""
    lines = [line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [Requirement(line) for line in lines if line]


# The oldest packages that the suite runs on, and those of them that a user of ComfyUI has, with three that it brings in a version too old to build today.
TESTED = {wanted.name: next(iter(wanted.specifier)).version for wanted in (*map(Requirement, provision.OLDEST.torch), *listed(provision.OLDEST.constraints))}
ADDED = {"open-clip-torch", "timm", "ftfy", "wcwidth"}
OLDEST = {name: version for name, version in TESTED.items() if name not in ADDED} | {"tqdm": "4.0.0", "pyyaml": "5.1", "regex": "2019.12.20"}
TOO_OLD = {"pillow": "9.5.0", "scipy": "1.11.4"}


def published() -> list[str]:
    """The files that the registry's tool packs: those that git tracks, without what .comfyignore names."""
    def listed(*options: str) -> set[str]:
        done = subprocess.run(["git", "ls-files", "-z", "--cached", *options], cwd=ROOT, capture_output=True, text=True, check=True)
        return set(filter(None, done.stdout.split("\0")))

    return sorted(listed() - listed("--ignored", "--exclude-from=.comfyignore"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """The pack unpacked under a name with a space and letters that are not ASCII, and nobody may write there."""
    folder = tmp_path / "custom_nodes" / "Überblendung für 北京"
    for name in published():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)


def test_the_archive_holds_what_users_need_and_nothing_else():
    files = [Path(name) for name in published()]
    assert {path.parts[0] for path in files} == CONTENT
    assert {path.suffix for path in files} <= KINDS
    assert sum((ROOT / path).stat().st_size for path in files) < 20e6


def names_used(path: Path) -> set[str]:
    """Every name that Python code imports, calls or reads, in its parts."""
    used: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            used |= {part for name in names for part in name.split(".")}
        elif isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("os", "sys", "builtins"):
            used.add(node.attr)
    return used


@pytest.mark.parametrize("name", [name for name in published() if name.endswith(".py")])
def test_no_code_reaches_for_the_network_the_environment_or_other_programs(name):
    assert names_used(ROOT / name) & FORBIDDEN == set()


def browser_code() -> dict[str, str]:
    """The text of each published file of browser code, by its path."""
    return {name: (ROOT / name).read_text(encoding="utf-8") for name in published() if name.endswith(".js")}


# With which a text becomes code or markup, or goes to another machine. The one address is a name, by which a page knows SVG.
RUNS_TEXTS = r"""\beval\b|\bFunction\(|innerHTML|outerHTML|insertAdjacentHTML|DOMParser|createContextualFragment|srcdoc|setHTML|document\.write
    |https?://(?!www\.w3\.org/2000/svg)|XMLHttpRequest|importScripts|\bWorker\(|WebSocket|sendBeacon|\bfetch\("""
# With which code reaches into the frontend, whose insides change; what it offers to packs is `app` and `api`.
REACHES_INSIDE = r"\.prototype\b|\bgetContext\(|\bLiteGraph\b|\bcomfyAPI\b"
FRONTEND = {"js/lib/comfy.js": ["../../../scripts/app.js", "../../../scripts/api.js"]}


def test_no_browser_code_runs_texts_asks_other_machines_or_reaches_into_the_frontend():
    forbidden = re.compile(f"{RUNS_TEXTS}|{REACHES_INSIDE}", re.VERBOSE)
    assert {name: found for name, code in browser_code().items() if (found := forbidden.findall(code))} == {}


def test_browser_code_imports_only_its_own_files_and_the_frontend_in_one_place():
    named = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*(["'`])(.*?)\1|\bimport\s*\(\s*([^"'`\s].*)""")
    ours = browser_code()
    for name, code in ours.items():
        asked = [text or computed for _, text, computed in named.findall(code)]
        others = [one for one in asked if posixpath.normpath(posixpath.join(posixpath.dirname(name), one)) not in ours]
        assert others == FRONTEND.get(name, []), name


START = """
import asyncio, json, sys
pack = sys.argv.pop()
sys.argv[1:] = ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes
WATCHED = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.remove", "os.rename",
           "os.mkdir", "shutil.rmtree")
seen = []
def watch(event, arguments):
    if event in WATCHED or (event == "open" and str(arguments[1]).strip("rbtU") not in ("", "None")):
        seen.append([event, str(arguments[:2])])
sys.addaudithook(watch)
stock = set(nodes.NODE_CLASS_MAPPINGS)
asyncio.run(nodes.load_custom_node(pack))
added = sorted(set(nodes.NODE_CLASS_MAPPINGS) - stock)
print(json.dumps([added, seen, nodes.EXTENSION_WEB_DIRS]))
"""


def test_the_archive_starts_from_a_folder_of_any_name_without_writing_or_asking_anyone(archive, host):
    before = {path: path.stat().st_mtime_ns for path in archive.rglob("*")}
    environment = host.environment(host.comfyui) | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([host.python, "-c", START, archive], cwd=host.comfyui, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    added, seen, web = json.loads(done.stdout.splitlines()[-1])
    assert added == sorted(json.loads((ROOT / "tests" / "interface.json").read_text(encoding="utf-8")))
    assert seen == []
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


@pytest.mark.parametrize("older, perhaps", [({}, set()), (TOO_OLD, {"numpy"})], ids=["the oldest that works", "a Pillow and a SciPy too old"])
def test_an_installation_replaces_nothing_but_a_pillow_or_scipy_too_old(python, older, perhaps):
    """For a SciPy too old, pip takes the newest, which may ask for a newer NumPy."""
    run_pip(python, "install", *(f"{name}=={version}" for name, version in (OLDEST | older).items()))
    before = installed(python)
    run_pip(python, "install", "-r", ROOT / "requirements.txt")
    after = installed(python)
    assert {*older} <= {name for name, version in before.items() if after.get(name) != version} <= {*older, *perhaps}
    assert {*after} - {*before} == ADDED


def test_the_versions_that_are_asked_for_are_the_oldest_that_the_suite_runs_on():
    asked = {one.name.replace("_", "-"): str(one.specifier) for one in listed(ROOT / "requirements.txt") if one.specifier}
    assert asked == {name: f">={TESTED[name].removesuffix('.0')}" for name in ("pillow", "scipy", "open-clip-torch")}


def test_icon_and_banner_are_there_and_have_the_sizes_that_the_registry_takes():
    address = r'^(Icon|Banner) = "https://raw\.githubusercontent\.com/[^/]+/[^/]+/main/(.+)"$'
    named = dict(re.findall(address, (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    with Image.open(ROOT / named["Icon"]) as icon, Image.open(ROOT / named["Banner"]) as banner:
        assert icon.width == icon.height <= 400
        assert banner.width * 9 == banner.height * 21
