"""The three storeys stand: bld, bridge, nodes; imports only point down, and ComfyUI's private names are in one file."""
from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STOREYS = ("bld", "bridge", "nodes")
OUTSIDE = {"bench", "demo", "host", "run", "tests"}
COMFYUI = {"comfy", "comfy_api", "comfy_api_nodes", "comfy_config", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview",
           "nodes", "server"}
# What ComfyUI's own nodes and other packs rely on.
STABLE = {"comfy.model_management", "comfy.model_patcher", "comfy.sample", "comfy.samplers", "comfy.sd", "comfy.utils", "comfy_api.latest", "folder_paths",
          "latent_preview"}
INTERNALS = "bridge.comfy_internals"


def module_of(path: Path, root: Path) -> str:
    """bridge/clip/rank.py -> bridge.clip.rank; a package is named after its folder."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, root: Path) -> set[str]:
    """The modules that a file imports: the pack's own from its root (bld.masks), others by their absolute names."""
    found = set()
    package = list(path.relative_to(root).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                # `from . import x` may name a module or something in one.
                longer = root.joinpath(*base, alias.name)
                is_module = node.level and (longer.with_suffix(".py").exists() or longer.is_dir())
                found.add(".".join([*base, alias.name] if is_module else base))
    return found


def pack(root: Path) -> dict[str, set[str]]:
    """Each module of the pack and what it imports."""
    files = [root / "__init__.py", *(path for storey in STOREYS for path in (root / storey).rglob("*.py"))]
    return {module_of(path, root): imports_of(path, root) for path in files}


def faults(root: Path) -> list[str]:
    """Every import that breaks the architecture."""
    modules, found = pack(root), []
    for name, imports in modules.items():
        storey = name.partition(".")[0]
        for other in sorted(imports):
            top = other.partition(".")[0]
            if storey in STOREYS and other in modules and (top not in STOREYS or STOREYS.index(top) > STOREYS.index(storey)):
                found.append(f"{name} imports upwards: {other}")
            if storey == "nodes" and top == "nodes" and other in modules:
                found.append(f"{name} imports another node file: {other}")
            if top in OUTSIDE:
                found.append(f"{name} imports from outside the pack: {other}")
            if top in COMFYUI and other not in modules:
                if storey == "bld":
                    found.append(f"{name} imports ComfyUI: {other}")
                elif name != INTERNALS and other not in STABLE:
                    found.append(f"{name} imports {other}, which belongs in {INTERNALS}")
    try:
        TopologicalSorter({name: {other for other in imports if other in modules} for name, imports in modules.items()}).prepare()
    except CycleError as error:
        found.append(f"imports go in a circle: {' -> '.join(error.args[1])}")
    return found


def test_imports_only_point_down():
    assert faults(ROOT) == []


def nodes_in(path: Path) -> list[str]:
    """The node classes that a file defines."""
    classes = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.ClassDef)]
    return [one.name for one in classes if any(ast.unparse(base) == "io.ComfyNode" for base in one.bases)]


def test_every_node_leaves_out_of_its_schema_what_an_older_comfyui_does_not_know():
    made = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "nodes").glob("*.py")}
    assert [name for name, text in made.items() if "io.Schema(" in text] == [], "use bridge.older_comfyui.schema"


def test_nodes_holds_node_files_only():
    files = [path for path in (ROOT / "nodes").iterdir() if path.name not in ("__init__.py", "__pycache__")]
    assert {path.name: len(nodes_in(path)) for path in files} == {path.name: 1 for path in files}
    assert all(path.suffix == ".py" for path in files)


@pytest.mark.parametrize(("file", "line", "fault"), [
    ("bld/masks.py", "from ..bridge import checks", "bld.masks imports upwards: bridge.checks"),
    ("bridge/checks.py", "from ..nodes.edit_report import EditReport", "bridge.checks imports upwards: nodes.edit_report"),
    ("bridge/checks.py", "from .. import WEB_DIRECTORY", "bridge.checks imports upwards: "),
    ("nodes/edit_report.py", "from . import open_clip_loader", "nodes.edit_report imports another node file: nodes.open_clip_loader"),
    ("bld/blending.py", "import comfy.utils", "bld.blending imports ComfyUI: comfy.utils"),
    ("bridge/clip/rank.py", "import comfy.sampler_helpers", "bridge.clip.rank imports comfy.sampler_helpers, which belongs in bridge.comfy_internals"),
    ("bridge/checks.py", "from demo import loader", "bridge.checks imports from outside the pack: demo"),
    ("bridge/checks.py", "from . import latent_masks", "imports go in a circle: "),
])
def test_a_wrong_import_is_found(tmp_path: Path, file: str, line: str, fault: str):
    for path in [ROOT / "__init__.py", *(path for storey in STOREYS for path in (ROOT / storey).rglob("*.py"))]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    with (tmp_path / file).open("a", encoding="utf-8") as target:
        target.write(f"\n{line}\n")
    assert any(one.startswith(fault) for one in faults(tmp_path))
