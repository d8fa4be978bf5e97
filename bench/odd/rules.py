"""What must hold after a case: a right result, or one sentence that names the input at fault; and nothing else has changed."""

from __future__ import annotations

import json
import math
import random
import re
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import nodes as host
import numpy as np
import torch
from comfy_api.latest import ui
from torch import Tensor
from torch.nn import functional

from bench.odd.audit import audited
from bench.odd.cases import CHAINS, NODES, Case, HostRefused, inner_ids
from bench.odd.values import parts
from blended_latent_diffusion.bld.masks import cropped
from blended_latent_diffusion.bridge.previews import digest

RIGHT, REFUSED, BY_HOST = "right result", "one sentence", "as ComfyUI's own nodes"
Outputs = Any


class Finding(AssertionError):
    """A case that ended in none of the ways that it may."""


def run(case: Case) -> str:
    """Runs a case and returns how it ended. Raises Finding."""
    with torch.inference_mode():
        given = case.make()
        before, world = kept(given), state()
        try:
            # ComfyUI's own previews draw their files' names from Python's generator.
            with audited() as done, mock.patch(f"{ui.PreviewImage.__module__}.random", random.Random(0)):
                outcome = settle(case, given)
        except HostRefused:
            outcome = BY_HOST
        check(not done, f"outside: {', '.join(done)}")
        check(kept(given) == before, "an input has changed")
        now = state()
        check(now == world, f"changed: {', '.join(name for name in world if now[name] != world[name])}")
    return outcome


def settle(case: Case, given: dict[str, Any]) -> str:
    """The case itself."""
    try:
        result = case.run(given)
    except ValueError as error:
        check(type(error) is ValueError, f"{type(error).__name__}: {error}")
        check_sentence(str(error))
        # ComfyUI logs the traceback, with all errors on the way.
        check("\x1b" not in "".join(traceback.format_exception(error)), f"the log is not printable: {error}")
        check_blame(case, str(error))
        return REFUSED
    except HostRefused:
        raise
    except Exception as error:
        if case.name == "BlendedLatentKSampler" and refused_by_host(given, error):
            return BY_HOST
        raise Finding(f"{type(error).__name__}: {error}") from error
    try:
        RULES[case.name](given, result)
    except Finding:
        raise
    except Exception as error:
        raise Finding(f"a result that has not the parts it must have: {error}") from error
    return RIGHT


def refused_by_host(given: dict[str, Any], error: Exception) -> bool:
    """Whether ComfyUI's own KSampler fails in the same way with this model, these prompts and this latent."""
    try:
        latent = {"samples": given["latent_image"]["samples"].float()}
        with torch.random.fork_rng(devices=[]):  # which ComfyUI's sampler moves
            host.common_ksampler(given["model"], 1, 1, 4.0, "euler", "normal", given["positive"], given["negative"], latent)
    except Exception as theirs:
        return type(theirs) is type(error)
    return False


def check(right: bool, what: str) -> None:
    """Raises Finding."""
    if not right:
        raise Finding(what)


def named(case: Case, text: str) -> set[str]:
    """The inputs that a sentence names."""
    nodes = NODES.values() if case.name in CHAINS else [NODES[case.name]]
    ids = {one for node in nodes for declared in node.define_schema().inputs for one in (declared.id, *inner_ids(declared))}
    return {one for one in ids if re.search(rf"(?<!\w){one}(?!\w)", text)}


def check_sentence(text: str) -> None:
    """One sentence, of printable characters."""
    check(text.endswith(".") and not re.search(r"[.!?]\s+[A-Z]", text) and len(text) < 500, f"not one sentence: {text}")
    check(text.isprintable(), f"not printable: {text!r}")


def check_blame(case: Case, text: str) -> None:
    """A sentence names an input: a strange one, or two that don't fit together, or else one that is as bad without what is strange."""
    blamed = named(case, text)
    check(bool(blamed), f"names no input: {text}")
    if not case.strange or blamed & case.strange or len(blamed) > 1:
        return
    plain = case.without_strange()
    try:
        plain.run(plain.make())
    except ValueError as error:
        if blamed <= named(case, str(error)):
            return
    raise Finding(f"names another input than the strange one: {text}")


