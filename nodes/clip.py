"""An open_clip model in the host's hands. open_clip is imported where it is first used, so that the other nodes load without it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import comfy.model_management
import comfy.model_patcher
import folder_paths
import torch
from torch import Tensor

FOLDER = "open_clip"
# OpenAI's weights were trained with another GELU, which open_clip no longer switches to by itself.
TAGS = (
    "ViT-B-16-quickgelu openai",
    "ViT-L-14-quickgelu openai",
    "ViT-B-16 laion2b_s34b_b88k",
    "ViT-L-14 laion2b_s32b_b82k",
    "ViT-H-14 laion2b_s32b_b79k",
)


def register_folder() -> None:
    """Makes `models/open_clip` one of the host's model folders, beside those that another pack or a user's config gave it."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir) / FOLDER))


def files() -> list[str]:
    """The safetensors in the host's open_clip folders."""
    return [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors")]


def open_clip() -> ModuleType:
    """The open_clip package. Raises ImportError with what to install."""
    try:
        return importlib.import_module("open_clip")
    except ImportError as error:
        raise ImportError("The ranking nodes need open_clip: run `pip install open_clip_torch` in ComfyUI's Python, then restart it.") from error


@dataclass(frozen=True)
class OpenClip:
    """A CLIP with both towers.

    Attributes:
        name: of the file or tag it came from.
        patcher: holds the open_clip model; load it through `comfy.model_management`.
        tokenize: prompts -> (N, context length) token ids.
        size: (height, width) of the image tower's input.
        mean, std: of the image tower's input, per channel.
    """

    name: str
    patcher: comfy.model_patcher.ModelPatcher
    tokenize: Callable[[list[str]], Tensor]
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def load(self) -> None:
        # open_clip's layers cannot compute with weights that are elsewhere.
        comfy.model_management.load_models_gpu([self.patcher], force_full_load=True)

    def embed_text(self, prompts: list[str]) -> Tensor:
        """(N, E), not normalised."""
        return self.patcher.model.encode_text(self.tokenize(prompts).to(self.patcher.load_device)).float()

    def embed_images(self, images: Tensor) -> Tensor:
        """images: (N, 3, height, width) in 0..1, of the tower's size -> (N, E), not normalised."""
        images = images.to(self.patcher.load_device, torch.float32)
        mean, std = (torch.tensor(value, device=images.device).view(-1, 1, 1) for value in (self.mean, self.std))
        return self.patcher.model.encode_image((images - mean) / std).float()


def load(name: str, pretrained: str, architecture: str) -> OpenClip:
    """A model of open_clip as the host can hold it.

    Args:
        name: to report.
        pretrained: a weights file or one of open_clip's tags for this architecture.
        architecture: one of open_clip's model names.
    """
    library = open_clip()
    model = library.create_model(architecture, pretrained=pretrained, device="cpu").eval().requires_grad_(False)
    if not hasattr(model, "encode_text"):
        raise ValueError(f"clip {name} has no text tower, so it cannot compare pictures with a prompt: choose a CLIP with both.")
    vision = model.visual
    size = vision.image_size if isinstance(vision.image_size, tuple) else (vision.image_size, vision.image_size)
    patcher = comfy.model_patcher.ModelPatcher(
        model,
        load_device=comfy.model_management.text_encoder_device(),
        offload_device=comfy.model_management.text_encoder_offload_device(),
    )
    return OpenClip(name, patcher, library.get_tokenizer(architecture), size, tuple(vision.image_mean), tuple(vision.image_std))


def load_file(name: str, download: bool = False) -> OpenClip:
    """A file of the open_clip folder, with its open_clip config (same name, .json) beside it or named by its architecture.

    Raises ValueError for a file that open_clip cannot place, and for one that needs more from the Hugging Face Hub without `download`.
    """
    library = open_clip()
    path = Path(folder_paths.get_full_path_or_raise(FOLDER, name))
    if path.with_suffix(".json").exists():
        library.add_model_config(path.with_suffix(".json"))
    elif path.stem not in library.list_models():
        raise ValueError(f"clip {name} has no {path.stem}.json beside it, and {path.stem} is not an open_clip architecture: add the config or rename it.")
    text = library.get_model_config(path.stem)["text_cfg"]
    needed = text.get("hf_tokenizer_name") or text.get("hf_model_name")
    if needed and not download:
        raise ValueError(f"clip {name} takes its tokenizer from {needed} on the Hugging Face Hub, but download is off: switch it on, or choose another.")
    return load(name, str(path), path.stem)
