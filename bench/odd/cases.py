"""The cases: a node of ours, or a chain of nodes, with a description for each input. Most inputs of a case are sound, and up to two are odd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import nodes as host
import torch
from comfy_api.latest import io
from hypothesis import strategies as st
from torch.nn import functional

from bench.odd.values import IMAGES, MASKS, SAMPLES, STRANGERS, TEXTS, Latent, Many, Part, Pixels, Strategy, made, mostly, odd, odd_pixels, parts, pixels
from blended_latent_diffusion.bld.masks import RESIZE_MODES
from blended_latent_diffusion.bld.schedule import EVERYWHERE, THIN_PARTS
from blended_latent_diffusion.nodes.apply_mask_schedule import ApplyMaskSchedule
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.clip_rank_batch import ClipRankBatch
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from blended_latent_diffusion.nodes.edit_cut_out import EditCutOut
from blended_latent_diffusion.nodes.edit_put_back import EditPutBack
from blended_latent_diffusion.nodes.edit_report import EditReport
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.open_clip_loader import OpenClipLoader
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from blended_latent_diffusion.nodes.prune_candidates import PruneCandidates

NODES = {
    node.__name__: node
    for node in (LatentMaskResize, ProgressiveMaskDilate, BlendedLatentKSampler, ApplyMaskSchedule, DecoderFinetuneReconstruct, OpenClipLoader,
                 ClipRankBatch, PruneCandidates, EditReport, EditCutOut, EditPutBack)
}  # fmt: skip
# At their upper limit these take hours, so they are tried at the lower one and beyond both.
COSTLY = {"steps", "iterations", "candidates", "size"}


@dataclass(frozen=True)
class Case:
    """What is run, by the name of a node or of a chain, and a description of each input.

    strange: the inputs that are odd, those of a choice included. sound: what they could have been instead, unless they are optional.
    """

    name: str
    inputs: Mapping[str, Any]
    strange: frozenset[str] = frozenset()
    sound: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def make(self) -> dict[str, Any]:
        """The inputs."""
        return {name: tree(made, value) for name, value in self.inputs.items()}

    def without_strange(self) -> Case:
        """The same with nothing strange."""
        return Case(self.name, {name: value for name, value in self.inputs.items() if name not in self.strange} | dict(self.sound))

    def run(self, given: dict[str, Any]) -> Any:
        """What comes out of the node or the chain."""
        return CHAINS[self.name][0](**given) if self.name in CHAINS else NODES[self.name].execute(**given).args


class HostRefused(Exception):
    """A node of ComfyUI in a chain did not take what it got."""


def tree(make: Callable[[Any], Any], value: Any) -> Any:
    """A description in which the choices of a combination are made one by one."""
    return {key: make(one) for key, one in value.items()} if isinstance(value, dict) else make(value)


class Shrunk:
    """A MASK_SCHEDULE of ours, of 4x4 cells."""

    def __repr__(self) -> str:
        return "Shrunk()"

    def make(self) -> Any:
        """The schedule."""
        return ProgressiveMaskDilate.execute(Pixels((1, 4, 4), "stroke").make()).args[0]


class Cut:
    """An EDIT_PLACE of ours: 16x16 pixels around a small square."""

    def __repr__(self) -> str:
        return "Cut()"

    def make(self) -> Any:
        """The place."""
        square = functional.pad(torch.ones(1, 6, 6), (9, 17, 10, 16))
        return EditCutOut.execute(Pixels((1, 32, 32, 3)).make(), square, multiple=8).args[2]


class Prompted:
    """A CONDITIONING of the model."""

    def __repr__(self) -> str:
        return "Prompted()"

    def make(self) -> Any:
        """One prompt."""
        return parts().prompt


MASK, IMAGE = pixels(*MASKS[:2]), pixels(*IMAGES[:2])
LATENT = st.builds(Latent, pixels(*SAMPLES[:2]))
VAE, CLIP, MODEL = st.just(Part("vae")), st.just(Part("clip")), st.just(Part("model"))
PROMPT = st.sampled_from([text for text in TEXTS if text.strip() and text.isascii()])


def listed(one: Strategy) -> Strategy:
    """A list of one value, as ComfyUI gives it for an input that has a single one."""
    return st.tuples(one).map(Many)


# Of each node the inputs that have no default, or whose default takes long.
SOUND: dict[str, dict[str, Strategy]] = {
    "LatentMaskResize": {"mask": pixels(*MASKS), "latent": st.builds(Latent, pixels(*SAMPLES)), "mode": st.sampled_from(RESIZE_MODES)},
    "ProgressiveMaskDilate": {"mask": pixels((1, 4, 4), (2, 4, 5), (4, 4)), "where": st.sampled_from((EVERYWHERE, THIN_PARTS))},
    "BlendedLatentKSampler": {
        "model": MODEL, "positive": st.builds(Prompted), "negative": st.builds(Prompted), "latent_image": LATENT, "mask": st.none() | MASK,
        "steps": st.integers(1, 3), "candidates": st.integers(1, 3), "cfg": st.sampled_from((1.0, 4.0)), "denoise": st.sampled_from((0.0, 0.5, 1.0)),
        "sampler_name": st.sampled_from(("ddim", "euler", "dpmpp_2m_sde", "heun", "uni_pc", "lcm")), "scheduler": st.sampled_from(("normal", "karras")),
        "seed": st.sampled_from((0, 2**64 - 1)),
    },
    "ApplyMaskSchedule": {"model": MODEL, "mask_schedule": st.builds(Shrunk), "source": st.none() | LATENT},
    "DecoderFinetuneReconstruct": {"samples": LATENT, "vae": VAE, "image": IMAGE, "mask": MASK, "keep_thin_edits": st.booleans()},
    "OpenClipLoader": {"clip_name": st.sampled_from(("bld_demo_clip.safetensors", "ViT-B-16-quickgelu openai")), "download": st.just(False)},
    "ClipRankBatch": {
        "images": st.lists(pixels((1, 32, 32, 3), (3, 32, 32, 3)), min_size=1, max_size=2).map(tuple).map(Many), "clip": listed(CLIP), "prompt": listed(PROMPT),
        "mask": listed(pixels((1, 32, 32))), "latents": st.none() | listed(st.builds(Latent, pixels((1, 4, 4, 4), (3, 4, 4, 4)))),
    },
    "PruneCandidates": {"clip": CLIP, "vae": VAE, "prompt": PROMPT, "mask": pixels((1, 32, 32))},
    "EditReport": {"source": pixels((1, 32, 32, 3), (1, 33, 35, 3)), "edited": pixels((1, 32, 32, 3), (2, 32, 32, 3)), "mask": pixels((1, 32, 32))},
    "EditCutOut": {"image": pixels(*IMAGES[:4]), "mask": pixels((1, 32, 32)), "size": st.sampled_from((0, 24)), "multiple": st.sampled_from((8, 16))},
    "EditPutBack": {"edited": pixels((1, 16, 16, 3), (2, 16, 16, 3), (1, 32, 32, 3)), "where": st.builds(Cut), "image": st.none() | pixels((1, 32, 32, 3))},
}  # fmt: skip
QUICK = {"iterations": st.integers(0, 2)}


@st.composite
def of_node(draw: st.DrawFn, name: str) -> Case:
    """A case of one node."""
    schema = NODES[name].define_schema()
    ids = [declared.id for declared in schema.inputs]
    strange = draw(st.sets(st.sampled_from(ids), max_size=2))
    inputs, sound = {}, {}
    for declared in schema.inputs:
        ours = inputs if declared.id not in strange else sound
        if isinstance(declared, io.DynamicCombo.Input):
            ours[declared.id] = draw(choice(declared, False, bool(schema.is_input_list)))
        elif declared.id in SOUND[name]:
            ours[declared.id] = draw(SOUND[name][declared.id])
        if declared.id in strange:
            inputs[declared.id] = draw(strange_value(declared, bool(schema.is_input_list)))
    inner = {one for declared in schema.inputs if declared.id in strange for one in inner_ids(declared)}
    return Case(name, inputs, frozenset(strange | inner), sound)


def inner_ids(declared: io.Input) -> set[str]:
    """The inputs of all choices of an input."""
    return {one.id for option in getattr(declared, "options", None) or () for one in getattr(option, "inputs", ())}


def strange_value(declared: io.Input, in_lists: bool) -> Strategy:
    """An odd value for an input of a node. Where that takes lists, mostly one of them."""
    if isinstance(declared, io.DynamicCombo.Input):
        return choice(declared, True, in_lists)
    value = odd(declared, declared.id in COSTLY)
    return mostly(st.lists(value, max_size=2).map(tuple).map(Many), value) if in_lists else value


@st.composite
def choice(draw: st.DrawFn, declared: io.DynamicCombo.Input, strange: bool, in_lists: bool) -> Any:
    """A choice with its inputs. A strange one has strange inputs, or is none of those that are offered."""
    if strange and draw(st.integers(0, 3)) == 0:
        return {declared.id: draw(st.sampled_from(STRANGERS) | st.sampled_from(TEXTS))}
    option = draw(st.sampled_from(declared.options))
    inputs = {declared.id: option.key}
    for one in option.inputs:
        sound = QUICK.get(one.id, st.just(one.default))
        inputs[one.id] = draw(odd(one, one.id in COSTLY) if strange and draw(st.booleans()) else sound)
    bare = not in_lists or (strange and draw(st.integers(0, 3)) == 0)
    return inputs if bare else {key: Many((value,)) for key, value in inputs.items()}


def encoded(image: torch.Tensor) -> dict[str, Any]:
    """The picture as LATENT. Raises HostRefused for one that VAE Encode does not take."""
    try:
        return host.VAEEncode().encode(parts().vae, image)[0]
    except Exception as error:
        raise HostRefused from error


def edit(image: Any, mask: Any, **options: Any) -> dict[str, Any]:
    """The whole method."""
    latent = encoded(image)
    small, masked, _ = LatentMaskResize.execute(mask, latent, **of("LatentMaskResize", options)).args
    schedule = ProgressiveMaskDilate.execute(small, **of("ProgressiveMaskDilate", options)).args[0]
    settings = {"seed": 1, "steps": 2, "cfg": 4.0, "sampler_name": "ddim", "scheduler": "normal", "positive": parts().prompt, "negative": parts().prompt}
    drawn = BlendedLatentKSampler.execute(
        parts().model, latent_image=masked, mask_schedule=schedule, **settings | of("BlendedLatentKSampler", options)
    ).args[0]  # fmt: skip
    picture = DecoderFinetuneReconstruct.execute(drawn, parts().vae, image, mask, {"method": "paste", "feather": 0}).args[0]
    report = EditReport.execute(image, picture, mask).args
    best = ClipRankBatch.execute([picture], [parts().clip], ["a fox"], [mask], {"scope": ["whole"]}, latents=[drawn], source=[image]).args
    return {"latent": latent, "drawn": drawn, "picture": picture, "report": report, "best": best, "by_host": False}


def any_sampler(image: Any, mask: Any, **options: Any) -> dict[str, Any]:
    """The schedule in ComfyUI's own sampler."""
    latent = encoded(image)
    schedule = ProgressiveMaskDilate.execute(LatentMaskResize.execute(mask, latent).args[0], **of("ProgressiveMaskDilate", options)).args[0]
    patched = ApplyMaskSchedule.execute(parts().model, schedule, latent).args[0]
    with torch.random.fork_rng(devices=[]):  # which ComfyUI's sampler moves
        drawn = host.common_ksampler(patched, 1, 2, 4.0, "euler", "normal", parts().prompt, parts().prompt, latent)[0]
    return {"latent": latent, "drawn": drawn, "by_host": True}