# --- What may not change ---


def kept(value: Any) -> Any:
    """A copy of what a value holds, as deep as workflows nest."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype, value.flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8).numpy().tobytes()
    if isinstance(value, Mapping):
        return {key: kept(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [kept(one) for one in value]
    if getattr(value, "is_nested", False):
        return [kept(one) for one in value.unbind()]
    if hasattr(value, "masks") and hasattr(value, "shares"):
        return kept(value.masks), repr(value.shares)
    if hasattr(value, "window") and hasattr(value, "image"):
        return kept(value.image), kept(value.mask), repr(value.window)
    return id(value)


def state() -> dict[str, Any]:
    """Everything outside the inputs that a node could leave changed, but for the weights, see `weights`."""
    model = parts().model
    patches = {name: repr(getattr(model, name)) for name in ("model_options", "patches", "object_patches", "wrappers", "callbacks", "additional_models")}
    # ComfyUI's bars of progress keep one, which watches them.
    threads = [one.name for one in threading.enumerate() if type(one).__name__ != "TMonitor"]
    states = {"torch's random state": kept(torch.get_rng_state()), "numpy's": repr(np.random.get_state()), "Python's": random.getstate()}
    return patches | states | {"threads": threads}


def weights() -> dict[str, str]:
    """A fingerprint of all weights of the models that the cases use."""
    loaded = parts()
    modules = {"model": loaded.model.model, "vae": loaded.vae.first_stage_model, "clip": loaded.clip.patcher.model, "text": loaded.text.cond_stage_model}
    return {name: digest(torch.cat([weight.flatten().double() for weight in module.state_dict().values()])) for name, module in modules.items()}


# --- What is right ---


def in_range(values: Tensor) -> bool:
    """Whether all values are in 0..1."""
    return bool(torch.isfinite(values).all()) and float(values.min()) >= 0 and float(values.max()) <= 1


def resized(given: dict[str, Any], out: Outputs) -> None:
    """Latent Mask Resize."""
    mask, latent, report = out
    samples = given["latent"]["samples"]
    check(mask.shape[-2:] == samples.shape[-2:] and in_range(mask), "mask: shape or range")
    check(latent["samples"] is samples and set(latent) == {*given["latent"], "noise_mask"}, "latent: what was in it")
    check(latent["noise_mask"].shape[-2:] == samples.shape[-2:], "noise_mask: shape")
    if given.get("mode", "max") == "max" and not given.get("invert"):
        check("every painted pixel kept" in report or "frames" in report, f"report: {report}")


def shrunk(given: dict[str, Any], out: Outputs) -> None:
    """Progressive Mask Dilate."""
    schedule, stages = out
    mask = given["mask"] if given["mask"].ndim == 3 else given["mask"][None]
    check(torch.equal(schedule.thin, mask.float().clamp(0, 1)), "the last stage is the mask")
    check(in_range(schedule.masks), "masks: range")
    falling = schedule.masks[:-1] >= schedule.masks[1:]
    grows = (schedule.thin > 0) & bool(given.get("inset"))
    check(bool((falling | grows).all()), "each stage lies within the one before, but for what an inset leaves out of the mask at first")
    check(bool(((schedule.masks == 0) | (schedule.masks >= schedule.thin)).all()), "a stage has all of a cell or leaves it out")
    check(len(stages) == schedule.masks.shape[0] * schedule.masks.shape[1] and math.isclose(sum(schedule.shares), 1), "stages or shares")


CLOSE = 1e-4  # ComfyUI's own samplers scale the source to and fro


def exact(drawn: dict[str, Any], source: Tensor, mask: Tensor | None = None, off: float = 0) -> None:
    """The background of a sampled LATENT is the source's, bit for bit or off by as much.

    mask: at picture size; without it what the LATENT itself says is believed.
    """
    samples, rows = drawn["samples"], len(drawn["samples"]) // len(source)
    pooled = None if mask is None or samples.ndim != 4 else pooled_to(mask, samples.shape[-2:])
    mask = drawn.get("noise_mask") if pooled is None else pooled if len(pooled) == 1 else pooled.repeat_interleave(rows, 0)
    source = source.to(samples).repeat_interleave(rows, 0)
    check(samples.shape == source.shape, f"samples have shape {list(samples.shape)}")
    if mask is not None:
        outside = (mask if mask.ndim == samples.ndim else mask[:, None]).to(samples).expand(len(samples), samples.shape[1], *samples.shape[2:]) == 0
        check(torch.allclose(samples[outside], source[outside], off, off), "the background has changed")


def pooled_to(mask: Tensor, cells: tuple[int, int]) -> Tensor | None:
    """The largest value of a mask in each latent cell of 8 pixels, (B, h, w); None for a mask of another size."""
    mask = (mask if mask.ndim == 3 else mask[None]).float().clamp(0, 1)
    return functional.max_pool2d(cropped(mask, cells, 8), 8) if tuple(side // 8 for side in mask.shape[-2:]) == tuple(cells) else None


def sampled(given: dict[str, Any], out: Outputs) -> None:
    """Blended Latent KSampler."""
    latent, seeds = out
    if latent["samples"].shape[1] == given["latent_image"]["samples"].shape[1]:
        exact(latent, given["latent_image"]["samples"], given.get("mask") if given.get("mask_schedule") is None else None)
    check(len(seeds) == len(latent["samples"]) == len(latent["batch_index"]) and all(0 <= seed < 2**64 for seed in seeds), "seeds")


def patched(given: dict[str, Any], out: Outputs) -> None:
    """Apply Mask Schedule."""
    check(out[0] is not given["model"] and out[0].model is given["model"].model, "the model is a patched clone")


def reconstructed(given: dict[str, Any], out: Outputs) -> None:
    """Decoder Finetune Reconstruct."""
    picture, vae, report = out[:3]
    ratio = given["vae"].spacial_compression_decode()
    side = [ratio * cells for cells in given["samples"]["samples"].shape[-2:]]
    check(list(picture.shape) == [len(given["samples"]["samples"]), *side, 3] and bool(torch.isfinite(picture).all()), "picture: shape or range")
    check(vae.latent_channels == given["vae"].latent_channels and report, "vae or report")
    if given["method"]["method"] != "latent" and not given.get("keep_thin_edits"):
        unmasked_is_source(picture, given["image"], given["mask"], ratio)


def unmasked_is_source(picture: Tensor, image: Tensor, mask: Tensor, ratio: int = 8) -> None:
    """Outside the mask, a picture is the source as VAE Encode crops it."""
    cells = [side // ratio for side in picture.shape[1:3]]
    source = cropped(image[..., :3].movedim(-1, 1), cells, ratio).to(picture)
    mask = cropped(mask if mask.ndim == 3 else mask[None], cells, ratio)
    outside = (mask == 0).expand(len(picture), -1, -1)
    check(torch.equal(picture[outside], source.movedim(1, -1).expand_as(picture)[outside]), "the background has changed")


def reported(given: dict[str, Any], out: Outputs) -> None:
    """Edit Report."""
    figures, report, error = out[:4], out[4], out[5]
    check(all(isinstance(one, float) for one in figures), "figures")
    json.loads(report)
    check(error.ndim == 4 and len(error) == len(given["edited"]) and in_range(error), "error picture")


def cut(given: dict[str, Any], out: Outputs) -> None:
    """Edit Cut Out."""
    crop, mask, where, report = out
    multiple, image = given.get("multiple", 64), given["image"]
    check(len(crop) == len(image) and crop.shape[3] == 3 and all(side % multiple == 0 for side in crop.shape[1:3]), "crop: shape")
    check(bool(torch.isfinite(crop).all()) and mask.shape[1:] == crop.shape[1:3] and in_range(mask) and bool(mask.any()), "crop or mask: range or shape")
    check(where.image is image and report.endswith("."), "where or report")
    if not where.window.is_scaled:
        check(torch.equal(crop, image[..., :3][:, where.window.rows.slice, where.window.columns.slice].to(crop)), "the picture's own pixels")


def put(given: dict[str, Any], out: Outputs) -> None:
    """Edit Put Back."""
    (picture,), where = out, given["where"]
    source = (where.image if given.get("image") is None else given["image"])[..., :3].to(picture)
    check(picture.shape == (len(given["edited"]), *source.shape[1:]), "picture: shape")
    mask = torch.zeros(len(where.mask), *source.shape[1:3])
    mask[where.window.place] = where.mask
    outside, rows = (mask == 0).expand(len(picture), -1, -1), torch.arange(len(picture)) % len(source)
    check(torch.equal(picture[outside], source[rows][outside]) and in_range(picture[~outside]), "the background has changed, or the edit is out of range")


def loaded(given: dict[str, Any], out: Outputs) -> None:
    """Load OpenCLIP."""
    check(given["clip_name"] == "bld_demo_clip.safetensors" and out[0].name == given["clip_name"], "another model than asked for")


def ranked(given: dict[str, Any], out: Outputs) -> None:
    """CLIP Rank Batch."""
    images, latents, scores, order, report = out[:5]
    pictures = [picture for batch in given["images"] for picture in batch]
    returned = [picture for batch in images for picture in batch]
    check(len(scores) == len(order) == len(set(order)) and len(returned) % len(order) == 0, "as many of each")
    length = len(returned) // len(order)
    places = [index * length + frame for index in order for frame in range(length)]
    check(all(kept(one) == kept(pictures[place]) for one, place in zip(returned, places, strict=True)), "the pictures are those of the order")
    if not given.get("pick") or given["pick"] == [""]:
        finite = [score for score in scores if not math.isnan(score)]
        check(finite == sorted(finite, reverse=True) and scores[: len(finite)] == finite, "best first")
    check(report.replace("\n", "").isprintable(), "report: not printable")


def to_prune(given: dict[str, Any], out: Outputs) -> None:
    """Prune Candidates."""
    shares = out[0].shares
    check(list(shares) == sorted(shares) and all(0 <= share < 1 for share in shares) and len(shares) >= 1, "shares")


def edited(given: dict[str, Any], out: dict[str, Any]) -> None:
    """The chains that end in a LATENT, and what they made of it."""
    whole = given.get("LatentMaskResize.mode", "max") == "max" and not given.get("LatentMaskResize.invert")
    exact(out["drawn"], out["latent"]["samples"], given["mask"] if whole else None, CLOSE if out["by_host"] else 0)
    if "picture" in out:
        unmasked_is_source(out["picture"], given["image"], given["mask"])
        check(len(out["best"][3]) == len(out["picture"]), "all pictures are ranked")


def put_back(given: dict[str, Any], out: dict[str, Any]) -> None:
    """The chain of Edit Cut Out and Edit Put Back."""
    put({"edited": out["edited"], "where": out["where"]}, (out["picture"],))
    mask, source = given["mask"] if given["mask"].ndim == 3 else given["mask"][None], given["image"][..., :3].to(out["picture"])
    outside = (mask <= 0).expand(len(source), -1, -1)
    check(torch.equal(out["picture"][outside], source[outside]), "the background has changed")
    window = out["where"].window
    if not window.is_scaled:
        pasted = out["picture"][:, window.rows.slice, window.columns.slice][~outside[window.place]]
        check(torch.equal(pasted, out["edited"].clamp(0, 1)[~outside[window.place]]), "the edit is not in it")


RULES: dict[str, Callable[[dict[str, Any], Any], None]] = {
    "LatentMaskResize": resized,
    "ProgressiveMaskDilate": shrunk,
    "BlendedLatentKSampler": sampled,
    "ApplyMaskSchedule": patched,
    "DecoderFinetuneReconstruct": reconstructed,
    "OpenClipLoader": loaded,
    "ClipRankBatch": ranked,
    "PruneCandidates": to_prune,
    "EditReport": reported,
    "EditCutOut": cut,
    "EditPutBack": put,
    **dict.fromkeys(CHAINS, edited),
    "crop": put_back,
}
