"""Descriptions of values that may reach a node, sound and odd ones, and how to make them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from comfy.nested_tensor import NestedTensor
from comfy.sd import VAE
from comfy_api.latest import io
from hypothesis import strategies as st
from torch import Tensor

Strategy = st.SearchStrategy

DTYPES = ("float32", "float16", "bfloat16", "float64", "uint8", "int64", "bool")
LAYOUTS = ("plain", "strided", "turned", "spread")
CONTENTS = ("noise", "stroke", "zero", "one", "soft", "levels", "signed", "one nan", "a nan", "nan", "an infinity", "huge", "tiny")
TEXTS = (
    "", " ", "\n\n", "a fox", "fox " * 2500, "x" * 10000, "\x00\x07\x1b[31mred\x1b[0m\x1b]0;title\x07", "\u202ereversed\u202c", "ثعلب أحمر",
    "{}", "{0.__class__}{a}", "%s %d %(a)s", "<img src=x onerror=alert(1)>", "</script><script>alert(1)</script>", "${7*7}", "🦊👨‍👩‍👧", "\ud800",
    "(fox:1e99)", "embedding:../../secret", "a\r\nb", "../../etc/passwd", "/etc/passwd", "CON", "nul.safetensors", "\\\\host\\share",
)  # fmt: skip


@dataclass(frozen=True)
class Pixels:
    """A tensor: its shape, what is in it, and how it lies in memory."""

    shape: tuple[int, ...]
    content: str = "noise"
    dtype: str = "float32"
    layout: str = "plain"

    def make(self) -> Tensor:
        """The tensor, the same each time."""
        values = self.values()
        kind = getattr(torch, self.dtype)
        return self.laid(values.nan_to_num().clamp(-(2**31), 2**31).to(kind) if not kind.is_floating_point else values.to(kind))

    def values(self) -> Tensor:
        noise = torch.rand(self.shape, generator=torch.Generator().manual_seed(sum(self.shape)))
        match self.content:
            case "stroke":
                return (torch.arange(noise.numel()).view(self.shape) % 7 == 0).float()
            case "zero" | "one":
                return torch.full(self.shape, float(self.content == "one"))
            case "soft":
                return noise.square()
            case "levels":
                return noise.mul(255).round()
            case "signed":
                return noise.mul(2).sub(1)
            case "a nan" | "an infinity":
                return noise.index_fill(-1, torch.tensor([0]), math.nan if self.content == "a nan" else math.inf) if noise.numel() else noise
            case "one nan":
                return noise.masked_fill(torch.arange(noise.numel()).view(self.shape) == noise.numel() // 2, math.nan)
            case "nan":
                return torch.full(self.shape, math.nan)
            case "huge" | "tiny":
                return noise * (3e38 if self.content == "huge" else 1e-42)
        return noise

    def laid(self, values: Tensor) -> Tensor:
        """The same values in another layout; in a spread one, all of the batch are one."""
        if not values.numel() or values.ndim < 2:
            return values
        match self.layout:
            case "strided":
                return torch.stack([values, values], -1)[..., 0]
            case "turned":
                return values.transpose(-1, -2).contiguous().transpose(-1, -2)
            case "spread":
                return values[:1].expand(values.shape)
        return values


@dataclass(frozen=True)
class Latent:
    """A LATENT: samples, and whatever else there is in it."""

    samples: Pixels
    noise_mask: Pixels | None = None
    batch_index: tuple[int, ...] | None = None
    more: tuple[tuple[str, Any], ...] = ()
    nested: bool = False

    def make(self) -> dict[str, Any]:
        """The dict."""
        samples = self.samples.make()
        latent: dict[str, Any] = {"samples": NestedTensor([samples, torch.zeros(1, 8, 50)]) if self.nested else samples, **dict(self.more)}
        if self.noise_mask is not None:
            latent["noise_mask"] = self.noise_mask.make()
        if self.batch_index is not None:
            latent["batch_index"] = list(self.batch_index)
        return latent


@dataclass(frozen=True)
class Schedule:
    """A MASK_SCHEDULE of another pack."""

    masks: Any
    shares: Any

    def make(self) -> SimpleNamespace:
        """Its two attributes."""
        return SimpleNamespace(masks=made(self.masks), shares=made(self.shares))


@dataclass(frozen=True)
class Lie:
    """An object of another pack that has the parts of a socket type, and whatever in them."""

    parts: tuple[tuple[str, Any], ...]

    def make(self) -> SimpleNamespace:
        """Its attributes."""
        return SimpleNamespace(**{name: made(value) for name, value in self.parts})


@dataclass(frozen=True)
class Answer:
    """A function that answers the same to everything."""

    what: Any

    def make(self) -> Any:
        """The function."""
        return lambda *given, **named: made(self.what)


@dataclass(frozen=True)
class Prompt:
    """A CONDITIONING: the shape of its tokens and what else is in it."""

    tokens: Pixels
    more: tuple[tuple[str, Any], ...] = ()

    def make(self) -> list[Any]:
        """One prompt."""
        return [[self.tokens.make(), {key: made(value) for key, value in self.more}]]


@dataclass(frozen=True)
class Part:
    """One of the real models, by its name: model, vae, text or clip; or other_vae, of other channels and another factor."""

    name: str

    def make(self) -> Any:
        """The model, loaded once."""
        return getattr(parts(), self.name)


@dataclass(frozen=True)
class Many:
    """A list."""

    of: tuple[Any, ...]

    def make(self) -> list[Any]:
        """Each one made."""
        return [made(one) for one in self.of]


@lru_cache(1)
def parts() -> Any:
    """The model, its VAE and text encoder, the ranker, and a prompt."""
    from bench._nodes import load_clip
    from demo import loader
    from demo.train import sampling

    with torch.inference_mode():
        model, text, vae = loader.load()
        return SimpleNamespace(model=model, text=text, vae=vae, clip=load_clip(), prompt=sampling.conditioning(text, ["a fox"]), other_vae=other_vae())


def other_vae() -> VAE:
    """A VAE of 8 channels and 2 pixels to a cell, with random weights."""
    sizes = {"double_z": True, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": []}
    vae = VAE(sd={}, config={"params": {"embed_dim": 8, "ddconfig": sizes | {"dropout": 0.0, "z_channels": 8}}})
    vae.latent_channels, vae.upscale_ratio, vae.downscale_ratio = 8, 2, 2
    noise = torch.Generator().manual_seed(0)
    for weight in vae.first_stage_model.parameters():  # which are as memory was
        weight.normal_(std=0.05, generator=noise)
    return vae


def made(value: Any) -> Any:
    """What a description stands for; anything else as it is."""
    return value.make() if hasattr(value, "make") else value


def pixels(*shapes: tuple[int, ...], contents: tuple[str, ...] = ("noise", "stroke", "soft", "zero", "one")) -> Strategy:
    """Sound ones."""
    return st.builds(Pixels, st.sampled_from(shapes), st.sampled_from(contents))


def odd_pixels(*shapes: tuple[int, ...]) -> Strategy:
    """Of these shapes and of others: a side more or less, none, a channel too many, another rank."""
    sides = st.sampled_from((0, 1, 2, 3, 4, 7, 15, 31, 32, 33))
    odd = st.lists(sides, min_size=0, max_size=6).map(tuple).filter(lambda shape: math.prod(shape) <= 2**16)
    return st.builds(Pixels, mostly(st.sampled_from(shapes), odd), st.sampled_from(CONTENTS), st.sampled_from(DTYPES), st.sampled_from(LAYOUTS))


MASKS = ((1, 32, 32), (2, 32, 32), (1, 33, 35), (1, 4, 4), (32, 32))
IMAGES = ((1, 32, 32, 3), (2, 32, 32, 3), (1, 33, 35, 3), (1, 32, 32, 4), (1, 32, 32, 1))
SAMPLES = ((1, 4, 4, 4), (2, 4, 4, 4), (3, 4, 4, 4), (1, 16, 1, 4, 4), (1, 4, 3, 4, 4))
STRANGERS: tuple[Any, ...] = (
    None, 0, 1.5, "text", True, (), Many(()), Many((Pixels((1, 32, 32)),)), {"samples": 1}, {}, Pixels((1, 4, 4, 4)), Latent(Pixels((1, 4, 4, 4))),
    Part("model"), Part("vae"), Part("text"), Part("clip"), Part("other_vae"),
)  # fmt: skip


def odd_latents() -> Strategy:
    """LATENTs with anything in them."""
    mask = st.none() | odd_pixels((1, 4, 4), (1, 1, 4, 4), (2, 1, 32, 32), (3, 1, 4, 4), (1, 1, 3, 4, 4))
    index = st.none() | st.lists(st.integers(-1, 5), max_size=3).map(tuple)
    more = st.lists(
        st.sampled_from([
            ("type", "audio"), ("downscale_ratio_spacial", 16), ("downscale_ratio_temporal", 0), ("downscale_ratio_temporal", 4), ("unknown", object),
            ("candidate_seeds", None), ("candidate_seeds", {"a": "b"}), ("dropped_candidates", 5), ("noise_mask", None), ("noise_mask", 1), ("batch_index", 3),
        ]),
        max_size=2,
    ).map(tuple)  # fmt: skip
    samples = pixels(*SAMPLES) | pixels(*SAMPLES[:3]) | odd_pixels(*SAMPLES)
    return st.builds(Latent, samples, mask, index, more, st.sampled_from((False,) * 7 + (True,)))




def odd_schedules() -> Strategy:
    """Of other packs, that lie."""
    masks = odd_pixels((2, 1, 4, 4), (3, 2, 4, 4), (2, 1, 3, 5), (1, 1, 4, 4), (0, 1, 4, 4)) | st.sampled_from(STRANGERS)
    shares = [(1.0,), (0.5, 0.5), (0.2, 0.3, 0.5), (), (0.5, 0.6), (-1.0, 2.0), (math.nan, 1.0), (math.inf, -math.inf), ("a", "b"), None, 1.0, (0.5, None)]
    return st.builds(Schedule, masks, st.sampled_from(shares))


LIES = {
    "OPEN_CLIP": ("embed_images", "embed_text", "kept"),
    "CANDIDATE_PRUNING": ("judge", "helpers", "rounds", "shares"),
    "EDIT_PLACE": ("image", "window", "mask"),
}


def odd_lies(kind: str) -> Strategy:
    """Objects of other packs that would pass for a socket type."""
    what = (None, 1, "text", (), ("a",), (0.5,), Pixels((1, 32, 32, 3)), Pixels((1, 8)), Answer(None), Answer(Pixels((1,))), Answer(Pixels((1, 8), "nan")))
    return st.tuples(*(st.tuples(st.just(part), st.sampled_from(what)) for part in LIES[kind])).map(Lie)


def odd_prompts() -> Strategy:
    """CONDITIONINGs that this model was not made for."""
    tokens = odd_pixels((1, 77, 64), (2, 77, 64), (1, 77, 768), (1, 7, 64))
    more = [("pooled_output", Pixels((1, 64))), ("pooled_output", None), ("mask", Pixels((1, 4, 4))), ("area", (4, 4, 0, 0)), ("strength", math.nan)]
    return st.builds(Prompt, tokens, st.lists(st.sampled_from(more), max_size=2).map(tuple))


def mostly(often: Strategy, seldom: Strategy) -> Strategy:
    """Seven of eight times the one."""
    return st.integers(0, 7).flatmap(lambda number: seldom if number == 0 else often)


def odd(declared: io.Input, costly: bool = False) -> Strategy:
    """Anything for an input, by its type: values of the type that are odd, and values of other types."""
    strangers = st.sampled_from(STRANGERS)
    match declared:
        case io.Int.Input():
            limits = (declared.min, declared.min - 1, declared.max + 1, -1, 0, 1, 2, 2**63, 2**64, -(2**63), 10**30)
            return mostly(st.sampled_from(limits if costly else (*limits, declared.max)), strangers)
        case io.Float.Input():
            limits = (declared.min, declared.max, math.nextafter(declared.max, math.inf), -1.0, 0.0, 1e-9, 1e300, math.nan, math.inf, -math.inf)
            return mostly(st.sampled_from(limits), strangers)
        case io.Combo.Input():
            return mostly(st.sampled_from(declared.options), st.sampled_from(TEXTS) | strangers)
        case io.String.Input():
            return mostly(st.sampled_from(TEXTS) | st.text(max_size=20), strangers)
        case io.Image.Input():
            return mostly(odd_pixels(*IMAGES), strangers)
        case io.Mask.Input():
            return mostly(odd_pixels(*MASKS), strangers)
        case io.Latent.Input():
            return mostly(odd_latents(), strangers)
        case io.Conditioning.Input():
            return mostly(odd_prompts(), strangers)
    kind = declared.get_io_type()
    if kind == "MASK_SCHEDULE":
        return mostly(odd_schedules(), strangers)
    if kind == "VAE":
        return st.just(Part("other_vae")) | strangers
    return odd_lies(kind) | strangers if kind in LIES else strangers
