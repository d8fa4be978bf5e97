"""What older versions of ComfyUI lack, in one place, so that the pack runs on all from 0.16.3 on. `python run.py test --host-version` tests it there.

What a version lacks is left out or stands here in its stead. When the oldest version has a name, use that name and delete its function here.
"""

from __future__ import annotations

from dataclasses import fields

import comfy.model_management
import torch
from comfy.sd import VAE
from comfy_api.latest import io


def schema(**settings: object) -> io.Schema:
    """A node's io.Schema, without the settings that this ComfyUI does not know. 0.18.2 has no has_intermediate_output."""
    known = {field.name for field in fields(io.Schema)}
    return io.Schema(**{name: value for name, value in settings.items() if name in known})


def picture_dtype(vae: VAE) -> torch.dtype:
    """The type of the pictures that a VAE decodes to. 0.16.3 knows only float32."""
    return vae.vae_output_dtype() if hasattr(vae, "vae_output_dtype") else torch.float32


def is_oom(error: Exception) -> bool:
    """Whether a GPU's memory ran out. 0.16.3 has only the class of such errors."""
    if hasattr(comfy.model_management, "is_oom"):
        return comfy.model_management.is_oom(error)
    return isinstance(error, comfy.model_management.OOM_EXCEPTION)
