from __future__ import annotations

import comfy.sd
from comfy_api.latest import io
from torch import Tensor

from ..bld import ranking
from ..bridge.clip.judge import judge_of
from ..bridge.clip.models import OpenClip
from ..bridge.sampling.pruning import Pruning
from ..bridge.types import CATEGORY, OpenClipType, PruningType


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
        shares = tuple(share for share in (start + interval * one for one in range(rounds)) if share < 1)
        return io.NodeOutput(Pruning(judge_of(clip, vae, prompt, mask, scope), shares, keep, at_least))
