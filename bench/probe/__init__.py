"""A node pack for a server under test: tells what the server holds, and makes a call of a model fail. Only the endurance benchmark loads it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import torch
from aiohttp import web
from server import PromptServer


class BenchProbe:
    """Does nothing: a server lists a pack by its nodes."""

    CATEGORY, FUNCTION, RETURN_TYPES = "bench", "nothing", ()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {}

    def nothing(self) -> tuple[()]:
        return ()


NODE_CLASS_MAPPINGS = {"BenchProbe": BenchProbe}
# Whose functions nobody may leave replaced.
WATCHED = ("comfy", "comfy_extras", "execution", "folder_paths", "latent_preview", "nodes", "torch", "open_clip", "kornia")
CALLS: dict[str, tuple[str, str, str]] = {
    "model": ("comfy.model_base", "BaseModel", "apply_model"),
    "vae decode": ("comfy.sd", "VAE", "decode"),
    "vae encode": ("comfy.sd", "VAE", "encode"),
    "text encoder": ("comfy.sd", "CLIP", "encode_from_tokens_scheduled"),
    "ranker": ("open_clip.model", "CLIP", "encode_image"),
}
ERRORS: dict[str, Callable[[], Exception]] = {
    "error": lambda: RuntimeError("an injected error"),
    "out of memory": lambda: torch.OutOfMemoryError("an injected shortage of memory"),
}


def functions() -> Iterator[tuple[str, int]]:
    """Every function of the watched modules and of their classes, by its place, with its identity."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in WATCHED and module is not None:
            for key, value in list(vars(module).items()):
                if isinstance(value, type) and value.__module__ == name:
                    yield from ((f"{name}.{key}.{part}", id(one)) for part, one in list(vars(value).items()) if callable(one))
                elif callable(value):
                    yield f"{name}.{key}", id(value)


STARTED: dict[str, int] = {}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def held() -> dict[str, Any]:
    """What the server holds now. `replaced`: functions that are others than when this was first asked. What is free goes back to the system first."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps more and more of it otherwise, in pieces
    now = dict(functions())
    for place, identity in now.items():
        STARTED.setdefault(place, identity)
    modules = [one for one in gc.get_objects() if isinstance(one, torch.nn.Module)]
    return {
        "models": len(comfy.model_management.current_loaded_models),
        "threads": sorted(re.sub(r"\d+", "N", one.name) for one in threading.enumerate()),
        "replaced": sorted(place for place, identity in now.items() if STARTED[place] != identity),
        "hooks": sorted(type(one).__name__ for one in modules if any(getattr(one, kind) for kind in HOOKS)),
    }


# What was replaced, and by what it goes back.
HEALTHY: dict[str, tuple[type, str, Any]] = {}


def fail_once(where: str, after: int, kind: str) -> None:
    """Makes one call fail, after so many that work, and is gone."""
    module, kind_of_owner, name = CALLS[where]
    owner = getattr(importlib.import_module(module), kind_of_owner)
    real = getattr(owner, name)
    HEALTHY[where] = owner, name, real
    left = [after]

    def failing(*args: Any, **kwargs: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            return real(*args, **kwargs)
        setattr(owner, name, real)
        raise ERRORS[kind]()

    setattr(owner, name, failing)


@PromptServer.instance.routes.get("/probe")
async def tell(request: web.Request) -> web.Response:
    return web.json_response(held())


@PromptServer.instance.routes.post("/probe/fail")
async def fail(request: web.Request) -> web.Response:
    fail_once(**await request.json())
    return web.json_response({})


@PromptServer.instance.routes.post("/probe/heal")
async def heal(request: web.Request) -> web.Response:
    """Takes back a failure that was never reached."""
    while HEALTHY:
        owner, name, real = HEALTHY.popitem()[1]
        setattr(owner, name, real)
    return web.json_response({})
