from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io
from torch import Tensor

from ..bld import ranking
from ..bridge.clip.models import OpenClip
from ..bridge.clip.rank import rank
from ..bridge.types import CATEGORY, OpenClipType

# Chosen by bench/ranking.py on the demo model.
MIX = {"masked": 1.0, "box": 4.0, "whole": 2.0}


def _context() -> io.Input:
    return io.Float.Input(
        "context", default=0.5, min=0.0, max=4.0, step=0.05, tooltip="How far the box reaches beyond the mask, in parts of the mask's longer side."
    )


def _weight(scope: str) -> io.Input:
    return io.Float.Input(f"{scope}_weight", default=MIX[scope], min=0.0, max=100.0, step=0.1, tooltip=f"Weight of the score of scope {scope}.")


class ClipRankBatch(io.ComfyNode):
    """Its inputs are lists, so one node ranks a batch and a list of pictures of several sizes: a batch is a list of one.

    Pictures and latents come back in the form that they came in: a batch as a batch, a list as a list of single ones.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipRankBatch",
            display_name="CLIP Rank Batch",
            category=CATEGORY,
            description="Sorts candidates by how well CLIP finds the prompt in them, best first, and keeps the best; latents stay in step.",
            search_aliases=["rank images", "clip score", "best of batch", "top k", "pick best", "blended latent diffusion"],
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="The candidates, decoded: a batch, or a list of pictures of any sizes, which are ranked together."),
                OpenClipType.Input("clip", tooltip="From Load OpenCLIP."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    tooltip="What the masked area shall show: the prompt of the edit. Several lines are several wordings; a candidate is to fit them all.",
                ),
                io.Mask.Input("mask", tooltip="The mask at picture size, one for all or one each."),
                io.DynamicCombo.Input(
                    "scope",
                    options=[
                        io.DynamicCombo.Option("mix", [_context(), *(_weight(scope) for scope in ranking.SCOPES)]),
                        io.DynamicCombo.Option("masked", []),
                        io.DynamicCombo.Option("box", [_context()]),
                        io.DynamicCombo.Option("whole", []),
                    ],
                    tooltip="What CLIP is shown. mix: the weighted mean of three scores, whose order was measured to be the best. masked: picture times mask "
                    "(the paper). box: the box of the mask, with some context. whole: all of it.",
                ),
                io.Int.Input("top_k", default=0, min=0, max=4096, tooltip="How many to return. 0: all, sorted."),
                io.String.Input(
                    "negative_prompt",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip="Its similarity is subtracted from the score. Several lines are averaged. Empty: nothing is subtracted (the paper).",
                ),
                io.Latent.Input("latents", optional=True, tooltip="The latents of the candidates, to be sorted alike."),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="The picture before the edit, one for all or one each. With it the errors of a candidate outside the mask count, too.",
                ),
                io.Float.Input(
                    "realism_weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="With a source: how much is subtracted for the errors against it, which are parts of the pixel range. 0: they are only reported.",
                ),
                io.Float.Input(
                    "min_score",
                    default=ranking.NO_MIN_SCORE,
                    min=ranking.NO_MIN_SCORE,
                    max=100.0,
                    step=0.01,
                    round=0.0001,
                    optional=True,
                    advanced=True,
                    tooltip=f"Candidates below it are not returned, but the best always is. {ranking.NO_MIN_SCORE:g}: all are (the paper).",
                ),
                io.Combo.Input(
                    "prompt_templates",
                    options=list(ranking.TEMPLATES),
                    default="none",
                    optional=True,
                    advanced=True,
                    tooltip="none: each line as it is (the paper). photo: the mean of each line and of phrases such as 'a close-up photo of ...' with it.",
                ),
                io.Boolean.Input(
                    "against_lettering",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Adds a line against writing to the negative prompt, for prompts that come out as a poster that says them.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", is_output_list=True, tooltip="Best first. A batch for a batch, a list for a list."),
                io.Latent.Output(display_name="latents", is_output_list=True, tooltip="In the same order, with their noise masks."),
                io.Float.Output(display_name="scores", is_output_list=True, tooltip="Of the images returned, as a list, best first."),
                io.Int.Output(display_name="order", is_output_list=True, tooltip="Where each image returned stood in the batch, as a list, from 0."),
                io.String.Output(display_name="report", tooltip="The whole ranking in words."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Sequence[Tensor],
        clip: Sequence[OpenClip],
        prompt: Sequence[str],
        mask: Sequence[Tensor],
        scope: dict[str, Sequence],
        top_k: Sequence[int] = (0,),
        negative_prompt: Sequence[str] = ("",),
        latents: Sequence[dict] | None = None,
        source: Sequence[Tensor] | None = None,
        realism_weight: Sequence[float] = (1.0,),
        min_score: Sequence[float] = (ranking.NO_MIN_SCORE,),
        prompt_templates: Sequence[str] = ("none",),
        against_lettering: Sequence[bool] = (False,),
    ) -> io.NodeOutput:
        return io.NodeOutput(
            *rank(
                images,
                clip,
                prompt,
                mask,
                scope,
                top_k,
                negative_prompt,
                latents,
                source,
                realism_weight,
                min_score,
                prompt_templates,
                against_lettering,
            )
        )
