"""A node pack for a server under test: tells what the server holds, and makes a call of a model fail. Only the endurance benchmark loads it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import comfy.model_management
import torch
from aiohttp import web
from comfy.model_patcher import ModelPatcher
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
CALLS: dict[str, tuple[str, str, str]] = {
    "model": ("comfy.model_base", "BaseModel", "apply_model"),
    "vae decode": ("comfy.sd", "VAE", "decode"),
    "vae encode": ("comfy.sd", "VAE", "encode"),
    "decoder": ("comfy.ldm.models.autoencoder", "AutoencodingEngineLegacy", "decode"),  # of all that a fit calls, so that it fails in the middle
    "text encoder": ("comfy.sd", "CLIP", "encode_from_tokens_scheduled"),
    "ranker's pictures": ("open_clip.model", "CLIP", "encode_image"),
    "ranker's texts": ("open_clip.model", "CLIP", "encode_text"),
}
ERRORS: dict[str, Callable[[], Exception]] = {
    "error": lambda: RuntimeError("an injected error"),
    "out of memory": lambda: torch.OutOfMemoryError("an injected shortage of memory"),
}
FUNCTIONS = (staticmethod, classmethod, property)
# What an object may hold for others to call.
HOOKS = re.compile("hook|wrapper|callback|patch|injection|options|attachments|additional|backup")


def places() -> dict[tuple[str, ...], Any]:
    """Every function and class of every module, and what their classes hold, by its place."""
    found: dict[tuple[str, ...], Any] = {}
    for name, module in list(sys.modules.items()):
        for key, value in list(getattr(module, "__dict__", {}).items()):
            if callable(value):
                found[name, key] = value
            if isinstance(value, type) and value.__module__ == name:
                found |= {(name, key, part): one for part, one in list(vars(value).items()) if callable(one) or isinstance(one, FUNCTIONS)}
    return found


def marks(owner: Any) -> Iterator[str]:
    """What an object of its class holds beyond the class: functions in the place of the class's own, and hooks, wrappers, callbacks and patches."""
    kind = type(owner)
    for key, value in list(vars(owner).items()):
        if callable(value) and hasattr(kind, key):
            yield f"{kind.__name__}.{key}: {getattr(value, '__qualname__', type(value).__name__)}"
        elif HOOKS.search(key) and isinstance(value, dict | list | set) and (held := sorted(keys(value))):
            yield f"{kind.__name__}.{key}: {', '.join(held)}"


def keys(value: Any) -> Iterator[str]:
    """The keys of dicts in dicts, with how many values there are at their ends."""
    if isinstance(value, dict):
        yield from (f"{key}.{inner}" for key, one in value.items() for inner in keys(one))
    elif not isinstance(value, list | set | tuple):
        yield "one"
    elif value:
        yield str(len(value))


def things() -> Counter[str]:
    """Threads, and the marks of all modules, patchers and tensors that live."""
    found = Counter(f"thread {re.sub(r'[0-9]+', 'N', one.name)}" for one in threading.enumerate())
    found.update(f"hook of all modules {name}" for name, value in vars(torch.nn.modules.module).items() if name.startswith("_global_") and value)
    for one in gc.get_objects():
        kind = type(one)
        if issubclass(kind, torch.nn.Module | ModelPatcher | comfy.sd.VAE | comfy.sd.CLIP):
            found.update(marks(one))
        elif issubclass(kind, torch.Tensor) and (one._backward_hooks or (one.is_leaf and getattr(one, "_post_accumulate_grad_hooks", None))):
            found[f"hook of a {kind.__name__}"] += 1
    return found


# What the server held when it was last called clean.
CLEAN: dict[str, Any] = {}


def left() -> list[str]:
    """What is not as it was when the server was called clean: functions in places of modules that are not new since, and more things."""
    gc.collect()
    now, before = places(), CLEAN["places"]
    changed = {place for place in now.keys() | before.keys() if place[0] in CLEAN["modules"] and now.get(place) is not before.get(place)}
    return sorted([*(".".join(place) for place in changed if place in before or not is_own(place, now[place])), *(things() - CLEAN["things"]).elements()])


def is_own(place: tuple[str, ...], value: Any) -> bool:
    """Whether a module has got something of its own package: transformers binds each of its classes when somebody first asks for it."""
    return len(place) == 2 and str(getattr(value, "__module__", "")).partition(".")[0] == place[0].partition(".")[0]


# What was replaced, and by what it goes back.
HEALTHY: dict[str, tuple[type, str, Any]] = {}


def fail_once(where: str, after: int, kind: str) -> None:
    """Makes one call fail, after so many that work, and is gone."""
    module, kind_of_owner, name = CALLS[where]
    owner = getattr(importlib.import_module(module), kind_of_owner)
    real = getattr(owner, name)
    HEALTHY[where] = owner, name, real
    left_to_go = [after]

    def failing(*args: Any, **kwargs: Any) -> Any:
        if left_to_go[0] > 0:
            left_to_go[0] -= 1
            return real(*args, **kwargs)
        setattr(owner, name, real)
        HEALTHY.pop(where, None)
        raise ERRORS[kind]()

    setattr(owner, name, failing)


@PromptServer.instance.routes.get("/probe")
async def tell(request: web.Request) -> web.Response:
    """How many models are loaded. What is free goes back to the system first."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps more and more of it otherwise, in pieces
    return web.json_response({"models": len(comfy.model_management.current_loaded_models)})


@PromptServer.instance.routes.post("/probe/clean")
async def clean(request: web.Request) -> web.Response:
    """Calls the server clean as it is now."""
    torch.optim.Adam([torch.zeros(1)])  # torch wraps the step of an optimizer's class when it makes the first one
    gc.collect()
    CLEAN.update(modules=set(sys.modules), places=places(), things=things())
    return web.json_response({})


@PromptServer.instance.routes.get("/probe/left")
async def tell_left(request: web.Request) -> web.Response:
    return web.json_response(left())


@PromptServer.instance.routes.post("/probe/fail")
async def fail(request: web.Request) -> web.Response:
    fail_once(**await request.json())
    return web.json_response({})


@PromptServer.instance.routes.post("/probe/heal")
async def heal(request: web.Request) -> web.Response:
    """Takes back a failure that was never reached; answers whether all were reached."""
    reached = not HEALTHY
    while HEALTHY:
        owner, name, real = HEALTHY.popitem()[1]
        setattr(owner, name, real)
    return web.json_response({"reached": reached})
