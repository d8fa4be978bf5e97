from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io
from torch import Tensor

from ..bld import ranking
from .checks import as_mask, as_picture, check_batch
from .clip import OpenClip
from .types import CATEGORY, OpenClipType

# Chosen by bench/ranking.py on the demo model.
MIX = {"masked": 1.0, "box": 4.0, "whole": 2.0}


def _context() -> io.Input:
    return io.Float.Input(
        "context", default=0.5, min=0.0, max=4.0, step=0.05, tooltip="How far the box reaches beyond the mask on every side, as a share of its longer side."
    )


def _weight(scope: str) -> io.Input:
    return io.Float.Input(
        f"{scope}_weight", default=MIX[scope], min=0.0, max=100.0, step=0.1, tooltip=f"How much the score of scope {scope} counts. 0 leaves it out."
    )


class ClipRankBatch(io.ComfyNode):
    """Takes lists, so that one node ranks a batch and a list of pictures of several sizes: a batch is a list of one.

    Each of the pictures and latents comes back as it came: one batch as one batch, a list as a list of single ones.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ClipRankBatch",
            display_name="CLIP Rank Batch",
            category=CATEGORY,
            description="Sorts pictures by how well they match a prompt, best first, and keeps as many as you want. Their latents stay in the same order.",
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
                "blended latent diffusion",
            ],
            is_input_list=True,
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
                        io.DynamicCombo.Option("mix", [_context(), *(_weight(scope) for scope in ranking.SCOPES)]),
                        io.DynamicCombo.Option("masked", []),
                        io.DynamicCombo.Option("box", [_context()]),
                        io.DynamicCombo.Option("whole", []),
                    ],
                    tooltip="Which part of a picture CLIP looks at. masked: the picture with everything outside the mask black (the paper). box: the area "
                    "around the mask. whole: the whole picture. mix: a weighted mean of the three scores, which ranked best in our tests.",
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
        pictures = pictures_of(images)
        masks = one_each([row for m in mask for row in as_mask(m)], pictures, "mask")
        sources = None if source is None else one_each(pictures_of(source, "source"), pictures, "source")
        if latents is not None:
            check_latents(latents, len(pictures))
        templates = one(prompt_templates, "prompt_templates")
        wanted = ranking.phrases(one(prompt, "prompt"), templates)
        if not wanted:
            raise ValueError("prompt is empty, must say what to rank by.")
        unwanted = ranking.phrases(one(negative_prompt, "negative_prompt"), templates)
        if one(against_lettering, "against_lettering"):
            unwanted.append(list(ranking.LETTERING))
        options = {key: one(value, key) for key, value in scope.items()}
        ranker = one(clip, "clip")

        errors = {} if sources is None else errors_of(pictures, sources, masks)
        bar = comfy.utils.ProgressBar(len(pictures))
        scores = similarity(pictures, masks, ranker, wanted, unwanted, weights_of(options), options.get("context", 0.0), lambda: bar.update(1))
        scores = scores - one(realism_weight, "realism_weight") * sum(errors.values())
        limits = one(top_k, "top_k"), one(min_score, "min_score")
        best = ranking.best(scores, *limits)
        notes = [*cuts(ranker, "prompt", wanted), *cuts(ranker, "negative_prompt", unwanted), *left_out(scores, *limits)]
        for note in notes:
            logging.warning("CLIP Rank Batch: %s", note)
        return io.NodeOutput(
            [images[0][best]] if len(images) == 1 else [pictures[i][None] for i in best.tolist()],
            [None] if latents is None else select(latents, best),
            scores[best].tolist(),
            best.tolist(),
            "\n".join([*table(scores, errors), *notes]),
        )


def one(values: Sequence[Any], name: str) -> Any:
    """The value of an input that counts for the whole ranking. Raises ValueError for a list of several."""
    if len(values) != 1:
        raise ValueError(f"{name} comes as a list of {len(values)}, must be one for all images, which are ranked together.")
    return values[0]


def pictures_of(batches: Sequence[Tensor], name: str = "images") -> list[Tensor]:
    """Every picture of a list of batches, (H, W, C) each, still with what is NaN. Raises ValueError for none and for another shape."""
    for batch in batches:
        as_picture(batch[:1].nan_to_num(), name)
    pictures = [picture for batch in batches for picture in batch]
    if not pictures:
        raise ValueError(f"{name} is empty, must hold at least one picture.")
    if not any(map(whole, pictures)):
        raise ValueError(f"{name} contains NaN or infinite values in every picture: look at the node that made them.")
    return pictures


def whole(picture: Tensor) -> bool:
    """Whether no colour of a picture is NaN or infinite."""
    return bool(torch.isfinite(picture[..., :3]).all())


def one_each(extras: list[Tensor], pictures: list[Tensor], name: str) -> list[Tensor]:
    """The mask or source of every picture, from one for all or one each. Raises ValueError for another count or size."""
    check_batch(len(extras), len(pictures), name, "images")
    extras = extras * (len(pictures) // len(extras))
    for extra, picture in zip(extras, pictures, strict=True):
        if extra.shape[:2] != picture.shape[:2]:
            raise ValueError(
                f"{name} is {extra.shape[1]}x{extra.shape[0]}, but images are {picture.shape[1]}x{picture.shape[0]}: give the {name} of these pictures."
            )
    return extras


def check_latents(latents: Sequence[dict], count: int) -> None:
    """Raises ValueError unless there is one latent for each picture."""
    found = sum(len(latent["samples"]) for latent in latents)
    if found != count:
        raise ValueError(f"latents has {found} in its batch, but images has {count}: give the latents of these pictures.")


def weights_of(scope: dict) -> dict[str, float]:
    """The share of each scope's score, in sum 1. Raises ValueError for a mix of nothing."""
    if scope["scope"] != "mix":
        return {scope["scope"]: 1.0}
    weights = {name: scope[f"{name}_weight"] for name in ranking.SCOPES if scope[f"{name}_weight"] > 0}
    if not weights:
        raise ValueError("scope is mix, but all its weights are 0: give at least one scope a weight.")
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def similarity(
    pictures: list[Tensor],
    masks: list[Tensor],
    clip: OpenClip,
    wanted: list[list[str]],
    unwanted: list[list[str]],
    weights: dict[str, float],
    context: float,
    on_picture: Callable[[], None] = lambda: None,
) -> Tensor:
    """Similarity of each picture with what is wanted, less that with what is not.

    Pictures are judged one at a time: half-precision kernels change with the size of a batch, and so would a picture's figure.
    Memory stays that of one picture, too.

    Args:
        pictures: (H, W, C) each, C >= 3, in 0..1.
        masks: (H, W) each, in 0..1.
        wanted, unwanted: groups of phrases, see `ranking.phrases`; each group weighs the same. Nothing may be unwanted.
        weights: of the scopes.
        context: of scope box.
        on_picture: called after each picture.

    Returns: (N,), float32 on the CPU, NaN for a picture with NaN. Raises ValueError where CLIP itself gives NaN.
    """
    clip.load()
    texts = [embed(clip, groups) for groups in (wanted, unwanted) if groups]
    device = clip.patcher.load_device
    shares = torch.tensor(list(weights.values()))
    scores = torch.full((len(pictures),), torch.nan)
    for index, (picture, m) in enumerate(zip(pictures, masks, strict=True)):
        comfy.model_management.throw_exception_if_processing_interrupted()
        if whole(picture):
            x_hat = as_picture(picture[None].to(device))[0]
            views = [ranking.view(x_hat, m.to(device), scope, clip.size, context, clip.interpolation) for scope in weights]
            seen = clip.embed_images(torch.stack(views))
            wish, *rest = (ranking.cosine(seen, text).cpu() for text in texts)
            scores[index] = ((wish - sum(rest)) * shares).sum()
            if not torch.isfinite(scores[index]):
                raise ValueError(f"clip {clip.name} gives no finite embedding in {clip.dtype}: its weights are damaged, choose another.")
        on_picture()
    return scores


