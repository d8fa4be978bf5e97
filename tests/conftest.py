"""Fixtures: the pack loaded as ComfyUI loads it, a real server, a client of it, and a real browser."""
from __future__ import annotations

import asyncio
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACK = "blended_latent_diffusion"
SHOTS = ROOT / "output" / "screenshots"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The facts about the host, which run.py passes."""
    parser.addoption("--comfyui", type=Path, help="the ComfyUI tree; this Python has its packages")
    parser.addoption("--overlay", type=Path, help="a folder of packages that this Python lacks")
    parser.addoption("--browser", type=Path, help="a Chromium-like browser")
    parser.addoption("--update-interface", action="store_true", help="record the nodes' public interface anew")


def pytest_configure(config: pytest.Config) -> None:
    """Make ComfyUI and the pack importable."""
    comfyui = config.getoption("--comfyui")
    if comfyui is None:
        raise pytest.UsageError("run the tests with: python run.py test")
    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if workers:
        # Before torch is imported: more threads than cores wait for each other.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
    elif config.getoption("numprocesses", None):
        return  # it only hands out the tests
    from host.pack import prepare
    sys.path.insert(0, str(comfyui))
    prepare()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a server or a browser, so that none can be forgotten, and let files that use a browser begin: they take longest."""
    for item in items:
        names = set(getattr(item, "fixturenames", ()))
        if names & {"server", "client", "open_server", "ui"}:
            item.add_marker("server")
        if "ui" in names:
            item.add_marker("browser")
    long = {item.path for item in items if item.get_closest_marker("browser")}
    items.sort(key=lambda item: item.path not in long)


def skip_without(what: str) -> NoReturn:
    """Skip a test of something that the ComfyUI in use is too old to have."""
    from comfyui_version import __version__

    from host.provision import PINNED
    if not is_older(__version__, PINNED.version):
        pytest.fail(f"ComfyUI {__version__} is not older than the pinned one and has no {what}")
    pytest.skip(f"ComfyUI {__version__} has no {what}")


def is_older(version: str, than: str) -> bool:
    """Of two versions of whole numbers."""
    first, second = (tuple(map(int, text.split("."))) for text in (version, than))
    return first < second


def needs_math(client: Any) -> None:
    """Skip a test of the blueprint where ComfyUI is too old for the node that computes its settings."""
    if "BOOLEAN" not in str(client.object_info().get("ComfyMathExpression")):
        skip_without("ComfyMathExpression that takes booleans")


def after_a_reload() -> None:
    """Skip the rest of a test where ComfyUI is too old to keep what nodes in the middle of a graph show."""
    if not keeps_displays():
        skip_without("has_intermediate_output")


def keeps_displays() -> bool:
    """Whether ComfyUI shows again what a node in the middle of a graph has shown, when the page is loaded again and when the node comes from the cache."""
    from comfy_api.latest import io
    return hasattr(io.Schema, "has_intermediate_output")


@pytest.fixture(scope="session")
def host(pytestconfig: pytest.Config) -> Any:
    """The host that the tests run on."""
    from host.provision import Host
    return Host(Path(sys.executable), pytestconfig.getoption("--comfyui"), pytestconfig.getoption("--overlay"))


@pytest.fixture(scope="session")
def pack() -> ModuleType:
    """This pack, as a module; `from blended_latent_diffusion.bld import masks` works too."""
    return importlib.import_module(PACK)


@pytest.fixture(scope="session")
def open_server(host: Any) -> Callable[..., Any]:
    """Makes servers on this host: open_server(packs=..., ...), to be used in a with statement."""
    from host.server import Server
    return lambda **options: Server(host, **options)


