"""CLIP weights in the layout of Hugging Face transformers' CLIPModel. PickScore and many other fine-tunes come only in this layout.

ComfyUI and open_clip convert only in the other direction.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce

import torch
from torch import Tensor

PROJECTIONS = ("text_projection.weight", "visual_projection.weight")
# transformers' part of a name -> open_clip's.
NAMES = {
    "text_model.embeddings.token_embedding.": "token_embedding.",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.encoder.layers.": "transformer.resblocks.",
    "text_model.final_layer_norm.": "ln_final.",
    "text_projection.weight": "text_projection",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.patch_embedding.": "visual.conv1.",
    "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
    "vision_model.pre_layrnorm.": "visual.ln_pre.",
    "vision_model.encoder.layers.": "visual.transformer.resblocks.",
    "vision_model.post_layernorm.": "visual.ln_post.",
    "visual_projection.weight": "visual.proj",
    ".layer_norm1.": ".ln_1.",
    ".layer_norm2.": ".ln_2.",
    ".mlp.fc1.": ".mlp.c_fc.",
    ".mlp.fc2.": ".mlp.c_proj.",
    ".self_attn.": ".attn.",
}


def holds(keys: Iterable[str]) -> bool:
    """Whether these names belong to a whole CLIPModel with both towers."""
    return set(PROJECTIONS) <= set(keys)


def to_open_clip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A CLIPModel's weights with the names and shapes of open_clip's CLIP. Other weights keep their names.

    Raises KeyError for an attention that lacks its query, key or value.
    """
    converted = {}
    for key, weight in state.items():
        if not key.endswith(".position_ids"):  # counts up from 0, is no weight, and only older files hold it
            name = reduce(lambda name, pair: name.replace(*pair), NAMES.items(), key)
            converted[name] = weight.T if key in PROJECTIONS else weight
    for query in [name for name in converted if ".attn.q_proj." in name]:
        parts = [converted.pop(query.replace(".q_proj.", f".{part}_proj.")) for part in "qkv"]
        converted[query.replace(".q_proj.", ".in_proj_")] = torch.cat(parts)
    return converted
