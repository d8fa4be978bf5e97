"""Pictures for the browser: small files in ComfyUI's temp folder, which a node's `ui` output names."""

from __future__ import annotations

import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

SUBFOLDER = "blended_latent_diffusion"


def save_previews(pictures: list[Tensor], longest: int, quality: int = 85, names: list[str] | None = None) -> list[ui.SavedResult]:
    """Saves pictures as JPEG files in ComfyUI's temp folder. Each is named after what it shows, so the same picture is written once.

    Args:
        pictures: (H, W, C) each, C >= 3, in 0..1; NaN counts as 0.
        longest: the longer side of a file, in pixels; smaller pictures keep their size.
        quality: of the JPEG, 1..95.
        names: the `digest` of each picture, if it is known.

    Returns: for each picture its filename, subfolder and type, as ComfyUI's `/view` wants them. A `ui` output may hold them.
    """
    folder = Path(folder_paths.get_temp_directory()) / SUBFOLDER
    folder.mkdir(parents=True, exist_ok=True)
    # Encoding lets other threads run.
    with ThreadPoolExecutor() as pool:
        files = list(pool.map(lambda picture, name: save_preview(picture, folder, name, longest, quality), pictures, names or map(digest, pictures)))
    return [ui.SavedResult(file, SUBFOLDER, io.FolderType.temp) for file in files]


def save_preview(picture: Tensor, folder: Path, name: str, longest: int, quality: int) -> str:
    """Saves one picture, unless it is there, and returns the file's name."""
    path = folder / f"{name}_{longest}_{quality}.jpg"
    if not path.exists():
        image = Image.fromarray((picture[..., :3].float().nan_to_num().clamp(0, 1) * 255).round().byte().cpu().numpy())
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        # Under its own name only when it is complete: another thread may save the same picture.
        file = tempfile.NamedTemporaryFile(dir=folder, delete=False)
        try:
            with file:
                image.save(file, "JPEG", quality=quality, subsampling=0)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return path.name


def digest(tensor: Tensor) -> str:
    """A name for the contents of a tensor, of its shape and its type."""
    kind = repr((tuple(tensor.shape), tensor.dtype)).encode()
    return hashlib.blake2b(tensor.contiguous().cpu().view(torch.uint8).numpy().data, digest_size=16, key=kind).hexdigest()
