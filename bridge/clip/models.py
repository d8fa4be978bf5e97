"""open_clip's models in ComfyUI's hands.

open_clip is imported when a model is loaded: importing it takes over a second, and fails where a package below it is broken.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import logging
import os
import re
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path
from textwrap import shorten
from types import ModuleType

import comfy.model_management
import comfy.model_patcher
import comfy.utils
import folder_paths
import torch
from huggingface_hub import HfApi, hf_hub_download, snapshot_download, try_to_load_from_cache
from safetensors import safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from . import transformers_layout
from .config import REGISTERED, config_beside, hub_names, known_repositories, no_tower

FOLDER = "open_clip"
PAPER = "ViT-B-16-quickgelu openai"
SMALL = (".json", ".txt", ".model")
PREPROCESS = ("mean", "std", "interpolation")
# How an image tower's weights are named, in open_clip's layout and in transformers'.
IMAGE_TOWER = ("visual.", "vision_model.", "visual_projection.")


def home() -> Path:
    """Where downloads go: ComfyUI's `models/open_clip`."""
    return Path(folder_paths.models_dir) / FOLDER


def register_folder() -> None:
    """Adds `models/open_clip` to ComfyUI's model folders, beside those that another pack or the user's config has set."""
    folder_paths.add_model_folder_path(FOLDER, str(home()))


def files() -> list[str]:
    """The safetensors files in ComfyUI's open_clip folders, without those in the Hub's own cache layout, which belong to a tag."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors") and not name.startswith("models--")]


def open_clip() -> ModuleType:
    """The open_clip package. Raises ImportError that says what is wrong with it and what to do."""
    try:
        library = importlib.import_module("open_clip")
    except Exception as error:  # also what a package below it raises: a torchvision that was built for another torch raises RuntimeError
        if getattr(error, "name", None) == "open_clip":
            said = "needs the open_clip package: run `pip install open_clip_torch` in ComfyUI's Python"
        else:
            said = f"can't import open_clip: {shorten(str(error), 180, placeholder=' ...')}. Reinstall the package at fault in ComfyUI's Python"
        raise ImportError(f"Load OpenCLIP {said}, then restart ComfyUI.") from error
    return library


@cache
def tags() -> list[str]:
    """open_clip's pretrained models as "architecture tag", the paper's first. Only the paper's if open_clip is not there.

    Leaves out pairs whose weights were trained with another GELU than the architecture has: open_clip only warns about them, and
    their scores are off. The same weights are in the list under the architecture that ends in -quickgelu.
    """
    try:
        library, configs = catalog()
        pairs = [
            f"{architecture} {tag}"
            for architecture, tag in library.list_pretrained()
            if (config := configs / f"{architecture}.json").is_file()
            and (pretrained := library.get_pretrained_cfg(architecture, tag))["hf_hub"]
            and pretrained.get("quick_gelu", False) == json.loads(config.read_text(encoding="utf-8")).get("quick_gelu", False)
        ]
    except Exception:  # ComfyUI asks for the list when it starts, and no node may be missing for a broken package that it may never need
        return [PAPER]
    return sorted(pairs, key=lambda pair: pair != PAPER)


def catalog() -> tuple[ModuleType, Path]:
    """open_clip's module of pretrained models and the folder of its configs, without the rest of open_clip."""
    found = importlib.util.find_spec("open_clip")
    if found is None:
        raise ImportError("open_clip is not installed")
    # A package without code of its own over open_clip's folder: importing a module from it runs only that module.
    package = ModuleSpec(f"{__name__}.open_clip", None, is_package=True)
    package.submodule_search_locations = found.submodule_search_locations
    sys.modules[package.name] = importlib.util.module_from_spec(package)
    return importlib.import_module(f"{package.name}.pretrained"), Path(found.origin).parent / "model_configs"


class Memory(dict):
    """What was measured with a CLIP, by all that it depends on; the newest LIMIT entries."""

    LIMIT = 4096

    def add(self, entries: Mapping) -> None:
        self.update(entries)
        for key in list(self)[: -self.LIMIT]:
            del self[key]


