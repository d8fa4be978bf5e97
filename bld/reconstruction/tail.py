"""The last stages of a decoder, cut off so that they run on a crop as they run on the whole picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import ceil, prod

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Halo = tuple[int, int, int, int]


@dataclass(frozen=True)
class Stage:
    """One step of a decoder. grow: how many times larger it makes h. reach: the cells of its output that depend on what lies beyond a crop's edge.

    past, future: of a video, how many earlier and later frames each frame of its output depends on.
    """

    run: Callable[[Tensor], Tensor]
    grow: int = 1
    reach: int = 0
    past: int = 0
    future: int = 0


@dataclass(frozen=True)
class Tail:
    """stages: one after the other they lead from h, the input of the module `entrance`, to the picture (B, 3, H, W) in -1..1.

    Of a video, h is (1, C, T, h, w) and the picture (T, 3, H, W): the stages keep the frames.
    modules: what is tuned.
    """

    entrance: nn.Module
    stages: tuple[Stage, ...]
    modules: nn.ModuleList

    @property
    def scale(self) -> int:
        """How many pixels wide a cell of h is."""
        return prod(stage.grow for stage in self.stages)

    @property
    def needs(self) -> list[int]:
        """How many cells around what is wanted each stage must be given, and none of the picture: the receptive field, once the norms are held."""
        needs = [0]
        for stage in reversed(self.stages):
            needs.insert(0, ceil((needs[0] + stage.reach) / stage.grow))
        return needs

    @property
    def past(self) -> int:
        """How many earlier frames of h each frame of a video depends on."""
        return sum(stage.past for stage in self.stages)

    @property
    def future(self) -> int:
        """How many later ones."""
        return sum(stage.future for stage in self.stages)

    def decode(self, h: Tensor, halo: Halo, thrifty: bool = False, past: int = 0, future: int = 0) -> Tensor:
        """The picture of h without its halo, which is cut down to what the rest still needs after every stage.

        Args:
            h: (B, C, ..., h, w).
            halo: cells above, below, left and right of what is wanted: `needs[0]` of them, or as many as there are up to the frame.
            thrifty: keeps what stands between the stages only, and computes the rest again in the backward pass.
            past, future: frames before and after what is wanted of a video: as many as the tail's, or as there are.
        """
        for stage, need in zip(self.stages, self.needs[1:], strict=True):
            h = checkpoint(stage.run, h, use_reentrant=False) if thrifty else stage.run(h)
            grown = [stage.grow * cells for cells in halo]
            halo = [min(cells, need) for cells in grown]
            top, bottom, left, right = (cells - kept for cells, kept in zip(grown, halo, strict=True))
            h = h[..., top : h.shape[-2] - bottom, left : h.shape[-1] - right]
        return h[past : len(h) - future]


@dataclass(frozen=True)
class Statistics:
    """Of one picture: the mean and the reciprocal of the deviation of each group, of each norm of a tail: (groups,), of a video (groups, T)."""

    moments: tuple[tuple[Tensor, Tensor], ...]

    def of_frames(self, frames: slice) -> Statistics:
        """Of some frames of a video."""
        return Statistics(tuple((mean[:, frames], reciprocal[:, frames]) for mean, reciprocal in self.moments))


def norms_of(modules: nn.Module) -> list[nn.GroupNorm]:
    """What looks at the whole picture at once."""
    return [module for module in modules.modules() if isinstance(module, nn.GroupNorm)]


def enter(decode: Callable[[Tensor], Tensor], tail: Tail, z: Tensor) -> tuple[Tensor, Tensor, Statistics]:
    """Decodes one latent: the picture, h, and the statistics of the tail's norms, which see the whole of z.

    A video's decoder calls the tail with a few frames at a time and keeps the last ones of each layer for the next call. h has them all,
    and each has the statistics of those that it was with.
    """
    seen: dict[int, list[tuple[Tensor, Tensor]]] = {}
    entered: list[Tensor] = []

    def look(norm: nn.GroupNorm, arguments: tuple[Tensor, ...]) -> None:
        moments = moments_of(norm, arguments[0])
        if is_video(z):
            moments = tuple(one[:, None].expand(-1, arguments[0].shape[2]) for one in moments)
        seen.setdefault(id(norm), []).append(moments)

    hooks = [tail.entrance.register_forward_pre_hook(lambda _, arguments: entered.append(arguments[0].detach()))]
    hooks += [norm.register_forward_pre_hook(look) for norm in norms_of(tail.modules)]
    try:
        with torch.no_grad():
            picture = decode(z)
    finally:
        for hook in hooks:
            hook.remove()
    moments = (tuple(torch.cat(parts, -1) for parts in zip(*seen[id(norm)], strict=True)) for norm in norms_of(tail.modules))
    return picture, torch.cat(entered, 2) if is_video(z) else entered[0], Statistics(tuple(moments))


class Reached(Exception):
    """Ends a decode whose rest nobody needs."""


def h_of(decode: Callable[[Tensor], Tensor], tail: Tail, z: Tensor) -> Tensor:
    """What the tail gets when one latent is decoded; the tail itself does not run. Where gradients are on, h carries them back to z.

    Of a video the whole decoder runs, without gradients: its tail stands between the frames.
    """
    if is_video(z):
        return enter(decode, tail, z)[1]
    entered: list[Tensor] = []

    def stop(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        entered.append(arguments[0])
        raise Reached

    hook = tail.entrance.register_forward_pre_hook(stop)
    try:
        with suppress(Reached):
            decode(z)
    finally:
        hook.remove()
    return entered[0]


@contextmanager
def held(tail: Tail) -> Iterator[Callable[[Statistics], None]]:
    """Inside, the tail's norms use the statistics that the function given was last called with, not those of what they see."""
    norms = norms_of(tail.modules)

    def hold(statistics: Statistics) -> None:
        for norm, moments in zip(norms, statistics.moments, strict=True):
            norm.forward = partial(normalise, norm, *moments)

    try:
        yield hold
    finally:
        for norm in norms:
            norm.__dict__.pop("forward", None)


