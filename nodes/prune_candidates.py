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

CONTEXT = 0.25


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
                    default=0.2,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="Share of the schedule at which the first round is held, as start_percent. Measured: at 0.2 the predictions told less, at 0.35 "
                    "the choice was no better.",
                ),
                io.Float.Input(
                    "keep",
                    default=0.18,
                    min=0.005,
                    max=1.0,
                    step=0.005,
                    tooltip="Share of the candidates that each round keeps, of those sampled at once (chunk_size). Measured with 16 candidates and "
                    "start 0.25: the best shows the prompt as often as without pruning, in 0.51 times the time; with keep 0.25 in 0.61 times.",
                ),
                io.Int.Input("rounds", default=1, min=1, max=16, advanced=True, tooltip="How many rounds are held."),
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
        start: float = 0.2,
        keep: float = 0.18,
        rounds: int = 1,
        interval: float = 0.1,
        at_least: int = 2,
        scope: str = "box",
    ) -> io.NodeOutput:
        wanted = ranking.phrases(prompt)
        if not wanted:
            raise ValueError("prompt is empty, must say what to judge by.")
        for note in cuts(clip, "prompt", wanted):
            logging.warning("Prune Candidates: %s", note)
        mask = as_mask(vae.vae_encode_crop_pixels(as_mask(mask)[..., None].expand(-1, -1, -1, vae.output_channels))[..., 0])
        if len(mask) != 1:
            raise ValueError(f"mask has {len(mask)} in its batch, must be one for all candidates.")

        def score(pictures: Tensor) -> Tensor:
            if pictures.shape[1:3] != mask.shape[1:]:
                raise ValueError(
                    f"mask is {mask.shape[2]}x{mask.shape[1]}, but candidates decode to {pictures.shape[2]}x{pictures.shape[1]}: give the mask of the source."
                )
            return similarity(list(pictures), [mask[0]] * len(pictures), clip, wanted, [], {scope: 1.0}, CONTEXT)

        shares = tuple(share for share in (start + interval * one for one in range(rounds)) if share < 1)
        return io.NodeOutput(Pruning(score, lambda z: vae.decode(z).flatten(0, -4), shares, keep, at_least))