@dataclass(frozen=True)
class OpenClip:
    """A CLIP with both towers.

    Attributes:
        name: the file or tag that it came from.
        patcher: holds the open_clip model. Load it through `comfy.model_management`.
        tokenize: prompts -> (N, context length) token ids, cut at the end of the context.
        size: (height, width) of the image tower's input.
        mean, std: per channel, for the image tower's input.
        interpolation: how training resized pictures, `bicubic` or `bilinear`.
        dtype: the weights' type.
        memory: goes when ComfyUI lets this object go.
    """

    name: str
    patcher: comfy.model_patcher.ModelPatcher
    tokenize: Callable[[list[str]], Tensor]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    dtype: torch.dtype
    memory: Memory = field(default_factory=Memory, init=False, repr=False, compare=False)

    def load(self) -> None:
        # open_clip's layers cannot compute with weights on another device.
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)

    def embed_text(self, prompts: list[str]) -> Tensor:
        """Embeddings (N, E), not normalized."""
        return self.patcher.model.encode_text(self.tokenize(prompts).to(self.patcher.load_device)).float()

    def embed_images(self, images: Tensor) -> Tensor:
        """images: (N, 3, height, width) in 0..1, at the tower's size -> embeddings (N, E), not normalized."""
        images = images.to(self.patcher.load_device, torch.float32)
        mean, std = (torch.tensor(value, device=images.device).view(-1, 1, 1) for value in (self.mean, self.std))
        return self.patcher.model.encode_image(((images - mean) / std).to(self.dtype)).float()

    def kept(self, prompt: str) -> str:
        """The part of a prompt that fits into the context: the whole prompt if it does."""
        full = self.tokenize([prompt])
        if not torch.equal(full, self.tokenize([f"{prompt} and"])):
            return prompt
        words = prompt.split()
        count = bisect_left(range(len(words)), True, key=lambda n: torch.equal(full, self.tokenize([" ".join(words[:n])])))
        return " ".join(words[:count]) if count < len(words) else prompt


@dataclass(frozen=True)
class Recipe:
    """What a model is made of, known before any of it is read or downloaded.

    Attributes:
        name: the file or tag.
        weights: None for a tag whose weights are not on disk.
        config: open_clip's config of the architecture.
        preprocess: open_clip's preprocessing, as far as it is known: mean, std, interpolation.
        pretrained: open_clip's entry for a tag; empty for a file.
    """

    name: str
    weights: Path | None
    config: dict
    preprocess: dict
    pretrained: dict

    @property
    def repository(self) -> tuple[str, str]:
        """A tag's repository on the Hub, and the name of its weights there; never of a pickle file, also where open_clip names one."""
        repository, name = os.path.split(self.pretrained["hf_hub"])
        return repository, f"{Path(name).stem}.safetensors" if name else open_clip().constants.HF_SAFE_WEIGHTS_NAME

    def check(self, download: bool) -> None:
        """Raises ValueError if a file is missing and may not be downloaded. The message names the file and where to put it.

        Nothing is ever downloaded that open_clip itself does not name: the config of a file may name anything.
        """
        if self.weights is None and not download:
            repository, name = self.repository
            raise ValueError(
                f"clip_name is {self.name}, which is not on disk, and download is off: turn it on, or save {name} of {repository} "
                f"on the Hugging Face Hub in models/{FOLDER}/{repository}."
            )
        for repository, what, name in hub_names(self.config):
            if on_disk(repository, name) is None and not (download and repository in known_repositories(open_clip())):
                why = "open_clip itself doesn't use it, so it isn't downloaded:" if download else "download is off: turn it on, or"
                raise ValueError(
                    f"clip {self.name} needs its {what} from {repository} on the Hugging Face Hub, but {why} save "
                    f"{name} and its other files in models/{FOLDER}/{repository}."
                )


def on_disk(repository: str, name: str) -> Path | None:
    """A file of a Hugging Face Hub repository, if it is on disk. Never asks the network.

    Searches ComfyUI's open_clip folders for <repository>/<file> and for the Hub's cache layout, then the user's own Hub cache.
    """
    folders = folder_paths.get_folder_paths(FOLDER)
    for path in (Path(folder) / repository / name for folder in folders):
        if path.is_file():
            return path
    for hub_cache in (*folders, None):
        if isinstance(found := try_to_load_from_cache(repository, name, cache_dir=hub_cache), str):
            return Path(found)
    return None


def recipe(name: str) -> Recipe:
    """The recipe of a file in the open_clip folder or of a tag. Raises ValueError for a name or an architecture that is neither's."""
    library = open_clip()
    if name in tags():
        architecture, tag = name.split()
        pretrained = library.get_pretrained_cfg(architecture, tag)
        made = Recipe(name, None, library.get_model_config(architecture), pretrained, pretrained)
        return Recipe(name, on_disk(*made.repository), made.config, made.preprocess, pretrained)
    found = folder_paths.get_full_path(FOLDER, name) if name in files() else None
    if found is None:
        raise ValueError(f"clip_name is {name}, which is neither a file in models/{FOLDER} nor a pretrained model of open_clip: choose another.")
    path = Path(found)
    return Recipe(name, path, *(config_beside(path) or config_by_name(path)), {})


