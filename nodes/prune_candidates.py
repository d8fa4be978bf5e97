from __future__ import annotations

import logging

import comfy.sd
from comfy_api.latest import io
from torch import Tensor

from ..bld import ranking
from .checks import as_mask
from .clip import OpenClip
from .clip_rank_batch import cuts, similarity
from .pruning import Pruning
from .types import CATEGORY, OpenClipType, PruningType
from .vae import cropped

CONTEXT = 0.25
# Cells of a latent beyond what is judged: a decoder looks at its neighbours.
NEIGHBOURS = 2


class PruneCandidates(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="PruneCandidates",
            display_name="Prune Candidates",
            category=CATEGORY,
            description="Saves time when you draw many candidates. Part-way through sampling, CLIP judges what each candidate will become, and only the "
            "promising ones are finished. Those look the same as without pruning. If memory splits the candidates into groups, each group is judged alone.",
            search_aliases=[
                "early stopping",
                "best of",
                "best of batch",
                "pick",
                "compare",
                "faster candidates",
                "clip score",
                "inpaint",
                "blended latent diffusion",
            ],
            inputs=[
                OpenClipType.Input("clip", tooltip="The CLIP model that judges the candidates, from Load OpenCLIP. Use the one that you rank with."),
                io.Vae.Input("vae", tooltip="Decodes the candidates so that CLIP can judge them. A tiny VAE (TAESD) is good enough and fast."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    tooltip="Describe what you want to see inside the mask, usually with the prompt of the edit. You can give several wordings, one per line.",
                ),
                io.Mask.Input("mask", tooltip="The mask at picture size, one for all candidates."),
                io.Float.Input(
                    "start",
                    default=0.15,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="When the first round takes place, as a share of the schedule (like start_percent in other nodes). Later rounds judge better but "
                    "save less time. In our tests, a single round at 0.35 with keep 0.2 lost as few good edits as the defaults and took 0.6 times as "
                    "long as no pruning.",
                ),
                io.Float.Input(
                    "keep",
                    default=0.5,
                    min=0.005,
                    max=1.0,
                    step=0.005,
                    tooltip="The share of candidates that each round keeps. Lower values save more time but lose more good edits. In our tests with 16 "
                    "candidates and the defaults, the best candidate showed the prompt in 70% of the edits instead of 76%, in about half the time.",
                ),
                io.Int.Input("rounds", default=2, min=1, max=16, advanced=True, tooltip="How many times the candidates are judged and some are dropped."),
                io.Float.Input(
                    "interval", default=0.1, min=0.01, max=0.99, step=0.01, advanced=True, tooltip="How far apart the rounds are, as a share of the schedule."
                ),
                io.Int.Input("at_least", default=2, min=1, max=256, advanced=True, tooltip="The fewest candidates to finish, whatever keep says."),
                io.Combo.Input(
                    "scope",
                    options=list(ranking.SCOPES),
                    default="box",
                    advanced=True,
                    tooltip="Which part of a picture CLIP looks at. masked: the picture with everything outside the mask black. box: the area around the "
                    "mask; fastest, since only that area is decoded. whole: the whole picture.",
                ),
            ],
            outputs=[PruningType.Output(display_name="pruning", tooltip="Connect it to pruning of Blended Latent KSampler.")],
        )

    @classmethod
    def execute(
        cls,
        clip: OpenClip,
        vae: comfy.sd.VAE,
        prompt: str,
        mask: Tensor,
        start: float = 0.15,
        keep: float = 0.5,
        rounds: int = 2,
        interval: float = 0.1,
        at_least: int = 2,
        scope: str = "box",
    ) -> io.NodeOutput:
        wanted = ranking.phrases(prompt)
        if not wanted:
            raise ValueError("prompt is empty, must say what to judge by.")
        for note in cuts(clip, "prompt", wanted):
            logging.warning("Prune Candidates: %s", note)
        mask = cropped(as_mask(mask), vae)
        if len(mask) != 1:
            raise ValueError(f"mask has {len(mask)} in its batch, must be one for all candidates.")

        def judge(z: Tensor) -> Tensor:
            scale = vae.spacial_compression_decode()
            height, width = (scale * side for side in z.shape[-2:])
            if (height, width) != mask.shape[1:]:
                raise ValueError(f"mask is {mask.shape[2]}x{mask.shape[1]}, but candidates decode to {width}x{height}: give the mask of the source.")
            rows, columns = cells_to_see(mask[0], scope, scale)
            # One at a time, as they are judged: it takes the memory of one, and on a CPU less time.
            pictures = [vae.decode(one).flatten(0, -4)[0] for one in z[..., rows, columns].split(1)]
            seen = mask[0, rows.start * scale : rows.stop * scale, columns.start * scale : columns.stop * scale]
            return similarity(pictures, [seen] * len(pictures), clip, wanted, [], {scope: 1.0}, CONTEXT)

        shares = tuple(share for share in (start + interval * one for one in range(rounds)) if share < 1)
        return io.NodeOutput(Pruning(judge, shares, keep, at_least))


def cells_to_see(m: Tensor, scope: str, scale: int) -> tuple[slice, slice]:
    """Rows and columns of a latent that have to be decoded to judge by this scope: all, or the box of the mask (H, W) and NEIGHBOURS around it."""
    box = ranking.mask_box(m, CONTEXT) if scope == "box" else (slice(None), slice(None))
    edges = (pixels.indices(side) for pixels, side in zip(box, m.shape, strict=True))
    rows, columns = (
        slice(max(0, start // scale - NEIGHBOURS), min(side // scale, -(-stop // scale) + NEIGHBOURS))
        for (start, stop, _), side in zip(edges, m.shape, strict=True)
    )
    return rows, columns
