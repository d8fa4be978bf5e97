"""The ranking of candidates: checks, scores, order, and the report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...bld import ranking
from ..checks import as_mask, check_batch, check_shape, frames_of, printable
from ..sampling.dropped import dropped_of
from ..sampling.seeds import seeds_of
from .gallery import gallery
from .measure import measure, names_of
from .models import OpenClip
from .similarity import cuts, whole


@dataclass(frozen=True)
class Ranking:
    """What CLIP Rank Batch returns.

    Attributes:
        images, latents, scores, order: of the candidates that stay, in step, images and latents in the form that they came in.
        report: the complete ranking as text.
        gallery: every candidate for the browser, see `gallery.gallery`.
    """

    images: list[Tensor]
    latents: list[dict | None]
    scores: list[float]
    order: list[int]
    report: str
    gallery: list[dict]


def rank(
    images: Sequence[Tensor],
    clip: Sequence[OpenClip],
    prompt: Sequence[str],
    mask: Sequence[Tensor],
    scope: dict[str, Sequence],
    top_k: Sequence[int],
    negative_prompt: Sequence[str],
    latents: Sequence[dict] | None,
    source: Sequence[Tensor] | None,
    realism_weight: Sequence[float],
    min_score: Sequence[float],
    prompt_templates: Sequence[str],
    against_lettering: Sequence[bool],
    pick: Sequence[str],
    frames: Sequence[int],
) -> Ranking:
    """Ranks all pictures of a batch or of a list of batches together, or all videos: a picture is a video of one frame.

    Args: as the inputs of CLIP Rank Batch, each as a list. Raises ValueError for inputs that do not fit together.
    """
    pictures = pictures_of(images)
    for latent in latents or []:
        check_latent(latent)
    length = length_of(one(frames, "frames"), len(pictures), latents)
    count = len(pictures) // length
    masks = one_each([row for m in mask for row in as_mask(m)], pictures, "mask", length)
    sources = None if source is None else one_each(pictures_of(source, "source"), pictures, "source", length)
    if latents is not None:
        check_latents(latents, count)
    picks = picks_of(one(pick, "pick"), count)
    templates = one(prompt_templates, "prompt_templates")
    wanted = ranking.phrases(one(prompt, "prompt"), templates)
    if not wanted:
        raise ValueError("prompt is empty: describe what you want to see inside the mask.")
    unwanted = ranking.phrases(one(negative_prompt, "negative_prompt"), templates)
    if one(against_lettering, "against_lettering"):
        unwanted.append(list(ranking.LETTERING))
    options = {key: one(value, key) for key, value in scope.items()}
    ranker = one(clip, "clip")
    shares = weights_of(options)
    limits = one(top_k, "top_k"), one(min_score, "min_score")

    judged = [start + frame for start in range(0, len(pictures), length) for frame in ranking.sampled(length)]
    seen, *extras = ([some[i] for i in judged] for some in (pictures, masks, *([sources] if sources else [])))
    names = names_of(seen)
    found = measure(seen, names, extras[0], extras[1] if sources else None, ranker, wanted, unwanted, tuple(shares), options.get("context", 0.0))
    figures = {name: values.view(count, -1).mean(1) for name, values in found.items()}
    # Of each candidate the one in the middle.
    step = len(judged) // count
    seen, names = seen[step // 2 :: step], names[step // 2 :: step]
    weights = {name: shares.get(name, -one(realism_weight, "realism_weight")) for name in figures}
    seeds = [None] * count if latents is None else [seed for latent in latents for seed in seeds_of(latent)]
    dropped = [] if latents is None else dropped_of(latents[0])
    scores = sum(weights[name] * values for name, values in figures.items())
    chosen = torch.tensor(picks) if picks else ranking.best(scores, *limits)
    notes = [
        *cuts(ranker, "prompt", wanted),
        *cuts(ranker, "negative_prompt", unwanted),
        *([f"pick is {printable(one(pick, 'pick'))}, so top_k and min_score don't count."] if picks else left_out(scores, *limits)),
    ]
    for note in notes:
        logging.warning("CLIP Rank Batch: %s", note)
    kept = [pictures[i * length : (i + 1) * length] for i in chosen.tolist()]
    return Ranking(
        [torch.stack([picture for one in kept for picture in one])] if len(images) == 1 else [torch.stack(one) for one in kept],
        [None] if latents is None else select(latents, chosen),
        scores[chosen].tolist(),
        chosen.tolist(),
        "\n".join([*table(scores, {name: values for name, values in figures.items() if name not in shares}), *notes]),
        gallery(seen, names, scores, figures, weights, seeds, limits[1], picks, dropped),
    )


def picks_of(pick: str, count: int) -> list[int]:
    """The candidates that a text such as "3, 0" names, in that order, each once. Raises ValueError unless all are in 0..count - 1."""
    parts = [part.strip() for part in pick.split(",")] if pick.strip() else []
    if not all(part.isdecimal() for part in parts):
        raise ValueError(f"pick is {pick!r}, but must be numbers of candidates such as 3,0: click them in the gallery, or leave it empty for the best.")
    picks = [int(part) for part in parts]
    if max(picks, default=0) >= count:
        raise ValueError(f"pick is {pick!r}, but there are only {count} candidates: choose numbers from 0 to {count - 1}, or leave it empty for the best.")
    return list(dict.fromkeys(picks))


def length_of(frames: int | None, pictures: int, latents: Sequence[dict] | None) -> int:
    """How many frames each candidate has, see `frames_of`; where nobody says so, but their latents are videos, as many as there are for each latent."""
    count = sum(len(latent["samples"]) for latent in latents or [] if latent["samples"].ndim == 5)
    return pictures // count if frames in (None, 1) and count and pictures % count == 0 else frames_of(frames, pictures, "images")


def one(values: Sequence[Any], name: str) -> Any:
    """The one value of an input that applies to the whole ranking. Raises ValueError for a list of several."""
    if len(values) != 1:
        raise ValueError(f"{name} is a list of {len(values)}, but all images are ranked together: connect a single one.")
    return values[0]


def pictures_of(batches: Sequence[Tensor], name: str = "images") -> list[Tensor]:
    """Every picture of a list of batches, (H, W, C) each, NaN included. Raises ValueError if there is none, and for another shape."""
    for batch in batches:
        if batch.ndim != 4 or len(batch) > 0:
            check_shape(batch, name)
    pictures = [picture for batch in batches for picture in batch]
    if not pictures:
        raise ValueError(f"{name} is empty: connect at least one picture.")
    if not any(map(whole, pictures)):
        raise ValueError(f"{name} contains NaN or infinite values in every picture: check the node that made them.")
    return pictures


def one_each(extras: list[Tensor], pictures: list[Tensor], name: str, frames: int = 1) -> list[Tensor]:
    """The mask or source of every picture, given one for all, those of one video or one each. Raises ValueError for another count or size."""
    check_batch(len(extras), len(pictures), name, "images", frames)
    extras = extras * (len(pictures) // len(extras))
    for extra, picture in zip(extras, pictures, strict=True):
        if extra.shape[:2] != picture.shape[:2]:
            raise ValueError(
                f"{name} is {extra.shape[1]}x{extra.shape[0]}, but images are {picture.shape[1]}x{picture.shape[0]}: connect the {name} of these pictures."
            )
    return extras


def check_latent(latent: dict) -> None:
    """Raises ValueError for a LATENT without samples of pictures or videos, or with another number of indices."""
    samples = latent.get("samples") if isinstance(latent, Mapping) else None
    if not isinstance(samples, Tensor) or samples.ndim < 3:
        raise ValueError("latents is not a latent of pictures or video: connect a LATENT, for example from Blended Latent KSampler.")
    index = latent.get("batch_index")
    if index is not None and (not isinstance(index, Sequence) or len(index) != len(samples)):
        raise ValueError(f"latents has {len(samples)} in its batch, but its batch_index is not a list of as many: check the node that made it.")


def check_latents(latents: Sequence[dict], count: int) -> None:
    """Raises ValueError unless each picture or video has a latent."""
    found = sum(len(latent["samples"]) for latent in latents)
    if found != count:
        raise ValueError(f"latents has {found} in its batch, but images has {count}: connect the latents of these pictures.")


def weights_of(scope: dict) -> dict[str, float]:
    """The share of each view's score, 1 in sum. Raises ValueError for a mix of nothing."""
    if scope["scope"] != "mix":
        return {scope["scope"]: 1.0}
    weights = {view: weight for view, name in zip(ranking.MIXED, ranking.SCOPES, strict=True) if (weight := scope[f"{name}_weight"]) > 0}
    if not weights:
        raise ValueError("scope is mix, but all its weights are 0: set at least one of them above 0.")
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def select(latents: Sequence[dict], index: Tensor) -> list[dict]:
    """The LATENTs of some candidates in that order: one LATENT if one was given, otherwise a list of single ones."""
    if len(latents) == 1:
        return [rows_of(latents[0], index)]
    places = [(latent, row) for latent in latents for row in range(len(latent["samples"]))]
    return [rows_of(latent, torch.tensor([row])) for latent, row in (places[i] for i in index.tolist())]