def pruned(image: Any, mask: Any, **options: Any) -> dict[str, Any]:
    """Candidates that CLIP judges part-way."""
    latent = encoded(image)
    judged = {"clip": parts().clip, "vae": parts().vae, "prompt": "a fox", "mask": mask} | of("PruneCandidates", options)
    pruning = PruneCandidates.execute(**judged).args[0]
    settings = {"seed": 1, "steps": 3, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "positive": parts().prompt, "negative": parts().prompt}
    drawn = BlendedLatentKSampler.execute(
        parts().model, latent_image=latent, mask=mask, pruning=pruning, candidates=4, **settings | of("BlendedLatentKSampler", options)
    ).args[0]  # fmt: skip
    return {"latent": latent, "drawn": drawn, "by_host": False}


def crop(image: Any, mask: Any, **options: Any) -> dict[str, Any]:
    """A crop that is cut out, turned to its negative, and put back."""
    part, _, where, _ = EditCutOut.execute(image, mask, **{"multiple": 8} | of("EditCutOut", options)).args
    edited = 1 - part
    picture = EditPutBack.execute(edited, where, {"method": "paste", "feather": 0}, **of("EditPutBack", options)).args[0]
    return {"edited": edited, "where": where, "picture": picture}


CHAINS: dict[str, tuple[Callable[..., dict[str, Any]], tuple[str, ...]]] = {
    "edit": (edit, ("LatentMaskResize.mode", "LatentMaskResize.threshold", "LatentMaskResize.invert", "ProgressiveMaskDilate.stages",
                    "ProgressiveMaskDilate.growth", "ProgressiveMaskDilate.soft_edge", "ProgressiveMaskDilate.takeover", "ProgressiveMaskDilate.where",
                    "ProgressiveMaskDilate.inset", "BlendedLatentKSampler.denoise", "BlendedLatentKSampler.cfg", "BlendedLatentKSampler.seed",
                    "BlendedLatentKSampler.chunk_size")),
    "any sampler": (any_sampler, ("ProgressiveMaskDilate.stages", "ProgressiveMaskDilate.growth", "ProgressiveMaskDilate.takeover")),
    "pruned": (pruned, ("PruneCandidates.start", "PruneCandidates.keep", "PruneCandidates.rounds", "PruneCandidates.at_least", "PruneCandidates.scope",
                        "PruneCandidates.vae", "BlendedLatentKSampler.denoise")),
    "crop": (crop, ("EditCutOut.context", "EditCutOut.size", "EditCutOut.multiple", "EditPutBack.frames")),
}  # fmt: skip