def embed(clip: OpenClip, groups: list[list[str]]) -> Tensor:
    """One embedding, (E,), for groups of phrases."""
    return ranking.ensemble(torch.stack([ranking.ensemble(clip.embed_text(group)) for group in groups]))


def errors_of(pictures: list[Tensor], sources: list[Tensor], masks: list[Tensor]) -> dict[str, Tensor]:
    """Each of `ranking.ERRORS` for each picture, (N,), NaN for a picture with NaN."""
    errors = {name: torch.full((len(pictures),), torch.nan) for name in ranking.ERRORS}
    for index, (picture, source, m) in enumerate(zip(pictures, sources, masks, strict=True)):
        if whole(picture):
            x_hat, x = (as_picture(image[None].cpu(), name)[0] for image, name in ((picture, "images"), (source, "source")))
            for name, error in ranking.ERRORS.items():
                errors[name][index] = error(x_hat, x, m.cpu())
    return errors


def select(latents: Sequence[dict], index: Tensor) -> list[dict]:
    """The LATENTs of some candidates in that order: one for one that was given, else a list of single ones."""
    if len(latents) == 1:
        return [rows_of(latents[0], index)]
    places = [(latent, row) for latent in latents for row in range(len(latent["samples"]))]
    return [rows_of(latent, torch.tensor([row])) for latent, row in (places[i] for i in index.tolist())]


