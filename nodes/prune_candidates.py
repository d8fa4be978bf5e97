from __future__ import annotations

import comfy.sd
from comfy_api.latest import io
from torch import Tensor

from ..bld import ranking
from ..bridge.clip.judge import judge_of
from ..bridge.clip.models import OpenClip
from ..bridge.inputs import checked
from ..bridge.older_comfyui import schema
from ..bridge.sampling.pruning import Pruning
from ..bridge.types import CATEGORY, OpenClipType, PruningType


class PruneCandidates(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="PruneCandidates",
            display_name="Prune Candidates",
            category=CATEGORY,
            description="Saves time when you draw many candidates. Part-way through sampling, CLIP judges what each candidate will become, and only the "
            "promising ones are finished. Those look the same as without pruning.",
            search_aliases=[
                "early stopping",
                "best of",
                "best of batch",
                "pick",
                "faster candidates",
                "clip score",
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
                    default=0.1,
                    min=0.0,
                    max=0.99,
                    step=0.01,
                    tooltip="When the first round takes place, as a share of the schedule (like start_percent in other nodes). Later rounds judge better but "
                    "save less time.",
                ),
                io.Float.Input(
                    "keep",
                    default=0.5,
                    min=0.005,
                    max=1.0,
                    step=0.005,
                    tooltip="The share of candidates that each round keeps. Lower values save more time but lose more good edits.",
                ),
                io.Int.Input("rounds", default=2, min=1, max=16, advanced=True, tooltip="How many times the candidates are judged and some are dropped."),
                io.Float.Input(
                    "interval", default=0.15, min=0.01, max=0.99, step=0.01, advanced=True, tooltip="How far apart the rounds are, as a share of the schedule."
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
    @checked
    def execute(
        cls,
        clip: OpenClip,
        vae: comfy.sd.VAE,
        prompt: str,
        mask: Tensor,
        start: float = 0.1,
        keep: float = 0.5,
        rounds: int = 2,
        interval: float = 0.15,
        at_least: int = 2,
        scope: str = "box",
    ) -> io.NodeOutput:
        shares = tuple(share for share in (start + interval * one for one in range(rounds)) if share < 1)
        judge = judge_of(clip, vae, prompt, mask, scope)
        return io.NodeOutput(Pruning(judge, shares, keep, at_least, judge.helpers))
