"""Start from the small model (128 x 128, latents 16 x 16): its autoencoder, its text encoder, and its UNet as the inner
levels of one that has a level more. What a picture of 256 x 256 shows at half of its size is what the small model knows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open

State = dict[str, torch.Tensor]


def load(path: Path, part: str) -> State:
    """The float32 tensors of ``vae``, ``unet`` or ``text`` of an exported model, without that prefix."""
    with safe_open(path, "pt") as file:
        return {k.removeprefix(f"{part}."): file.get_tensor(k).float() for k in file.keys() if k.startswith(f"{part}.")}


def text(model: torch.nn.Module, path: Path, ids: list[int]) -> None:
    """Fill the text encoder: its layers, and the rows of the tokens ``ids`` that the model in the file knew."""
    state = load(path, "text")
    known = {int(token): row + 1 for row, token in enumerate(state.pop("token_ids"))}
    rows = state.pop("token_rows")
    model.model.load_state_dict(state)
    table = model.table.weight.data
    table[0] = rows[0]
    for row, token in enumerate(ids, 1):
        table[row] = rows[known[token]] if token in known else rows[0] + 0.1 * torch.randn_like(rows[0])


@torch.no_grad()
def unet(model: torch.nn.Module, path: Path) -> None:
    """Fill the UNet: from one of its own shape, or from one with a level less. Then the new outer level halves its input by averaging, and
    repeats what comes back up.
    """
    state, own = load(path, "unet"), model.state_dict()
    if state.keys() == own.keys():
        model.load_state_dict(state)
        return
    for name, value in state.items():
        own[_inner(name)].copy_(value)
    width = model.model_channels
    same = torch.eye(width)
    halve, repeat = own["input_blocks.1.0.op.weight"].zero_(), own["output_blocks.5.2.conv.weight"].zero_()
    halve[:, :, 1:, 1:] = same[:, :, None, None] / 4
    repeat[:, :, 1, 1] = same
    pass_on = own["output_blocks.6.0.skip_connection.weight"].zero_()
    pass_on[:, :width, 0, 0] = same
    for name in ("input_blocks.1.0.op.bias", "output_blocks.5.2.conv.bias", "output_blocks.6.0.skip_connection.bias"):
        own[name].zero_()


def _inner(name: str) -> str:
    """Where a weight of the small UNet goes: its input blocks move one place on, but for the first."""
    parts = name.split(".")
    if parts[0] == "input_blocks" and parts[1] != "0":
        parts[1] = str(int(parts[1]) + 1)
    return ".".join(parts)