def rows_of(latent: dict, index: Tensor) -> dict:
    """The LATENT of some of its batch, in that order, with the noise masks and batch indices of those."""
    out = {**latent, "samples": latent["samples"][index]}
    if "noise_mask" in latent and len(latent["noise_mask"]) > 1:
        # A shorter batch of masks is repeated by the host.
        out["noise_mask"] = latent["noise_mask"][index % len(latent["noise_mask"])]
    if "batch_index" in latent:
        out["batch_index"] = [latent["batch_index"][i] for i in index.tolist()]
    return out


def table(scores: Tensor, errors: dict[str, Tensor]) -> list[str]:
    """The whole ranking, a line a candidate, then what was measured against the source."""
    order = ranking.order(scores).tolist()
    lines = [f"{rank}. candidate {index}: {scores[index]:.4f}" for rank, index in enumerate(order, 1)]
    if errors:
        measured = {index: ", ".join(f"{name} error {error[index]:.4f}" for name, error in errors.items()) for index in order}
        lines += [f"candidate {index} against the source: {text}" for index, text in measured.items()]
    return lines


def cuts(clip: OpenClip, name: str, groups: list[list[str]]) -> list[str]:
    """A sentence for each line that is longer than CLIP's context, with the last words that it reads."""
    notes = []
    for group in groups:
        short = next((kept for phrase in group if (kept := clip.kept(phrase)) != phrase), None)
        if short is not None:
            notes.append(f'{name} was cut after "... {" ".join(short.split()[-6:])}": the clip reads no further.')
    return notes


def left_out(scores: Tensor, top_k: int, min_score: float) -> list[str]:
    """A sentence for each thing about the choice that may surprise."""
    notes = [f"candidate {index} contains NaN or infinite values, so it comes last." for index in torch.nonzero(scores.isnan()).flatten().tolist()]
    if top_k > len(scores):
        notes.append(f"top_k is {top_k}, but there are only {len(scores)} candidates.")
    if not (scores >= min_score).any():
        notes.append(f"no candidate reaches min_score {min_score:g}: the best is returned all the same.")
    elif min_score > ranking.NO_MIN_SCORE:
        notes.append(f"{int((scores >= min_score).sum())} of {len(scores)} candidates reach min_score {min_score:g}.")
    return notes