def config_by_name(path: Path) -> tuple[dict, dict]:
    """Architecture and preprocessing of weights that are named after their architecture. The preprocessing is known if all its tags agree."""
    library = open_clip()
    config = library.get_model_config(path.stem)
    if config is None:
        raise ValueError(
            f"clip {path.name} has no {path.stem}.json next to it, and {path.stem} is no open_clip architecture: add the config or rename the file."
        )
    known = [library.get_pretrained_cfg(path.stem, tag) for tag in library.list_pretrained_tags_by_model(path.stem)]
    agreed = {tuple(cfg[key] for key in PREPROCESS) for cfg in known}
    return config, known[0] if len(agreed) == 1 else {}


def load(name: str, download: bool = False) -> OpenClip:
    """Loads an open_clip model so that ComfyUI can manage it.

    Args:
        name: a file in the open_clip folder, with its open_clip config beside it or named after its architecture; or one of `tags()`.
        download: whether missing files may be fetched from the Hugging Face Hub into `models/open_clip`.

    Raises ValueError if something is missing, is not a CLIP, or has no text tower.
    """
    made = recipe(name)
    made.check(download)
    weights = made.weights or fetched(made)
    architecture = register(with_local_files(made))
    # A new model begins with random weights.
    with torch.random.fork_rng(devices=[]):
        model = create(made, weights, architecture)
    device = comfy.model_management.text_encoder_device()
    dtype = dtype_on(device, sum(p.numel() for p in model.parameters()))
    patcher = comfy.model_patcher.ModelPatcher(model.to(dtype), device, comfy.model_management.text_encoder_offload_device())
    seen = model.visual.preprocess_cfg
    size = seen["size"] if isinstance(seen["size"], tuple | list) else (seen["size"], seen["size"])
    interpolation = "bilinear" if seen["interpolation"] == "bilinear" else "bicubic"
    tokenize = open_clip().get_tokenizer(architecture)
    return OpenClip(name, patcher, tokenize, tuple(size), tuple(seen["mean"]), tuple(seen["std"]), interpolation, dtype)


def fetched(made: Recipe) -> Path:
    """The weights of a tag, downloaded."""
    repository, name = made.repository
    with downloading(repository, lambda one: one == name):
        return Path(hf_hub_download(repository, name, cache_dir=str(home())))


@contextmanager
def downloading(repository: str, wanted: Callable[[str], bool]) -> Iterator[None]:
    """Says in the log what is downloaded, how large it is, and from where. Raises ValueError for whatever goes wrong on the way."""
    try:
        hub = HfApi()
        files = [file for file in hub.model_info(repository, files_metadata=True).siblings if wanted(file.rfilename)]
        if not files:
            raise FileNotFoundError("it has none of the files that are needed, or only as a pickle file, which is never loaded")
        named = ", ".join(f"{file.rfilename} ({(file.size or 0) / 1e6:.1f} MB)" for file in files)
        logging.info("Load OpenCLIP downloads from %s/%s to %s: %s", hub.endpoint, repository, home(), named)
        yield
    except Exception as error:  # the Hub's client, its network library and the disk raise all kinds
        # The first sentence: others are advice for programmers.
        said = shorten(re.split(r"[.!?]\s", str(error) or type(error).__name__)[0], 180, placeholder=" ...").rstrip(".")
        raise ValueError(
            f"download is on, but {repository} on the Hugging Face Hub can't be downloaded: {said}; check the network and the disk, or save its files "
            f"in models/{FOLDER}/{repository}."
        ) from error


def dtype_on(device: torch.device, parameters: int) -> torch.dtype:
    """Half precision if ComfyUI says that the device likes it. fp16 comes before bf16, whose scores are eight times coarser."""
    if comfy.model_management.should_use_fp16(device, model_params=parameters):
        return torch.float16
    if comfy.model_management.should_use_bf16(device, model_params=parameters):
        return torch.bfloat16
    return torch.float32


def with_local_files(made: Recipe) -> dict:
    """The config with folders on disk in place of Hub repositories, so that open_clip itself fetches nothing."""
    local = {}
    for repository, _, name in hub_names(made.config):
        found = on_disk(repository, name)
        local[repository] = str(found.parent) if found else small_files_of(repository)
    return {**made.config, "text_cfg": {key: local.get(value, value) if isinstance(value, str) else value for key, value in made.config["text_cfg"].items()}}