@pytest.fixture(scope="session")
def set_up(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a server is started with: this pack, the small model in the place of the demo's, stand-ins for the one pack that an example needs,
    and the examples' pictures at half their size."""
    from PIL import Image

    from host.demo import INPUTS
    from host.server import ALL_PACKS
    folder = tmp_path_factory.mktemp("inputs")
    for path in INPUTS.iterdir():
        with Image.open(path) as whole:
            half = whole.convert("RGB").reduce(2)
            half.putalpha(whole.getchannel("A").reduce(2).point(lambda value: 255 * (value >= 128)))
            half.save(folder / path.name)
    return {"packs": ALL_PACKS | {"bld-demo": ROOT / "tests" / "small_demo"}, "inputs": [folder]}


@pytest.fixture(scope="session")
def server(open_server: Callable[..., Any], set_up: dict[str, Any]) -> Iterator[Any]:
    """One real server for all tests."""
    with open_server(**set_up) as running:
        yield running


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    """A client of the server, with a websocket of its own."""
    from host.client import Client
    from host.server import log_tail
    with Client(server.url, diagnose=lambda: log_tail(server.log())) as connected:
        yield connected


@pytest.fixture(scope="session")
def chromium(pytestconfig: pytest.Config) -> Iterator[Any]:
    """The browser."""
    from playwright.sync_api import sync_playwright

    from host.browser import FLAGS
    path = pytestconfig.getoption("--browser")
    assert path is not None, "the browser tests need --browser; python run.py test passes it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(path), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def tab(chromium: Any, server: Any) -> Iterator[Any]:
    """The real user interface in a real browser. It is closed with the file that uses it: an open one takes a quarter of a core."""
    from host.ui import Ui
    page = chromium.new_page(viewport={"width": 1600, "height": 1000})
    yield Ui(page, server.url)
    page.close()


@pytest.fixture
def ui(tab: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The one tab of a file's tests: most of their time would go into loading the page. It ends in a picture of the screen under output/screenshots."""
    tab.complaints.clear()
    if not keeps_displays():
        tab.forget_results()
    SHOTS.mkdir(parents=True, exist_ok=True)
    tab.shots = SHOTS / re.sub(r"[^\w-]+", "_", request.node.name).strip("_")
    failed = request.session.testsfailed
    yield tab
    tab.keep()
    if request.session.testsfailed > failed:
        tab.renew()


@dataclass(frozen=True)
class Edit:
    """An edit of the small model, loaded: model, VAE, source picture (1, 128, 128, 3), mask (1, 128, 128), latent and prompts."""

    model: Any
    clip: Any
    vae: Any
    image: Any
    mask: Any
    latent: dict[str, Any]
    positive: list[Any]
    negative: list[Any]


@pytest.fixture(scope="session")
def demo_pack(pack: ModuleType) -> ModuleType:
    """The demo's pack, with its ranker and, before it, the small model's listed beside the user's own, as after the start of a server."""
    import folder_paths

    from demo.small import files
    module = importlib.import_module("demo.node")

    async def load() -> None:
        for extension in (await pack.comfy_entrypoint(), module.DemoExtension()):
            await extension.on_load()

    # In a thread of its own: Playwright keeps an event loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, load()).result()
    folder_paths.add_model_folder_path("open_clip", str(files.OPEN_CLIP), is_default=True)
    return module


@pytest.fixture(scope="session")
def edit(demo_pack: ModuleType) -> Edit:
    """The small model and an edit for it, made in inference mode as in a running workflow."""
    import nodes
    import torch

    from demo import loader
    from demo.small import files
    with torch.inference_mode():
        model, clip, vae = loader.load(files.WEIGHTS)
        image, mask = torch.zeros(1, 128, 128, 3), torch.zeros(1, 128, 128)
        image[:] = picture("bld_demo_edit.png")[..., :3]
        mask[0, 48:96, 40:104] = 1
        mask[0, 20:22, 16:100] = 1
        latent = {"samples": vae.encode(image)}
        positive, negative = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a fox", ""))
    return Edit(model, clip, vae, image, mask, latent, positive, negative)


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """No file of this process gets larger than so many bytes: writing to it fails as on a full disk. POSIX only."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def watched(model: Any, look: Callable[[dict[str, Any]], Any]) -> Any:
    """A clone of the model that shows look() the arguments of each guided prediction, and changes none."""
    def watch(args: dict[str, Any]) -> Any:
        look(args)
        return args["denoised"]

    clone = model.clone()
    clone.set_model_sampler_post_cfg_function(watch)
    return clone


def picture(name: str) -> Any:
    """An input picture of the small model as floats in 0..1."""
    import numpy as np
    import torch
    from PIL import Image

    from demo.small.files import INPUT
    return torch.from_numpy(np.asarray(Image.open(INPUT / name), np.float32) / 255)
