"""Pictures for the browser: small files in ComfyUI's temp folder, which a node's `ui` output names."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from io import BytesIO
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io, ui
from PIL import Image
from torch import Tensor

SUBFOLDER = "blended_latent_diffusion"


def save_previews(pictures: list[Tensor], longest: int, quality: int = 85, names: list[str] | None = None) -> list[ui.SavedResult]:
    """Saves pictures as JPEG files in ComfyUI's temp folder. Each is named after what it shows, so the same picture is written once.

    The node's work never fails for want of a preview: where it can't be written, the log says so once, and the browser finds no picture.

    Args:
        pictures: (H, W, C) each, C >= 3, in 0..1; NaN counts as 0.
        longest: the longer side of a file, in pixels; smaller pictures keep their size.
        quality: of the JPEG, 1..95.
        names: the `digest` of each picture, if it is known.

    Returns: for each picture its filename, subfolder and type, as ComfyUI's `/view` wants them. A `ui` output may hold them.
    """
    folder = Path(folder_paths.get_temp_directory()) / SUBFOLDER
    paths = [folder / f"{name}_{longest}_{quality}.jpg" for name in names or map(digest, pictures)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Encoding lets other threads run.
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda picture, path: save_preview(picture, path, longest, quality), pictures, paths))
    except OSError as error:
        warn(f"Blended Latent Diffusion: the pictures that nodes show in the browser can't be saved in {folder}: {error.strerror or error}.")
    return [ui.SavedResult(path.name, SUBFOLDER, io.FolderType.temp) for path in paths]


@cache
def warn(text: str) -> None:
    """Logs a warning, once."""
    logging.warning(text)


def save_preview(picture: Tensor, path: Path, longest: int, quality: int) -> None:
    """Saves one picture, unless it is there. Raises OSError."""
    if not path.exists():
        image = Image.fromarray((picture[..., :3].float().nan_to_num().clamp(0, 1) * 255).round().byte().cpu().numpy())
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
        # Not straight into a file: where the disk gets full, Pillow may write half of it and say nothing.
        data = BytesIO()
        image.save(data, "JPEG", quality=quality, subsampling=0)
        # Under its own name only when it is complete: another thread may save the same picture.
        file = tempfile.NamedTemporaryFile(dir=path.parent, delete=False)
        try:
            with file:
                file.write(data.getbuffer())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def digest(tensor: Tensor) -> str:
    """A name for the contents of a tensor, of its shape and its type."""
    kind = repr((tuple(tensor.shape), tensor.dtype)).encode()
    return hashlib.blake2b(tensor.contiguous().cpu().view(torch.uint8).numpy().data, digest_size=16, key=kind).hexdigest()