def of(node: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of one node of a chain."""
    return {name.partition(".")[2]: value for name, value in options.items() if name.startswith(f"{node}.")}


@st.composite
def of_chain(draw: st.DrawFn, name: str) -> Case:
    """A case of a chain: an odd picture or mask, odd numbers, or both."""
    options = CHAINS[name][1]
    strange = draw(st.sets(st.sampled_from(("image", "mask", *options)), max_size=2))
    image, mask = draw(st.sampled_from((((1, 32, 32, 3), (1, 32, 32)), ((2, 32, 32, 3), (2, 32, 32)), ((1, 33, 35, 3), (1, 33, 35)))))
    inputs = {
        "image": draw(odd_pixels(image, *IMAGES) if "image" in strange else pixels(image)),
        "mask": draw(odd_pixels(mask) if "mask" in strange else pixels(mask)),
    }
    for option in sorted(strange - {"image", "mask"}):
        node, _, input_id = option.partition(".")
        declared = next(one for one in NODES[node].define_schema().inputs if one.id == input_id)
        inputs[option] = draw(odd(declared, input_id in COSTLY))
    # Each node of a chain has names of its own for the picture and the mask.
    named = frozenset() if strange & {"image", "mask"} else frozenset(option.partition(".")[2] for option in strange)
    return Case(name, inputs, named)


def all_cases() -> dict[str, Strategy]:
    """The cases of each node and of each chain, by name."""
    return {name: of_node(name) for name in NODES} | {name: of_chain(name) for name in CHAINS}