def small_files_of(repository: str) -> str:
    """The folder of a tokenizer or a config, downloaded."""
    with downloading(repository, lambda name: Path(name).suffix in SMALL):
        return snapshot_download(repository, allow_patterns=[f"*{suffix}" for suffix in SMALL], cache_dir=str(home()))


def register(config: dict) -> str:
    """Registers a config with open_clip under a name of its own, so that it replaces no other. Returns the name."""
    library, text = open_clip(), json.dumps(config, sort_keys=True)
    name = f"{REGISTERED}{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    if name not in library.list_models():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.json"
            path.write_text(text, encoding="utf-8")
            library.add_model_config(path)
    return name


def create(made: Recipe, weights: Path, architecture: str) -> torch.nn.Module:
    """The model with its weights, in float32 on the CPU. Raises ValueError for weights that do not belong to this CLIP."""
    preprocess = {key: made.preprocess[key] for key in PREPROCESS if key in made.preprocess}
    try:
        check_size(weights, architecture)
        if transformers_layout.holds(names_in(weights)):
            model = from_transformers(made.config, weights, preprocess)
        else:
            model = open_clip().create_model(architecture, pretrained=str(weights), force_preprocess_cfg=preprocess, device="cpu")
    except Exception as error:  # open_clip, torch, timm and safetensors raise all kinds for weights or configs that do not fit
        raise ValueError(why_not(made.name, weights, error)) from error
    return model.eval().requires_grad_(False)


def check_size(weights: Path, architecture: str) -> None:
    """Raises ValueError, before any memory is taken, for a model that is larger than its file."""
    size = weights.stat().st_size
    count = sum(weight.numel() for weight in without_memory(open_clip().get_model_config(architecture)).parameters())
    if count > size:
        raise ValueError(f"it has {count} weights, more than a file of {size} bytes holds")


class RampsWithValues(TorchFunctionMode):
    """Keeps `torch.linspace` on the CPU: older versions of timm read numbers from one while it builds a model."""

    def __torch_function__(self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
        return func(*args, **(kwargs or {}) | ({"device": "cpu"} if func is torch.linspace else {}))


def without_memory(config: dict) -> torch.nn.Module:
    """The model of a config, whose weights have shapes but no values."""
    library, parts = open_clip(), {key: value for key, value in config.items() if key != "custom_text"}
    custom = config.get("custom_text") or "hf_model_name" in config["text_cfg"]
    kind = library.CLIP if not custom else library.CoCa if "multimodal_cfg" in config else library.CustomTextCLIP
    untrained = {"vision_cfg": {"timm_model_pretrained": False}, "text_cfg": {"hf_model_pretrained": False}}
    with torch.device("meta"), RampsWithValues():
        return kind(**parts | {key: parts[key] | more for key, more in untrained.items()})


def from_transformers(config: dict, weights: Path, preprocess: dict) -> torch.nn.Module:
    """The model with the weights of a transformers CLIPModel. open_clip's own factory reads only its own layout."""
    library = open_clip()
    model = library.CLIP(**config)
    model.load_state_dict(transformers_layout.to_open_clip(comfy.utils.load_torch_file(str(weights), safe_load=True)))
    library.model.set_model_preprocess_cfg(model, {**asdict(library.transform.PreprocessCfg(size=model.visual.image_size)), **preprocess})
    return model


def names_in(weights: Path) -> list[str]:
    """The names of the weights in a safetensors file."""
    with safe_open(weights, "pt") as file:
        return list(file.keys())


def why_not(name: str, weights: Path, error: Exception) -> str:
    """One sentence that says why weights could not be loaded."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch starts its list of mismatches with a line that ends in a colon, and may list every weight of the model.
    reason = shorten(next((line for line in lines if not line.endswith(":")), type(error).__name__), 180, placeholder=" ...")
    try:
        keys = [key.removeprefix("module.") for key in names_in(weights)]
    except Exception as unreadable:
        return f"clip {name} can't be read because {weights.name} is damaged, so download it again: {unreadable}."
    pictures = any(key.startswith(IMAGE_TOWER) for key in keys)
    if pictures and all(key.startswith((*IMAGE_TOWER, "logit_", "text_decoder.")) for key in keys):
        return no_tower(name, "text")
    if not pictures and any(key.endswith("token_embedding.weight") for key in keys):
        return no_tower(name, "image")
    if not any(key.startswith("visual.") for key in keys) and not transformers_layout.holds(keys):
        return f"clip {name} is not a CLIP in open_clip's or transformers' layout: it has weights such as {max(keys, key=len, default='none')}."
    return f"clip {name} doesn't fit its architecture, so add its own open_clip config or rename it: {reason}"