def settle(decode: Callable[[Tensor], Tensor], tail: Tail, z: Tensor, statistics: Statistics) -> None:
    """Changes the tail's norms so that the whole decoder draws z as the tail did with these statistics held.

    Tuned weights give the norms other statistics than the first weights did. Each norm's gain and offset take that back,
    one after the other, in one decode of z. Of a video they do for the first frames that the decoder draws together.
    """
    given = {id(norm): moments for norm, moments in zip(norms_of(tail.modules), statistics.moments, strict=True)}
    if not given:
        return

    def correct(norm: nn.GroupNorm, arguments: tuple[Tensor, ...]) -> None:
        if id(norm) not in given:
            return
        mean, reciprocal = (one[:, 0] if one.ndim > 1 else one for one in given.pop(id(norm)))
        live, live_reciprocal = moments_of(norm, arguments[0])
        size = norm.num_channels // norm.num_groups
        norm.bias.add_(norm.weight * (reciprocal * (live - mean)).repeat_interleave(size))
        norm.weight.mul_((reciprocal / live_reciprocal).repeat_interleave(size))

    hooks = [norm.register_forward_pre_hook(correct) for norm in norms_of(tail.modules)]
    try:
        with torch.no_grad():
            decode(z)
    finally:
        for hook in hooks:
            hook.remove()


def moments_of(norm: nn.GroupNorm, h: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the reciprocal of the deviation of each group of one picture."""
    variance, mean = torch.var_mean(h.float().reshape(norm.num_groups, -1), dim=1, unbiased=False)
    return mean, (variance + norm.eps).rsqrt()


def normalise(norm: nn.GroupNorm, mean: Tensor, reciprocal: Tensor, h: Tensor) -> Tensor:
    """A group norm with given statistics, (groups,) or for each frame (groups, T): (B, C, ..., H, W) -> (B, C, ..., H, W)."""

    def beside_h(t: Tensor) -> Tensor:
        return t.reshape(*t.shape, *[1] * (h.ndim - 1 - t.ndim))

    size = norm.num_channels // norm.num_groups
    mean, reciprocal = (beside_h(t.repeat_interleave(size, 0)) for t in (mean, reciprocal))
    gain = beside_h(norm.weight) * reciprocal
    offset = beside_h(norm.bias) - mean * gain
    return torch.addcmul(offset.to(h), h, gain.to(h))


def is_video(z: Tensor) -> bool:
    """Whether a latent (B, C, ..., h, w) has more than one latent frame."""
    return z.ndim == 5 and z.shape[2] > 1


def frames_of(y: Tensor) -> Tensor:
    """The colours of one video, (1, 3 or more, T, H, W), as pictures: (T, 3, H, W)."""
    return y[0, :3].movedim(1, 0)


def picture_of(y: Tensor) -> Tensor:
    """The colours of a decoder's picture, (B, 3 or more, H, W) or with frames (B, 3 or more, T, H, W): of the last frame (B, 3, H, W)."""
    return (y[:, :, -1] if y.ndim == 5 else y)[:, :3]