def rows_of(latent: dict, index: Tensor) -> dict:
    """The LATENT of some of its batch in that order, with their noise masks and batch indices."""
    out = {**latent, "samples": latent["samples"][index]}
    if latent.get("noise_mask") is not None and len(latent["noise_mask"]) > 1:
        # ComfyUI repeats a shorter batch of masks.
        out["noise_mask"] = latent["noise_mask"][index % len(latent["noise_mask"])]
    if latent.get("batch_index") is not None:
        out["batch_index"] = [latent["batch_index"][i] for i in index.tolist()]
    return out


def table(scores: Tensor, errors: dict[str, Tensor]) -> list[str]:
    """The whole ranking, one line for each candidate, then what was measured against the source."""
    order = ranking.order(scores).tolist()
    lines = [f"{rank}. candidate {index}: {scores[index]:.4f}" for rank, index in enumerate(order, 1)]
    if errors:
        measured = {index: ", ".join(f"{name} error {error[index]:.4f}" for name, error in errors.items()) for index in order}
        lines += [f"candidate {index} against the source: {text}" for index, text in measured.items()]
    return lines


def left_out(scores: Tensor, top_k: int, min_score: float) -> list[str]:
    """A sentence for everything about the choice that may surprise."""
    notes = [f"candidate {index} contains NaN or infinite values, so it comes last." for index in torch.nonzero(scores.isnan()).flatten().tolist()]
    if top_k > len(scores):
        notes.append(f"top_k is {top_k}, but there are only {len(scores)} candidates.")
    if not (scores >= min_score).any():
        notes.append(f"no candidate reaches min_score {min_score:g}, so only the best one is returned.")
    elif min_score > ranking.NO_MIN_SCORE:
        notes.append(f"{int((scores >= min_score).sum())} of {len(scores)} candidates reach min_score {min_score:g}.")
    return notes
