from __future__ import annotations

from collections.abc import Sequence

from comfy_api.latest import io
from torch import Tensor

from ..bld import ranking
from ..bridge.clip.models import OpenClip
from ..bridge.clip.rank import rank
from ..bridge.inputs import checked
from ..bridge.older_comfyui import schema
from ..bridge.types import CATEGORY, OpenClipType, frames_input


def _context() -> io.Input:
    return io.Float.Input(
        "context", default=0.5, min=0.0, max=4.0, step=0.05, tooltip="How far the box reaches beyond the mask on every side, as a share of its longer side."
    )


def _weight(scope: str, view: str) -> io.Input:
    return io.Float.Input(f"{scope}_weight", default=1.0, min=0.0, max=100.0, step=0.1, tooltip=f"How much the score of the {view} counts. 0 leaves it out.")


class ClipRankBatch(io.ComfyNode):
    """Its inputs are lists, so one node ranks a batch and a list of pictures of several sizes: a batch is a list of one.

    Pictures and latents come back in the form that they came in: a batch as a batch, a list as a list of single ones.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="ClipRankBatch",
            display_name="CLIP Rank Batch",
            category=CATEGORY,
            description="Sorts pictures by how well they match a prompt, best first, and returns the best, or those that you pick in its gallery. Their "
            "latents stay in the same order.",
            search_aliases=[
                "rank images",
                "sort images",
                "compare",
                "clip score",
                "best of",
                "best of batch",
                "top k",
                "pick",
                "pick best",
                "gallery",
                "blended latent diffusion",
            ],
            is_input_list=True,
            has_intermediate_output=True,
            inputs=[
                io.Image.Input("images", tooltip="The pictures to rank: a batch, or a list of pictures of any sizes. All of them are ranked together."),
                OpenClipType.Input("clip", tooltip="The CLIP model that does the ranking, from Load OpenCLIP."),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    tooltip="Describe what you want to see inside the mask, usually with the prompt of the edit. You can give several wordings, one per "
                    "line: the best pictures match all of them.",
                ),
                io.Mask.Input("mask", tooltip="The mask at picture size: one for all pictures or one per picture."),
                io.DynamicCombo.Input(
                    "scope",
                    options=[
                        io.DynamicCombo.Option("mix", [_context(), *map(_weight, ranking.SCOPES, ranking.MIXED)]),
                        io.DynamicCombo.Option("masked", []),
                        io.DynamicCombo.Option("box", [_context()]),
                        io.DynamicCombo.Option("whole", []),
                    ],
                    tooltip="Which part of a picture CLIP looks at. masked: the picture with everything outside the mask black (the paper). box: the area "
                    "around the mask. whole: the whole picture. mix: a weighted mean of the scores of box, of whole, and of a "
                    "close-up of masked, which ranked best in our tests.",
                ),
                io.Int.Input("top_k", default=0, min=0, max=4096, tooltip="How many of the best pictures to return. 0: all of them, sorted."),
                io.String.Input(
                    "negative_prompt",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip="Describe what you don't want to see. Pictures that match it score lower. With several lines, their matches are averaged. The "
                    "paper leaves it empty.",
                ),
                io.Latent.Input(
                    "latents",
                    optional=True,
                    tooltip="The latents of the pictures. Connect them to get them back in the same order as the pictures.",
                ),
                io.Image.Input(
                    "source",
                    optional=True,
                    tooltip="The picture before the edit: one for all pictures or one per picture. Connect it to rank down candidates that changed the "
                    "background or show a seam.",
                ),
                io.Float.Input(
                    "realism_weight",
                    default=1.0,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    optional=True,
                    advanced=True,
                    tooltip="How strongly a changed background or a visible seam lowers the score, if source is connected. 0: they are only listed in the "
                    "report. At 3 and more, smooth pictures begin to win over better matches. The paper has no such term.",
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
                    tooltip=f"Leaves out pictures that score lower than this. The best one is always returned. {ranking.NO_MIN_SCORE:g}: leaves out none (the "
                    "paper).",
                ),
                io.Combo.Input(
                    "prompt_templates",
                    options=list(ranking.TEMPLATES),
                    default="none",
                    optional=True,
                    advanced=True,
                    tooltip="none: uses your lines as they are (the paper). photo: averages each line with phrases such as 'a close-up photo of ...' around "
                    "it.",
                ),
                io.Boolean.Input(
                    "against_lettering",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Ranks down pictures with writing in them. Turn it on if candidates spell out the prompt instead of showing it.",
                ),
                io.String.Input(
                    "pick",
                    default="",
                    optional=True,
                    tooltip="The candidates to return instead of the best, such as 3,0. Click them in the gallery below after a run. Counting starts at 0, as "
                    "in the report. Empty: the best, as top_k and min_score say.",
                ),
                frames_input("so that each is ranked as a whole, by four of its frames. Not needed if latents of a video model are connected"),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    is_output_list=True,
                    tooltip="The pictures, best first. A batch comes out as a batch, a list as a list.",
                ),
                io.Latent.Output(display_name="latents", is_output_list=True, tooltip="The latents in the same order as the pictures, with their noise masks."),
                io.Float.Output(
                    display_name="scores",
                    is_output_list=True,
                    tooltip="The score of each returned picture, as a list, best first. Higher is better.",
                ),
                io.Int.Output(
                    display_name="order",
                    is_output_list=True,
                    tooltip="Where each returned picture was in the input, as a list. Counting starts at 0.",
                ),
                io.String.Output(display_name="report", tooltip="The complete ranking as text, with notes on anything unusual."),
            ],
        )

    @classmethod
    @checked
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
        pick: Sequence[str] = ("",),
        frames: Sequence[int] = (1,),
    ) -> io.NodeOutput:
        ranked = rank(
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
            pick,
            frames,
        )
        return io.NodeOutput(ranked.images, ranked.latents, ranked.scores, ranked.order, ranked.report, ui={"gallery": ranked.gallery})
