from __future__ import annotations

import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..bld import ranking
from .checks import as_mask, as_picture, check_batch
from .clip import OpenClip
from .types import CATEGORY, OpenClipType

CHUNK = 16
MASKED = {"scope": "masked"}


def _context() -> io.Input:
    return io.Float.Input(
        "context", default=0.25, min=0.0, max=4.0, step=0.05, tooltip="How far the box reaches beyond the mask, in parts of the mask's longer side."
    )


def _weight(scope: str) -> io.Input:
    return io.Float.Input(f"{scope}_weight", default=1.0, min=0.0, max=100.0, step=0.1, tooltip=f"Weight of the score of scope {scope}.")


class ClipRankBatch(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipRankBatch",
            display_name="CLIP Rank Batch",
            category=CATEGORY,
            description="Sorts candidates by how well CLIP finds the prompt in them, best first, and keeps the best; latents stay in step.",
            search_aliases=["rank images", "clip score", "best of batch", "top k", "pick best", "blended latent diffusion"],
            inputs=[
                io.Image.Input("images", tooltip="The candidates, decoded."),
                OpenClipType.Input("clip", tooltip="From Load OpenCLIP."),
                io.String.Input("prompt", multiline=True, tooltip="What the masked area shall show: the prompt of the edit."),
                io.Mask.Input("mask", tooltip="The mask at picture size, one for all or one each."),
                io.DynamicCombo.Input(
                    "scope",
                    options=[
                        io.DynamicCombo.Option("masked", []),
                        io.DynamicCombo.Option("box", [_context()]),
                        io.DynamicCombo.Option("whole", []),
                        io.DynamicCombo.Option("mix", [_context(), *(_weight(scope) for scope in ranking.SCOPES)]),
                    ],
                    tooltip="What CLIP is shown. masked: picture times mask (the paper). box: the box of the mask, with some context. whole: all of it. "
                    "mix: a weighted mean of the three scores.",
                ),
                io.Int.Input("top_k", default=0, min=0, max=4096, tooltip="How many to return. 0: all, sorted."),
                io.String.Input(
                    "negative_prompt",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip="Its similarity is subtracted from the score. Empty: nothing is subtracted (the paper).",
                ),
                io.Latent.Input("latents", optional=True, tooltip="The latents of the candidates, to be sorted alike."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="Best first."),
                io.Latent.Output(display_name="latents", tooltip="In the same order, with their noise masks."),
                io.Float.Output(display_name="scores", is_output_list=True, tooltip="Of the images returned, as a list, best first."),
                io.Int.Output(display_name="order", is_output_list=True, tooltip="Where each image returned stood in the batch, as a list, from 0."),
                io.String.Output(display_name="report", tooltip="The whole ranking in words."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        clip: OpenClip,
        prompt: str,
        mask: Tensor,
        scope: dict = MASKED,
        top_k: int = 0,
        negative_prompt: str = "",
        latents: dict | None = None,
    ) -> io.NodeOutput:
        pictures, m = as_picture(images, "images"), as_mask(mask)
        check_batch(len(m), len(pictures), "mask", "images")
        if m.shape[-2:] != pictures.shape[-2:]:
            raise ValueError(f"mask is {m.shape[-1]}x{m.shape[-2]}, but images are {pictures.shape[-1]}x{pictures.shape[-2]}: give the mask of these pictures.")
        if not prompt.strip():
            raise ValueError("prompt is empty, must say what to rank by.")
        if latents is not None and len(latents["samples"]) != len(pictures):
            raise ValueError(f"latents has {len(latents['samples'])} in its batch, but images has {len(pictures)}: give the latents of these pictures.")

        scores = score(pictures, m, clip, prompt, negative_prompt, weights_of(scope), scope.get("context", 0.0))
        order = ranking.order(scores)
        best = order[: top_k or len(order)]
        report = "\n".join(f"{rank}. candidate {index}: {scores[index]:.4f}" for rank, index in enumerate(order.tolist(), 1))
        return io.NodeOutput(images[best], latents and select(latents, best), scores[best].tolist(), best.tolist(), report)


def weights_of(scope: dict) -> dict[str, float]:
    """The share of each scope's score, in sum 1. Raises ValueError for a mix of nothing."""
    if scope["scope"] != "mix":
        return {scope["scope"]: 1.0}
    weights = {name: scope[f"{name}_weight"] for name in ranking.SCOPES if scope[f"{name}_weight"] > 0}
    if not weights:
        raise ValueError("scope is mix, but all its weights are 0: give at least one scope a weight.")
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def score(pictures: Tensor, m: Tensor, clip: OpenClip, prompt: str, negative_prompt: str, weights: dict[str, float], context: float) -> Tensor:
    """One figure a picture, (N,), float32 on the CPU: similarity with the prompt, less that with the negative prompt.

    A picture's figure does not depend on its neighbours: each is scored from its own views.
    """
    clip.load()
    prompts = [prompt, negative_prompt] if negative_prompt.strip() else [prompt]
    texts = clip.embed_text(prompts)
    bar = comfy.utils.ProgressBar(len(pictures))
    scores = torch.zeros(len(pictures))
    for index in torch.arange(len(pictures)).split(CHUNK):
        for scope, weight in weights.items():
            views = torch.stack([ranking.view(pictures[i], m[i % len(m)], scope, clip.size, context) for i in index])
            similarities = [ranking.cosine(clip.embed_images(views), text) for text in texts]
            scores[index] += weight * (similarities[0] - sum(similarities[1:])).cpu()
        bar.update(len(index))
    return scores


def select(latents: dict, index: Tensor) -> dict:
    """The LATENT of some of its batch, in that order, with the noise masks and batch indices of those."""
    out = {**latents, "samples": latents["samples"][index]}
    if "noise_mask" in latents and len(latents["noise_mask"]) > 1:
        out["noise_mask"] = latents["noise_mask"][index]
    if "batch_index" in latents:
        out["batch_index"] = [latents["batch_index"][i] for i in index.tolist()]
    return out
