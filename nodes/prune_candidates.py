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
            description="Lets Blended Latent KSampler judge its candidates part-way, by what they are going to be, and finish the promising ones only. "
            "Those come out as they would without it. Candidates that the memory splits into several parts are judged within each part.",
            search_aliases=["early stopping", "best of batch", "faster candidates", "clip score", "blended latent diffusion"],
            inputs=[
                OpenClipType.Input("clip", tooltip="From Load OpenCLIP: what CLIP Rank Batch ranks with."),
                io.Vae.Input("vae", tooltip="Decodes what the model predicts. A tiny one (TAESD) does, and is fast."),
                io.String.Input("prompt", multiline=True, tooltip="What the masked area shall show. Several lines are several wordings."),
                io.Mask.Input("mask", tooltip="The mask at picture size."),
                io.Float.Input(
                    "start",
                    default=0.15,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Share of the schedule at which the first round is held, as start_percent. Later rounds know more and save less: one at 0.35 with "
                    "keep 0.2 lost as few as the defaults, in 0.6 times the time.",
                ),
                io.Float.Input(
                    "keep",
                    default=0.5,
                    min=0.005,
                    max=1.0,
                    step=0.005,
                    tooltip="Share of the candidates that each round keeps, of those sampled at once (chunk_size). Measured with 16 candidates and the "
                    "defaults: the best shows the prompt in 70 % of the edits, in 76 % without pruning, in about half the time.",
                ),
                io.Int.Input("rounds", default=2, min=1, max=16, advanced=True, tooltip="How many rounds are held."),
                io.Float.Input(
                    "interval", default=0.1, min=0.01, max=0.99, step=0.01, advanced=True, tooltip="Share of the schedule from one round to the next."
                ),
                io.Int.Input("at_least", default=2, min=1, max=256, advanced=True, tooltip="So many of them go on whatever keep says."),
                io.Combo.Input(
                    "scope", options=list(ranking.SCOPES), default="box", advanced=True, tooltip="What CLIP is shown, as in CLIP Rank Batch."
                ),
            ],
            outputs=[PruningType.Output(display_name="pruning", tooltip="For Blended Latent KSampler.")],
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
