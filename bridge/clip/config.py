"""open_clip's configs. One that lies beside a model file comes from wherever the file does, so it may name no code, no address and no folder,
and no sizes that would fill the memory before the weights turn out not to fit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import ModuleType

# What open_clip's configs may name on the Hugging Face Hub: the setting, what it is, and a file that each such repository has.
HUB_SETTINGS = (("hf_tokenizer_name", "tokenizer", "tokenizer_config.json"), ("hf_model_name", "text tower's config", "config.json"))
REPOSITORY = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
# timm would take more than a name for an address on the network or for a folder.
ARCHITECTURE = re.compile(r"[\w.]+", re.ASCII)
# transformers would run code for some others.
TOKENIZER_OPTIONS = {"clean", "strip_sep_token", "language"}
# The largest numbers in open_clip's own configs are a vocabulary of 901629, 56 layers, a context of 77 and pictures of 512.
LARGEST, LARGEST_OF = 2**20, {"layers": 256, "context_length": 4096, "image_size": 4096}
PATCHES = 128**2
# Bytes of a config.
LONGEST = 2**20
# How the names begin under which open_clip gets to know a config.
REGISTERED = "bld-config-"


def config_beside(path: Path) -> tuple[dict, dict] | None:
    """Architecture and preprocessing from a file beside the weights: <name>.json or, as on the Hub, open_clip_config.json. Raises ValueError."""
    for beside in (path.with_suffix(".json"), path.with_name("open_clip_config.json")):
        if not beside.is_file():
            continue
        if beside.stat().st_size > LONGEST:
            raise ValueError(f"clip {path.name}: {beside.name} next to it is not an open_clip config: it has {beside.stat().st_size} bytes.")
        try:
            content = json.loads(beside.read_text(encoding="utf-8"))
            config, preprocess = content.get("model_cfg", content), content.get("preprocess_cfg", {})
            lacking = [key for key, kind in (("embed_dim", int), ("vision_cfg", dict), ("text_cfg", dict)) if not isinstance(config.get(key), kind)]
        except (ValueError, AttributeError, RecursionError) as error:
            raise ValueError(f"clip {path.name}: {beside.name} next to it is not an open_clip config: {error}.") from error
        if lacking == ["text_cfg"]:
            raise ValueError(no_tower(path.name, "text"))
        if lacking:
            raise ValueError(f"clip {path.name}: {beside.name} next to it is not an open_clip config, because it lacks {' and '.join(lacking)}.")
        preprocess = preprocess if isinstance(preprocess, dict) else {}
        wrong = next(chain(faults(config), faults_of_preprocessing(preprocess)), None)
        if wrong:
            raise ValueError(f"clip {path.name}: {beside.name} next to it is refused, because {wrong}.")
        return config, preprocess
    return None


def faults(config: dict) -> Iterator[str]:
    """What in a config could do more than describe a CLIP."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    for key, _, _ in HUB_SETTINGS:
        if text.get(key) and not (isinstance(text[key], str) and REPOSITORY.fullmatch(text[key])):
            yield f"its {key} is no repository of the Hugging Face Hub"
    name = vision.get("timm_model_name")
    if name and not (isinstance(name, str) and ARCHITECTURE.fullmatch(name)):
        yield "its timm_model_name is no architecture of timm"
    options = text.get("tokenizer_kwargs") or {}
    if not isinstance(options, dict) or set(options) - TOKENIZER_OPTIONS:
        yield f"its tokenizer_kwargs may only be {', '.join(sorted(TOKENIZER_OPTIONS))}"
    for key, number in numbers_in(config):
        if abs(number) > LARGEST_OF.get(key, LARGEST) or number != number:
            yield f"its {key} is too large"
    sides = (vision.get("image_size", 224), vision.get("patch_size", 16))
    if all(isinstance(side, int) and side > 0 for side in sides) and (sides[0] // sides[1]) ** 2 > PATCHES:
        yield f"it cuts a picture of {sides[0]} pixels into patches of {sides[1]}"


def faults_of_preprocessing(preprocess: dict) -> Iterator[str]:
    """What in a config's preprocessing no picture can be prepared with."""
    for key, least in (("mean", 0.0), ("std", 1e-3)):
        values = preprocess.get(key, [1.0] * 3)
        if not (isinstance(values, list) and len(values) == 3 and all(isinstance(one, int | float) and least <= one <= 1 for one in values)):
            yield f"its {key} must be three numbers from {least:g} to 1"


def numbers_in(value: object, key: str = "") -> Iterator[tuple[str, float]]:
    """Every number in a config, with the name of its setting."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from numbers_in(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from numbers_in(one, key)
    elif isinstance(value, int | float):
        yield key, value


def hub_names(config: dict) -> Iterator[tuple[str, str, str]]:
    """Repository, kind and main file of everything that a config names on the Hub."""
    return ((config["text_cfg"][key], what, name) for key, what, name in HUB_SETTINGS if config["text_cfg"].get(key))


def known_repositories(library: ModuleType) -> set[str]:
    """The repositories that open_clip's own configs name on the Hub, not those that were registered here."""
    own = (name for name in library.list_models() if not name.startswith(REGISTERED))
    return {repository for name in own for repository, _, _ in hub_names(library.get_model_config(name))}


def no_tower(name: str, tower: str) -> str:
    return f"clip {name} has no {tower} encoder, so it can't compare pictures with a prompt: choose a complete CLIP."
