"""Reconstruction of the background: checks, the table of methods, and the report."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import comfy.model_management
import comfy.sd
import torch
from torch import Tensor

from ...bld import masks, reconstruction
from ...bld.edges import Region
from ...bld.metrics import background_psnr
from ...bld.reconstruction.decoder import repeated
from ..checks import as_mask, as_picture, as_samples, check_batch, frames_of
from ..comparison import comparison, flickers_of, most_of
from ..older_comfyui import picture_dtype
from .fit import Fit, fit_decoder, fit_latent
from .pixels import check_channels, ratios_of, with_channels_of
from .plan import CONTEXT, box_of
from .tails import why_not_tuned

DECODER, LATENT, AUTO = "decoder weights", "latent", "auto"
Plain = Callable[[], Tensor]
# Pixels around the mask that the report looks at on their own.
BAND = 16
# Latent cells that a thin part of a mask is at most thick: a stroke of two cells lies in three of them.
THIN = 3


def reconstruct(
    samples: dict,
    vae: comfy.sd.VAE,
    image: Tensor,
    mask: Tensor,
    method: str,
    settings: dict,
    keep_thin: bool = False,
    frames: int = 1,
    node_id: str | None = None,
) -> tuple[Tensor, comfy.sd.VAE, str, dict]:
    """Decodes edited latents and brings the source's background back.

    Args:
        samples: LATENT of pictures or of videos. image: IMAGE, the source, one for all or one each, of a video its frames.
        mask: MASK at the size of image, one for all or one each.
        method: a key of METHODS. settings: its inputs by name.
        keep_thin: where the mask is thin, paste the plain decode, with what the edit changed up to a latent cell beyond it: beside a stroke, the other
            methods would take back most of an edit.
        frames: of each video, if samples are frames by an image VAE; 1 for pictures, 0 for one video of all. A video VAE's latent knows its own.
        node_id: the node that shows the progress.

    Returns: the IMAGE, the VAE that draws it, the report, and the `ui` output. Raises ValueError for inputs that do not fit together.
    """
    check_vae(vae)
    z = as_samples(samples, "samples")
    check_latent(z, vae)
    every, ratio = ratios_of(vae, z)
    frames = 1 + every * (z.shape[2] - 1) if z.ndim == 5 else frames_of(frames, len(z), "samples")
    source, m = beside(z, ratio, as_picture(image, "image"), as_mask(mask), frames, every)
    areas = areas_of(z, vae, source, m, ratio, frames, keep_thin)
    areas, source = areas.to(vae.output_device, picture_dtype(vae)), source.to(vae.output_device, picture_dtype(vae))
    m, region = areas.m, Region(areas.m)
    plain = functools.cache(lambda: drawn(vae, z, frames).to(source))
    start = time.perf_counter()
    if areas.are_all_thin:
        fit = Fit(plain().clone(), vae, [f"Skipped {method}: the mask is thin throughout, so the plain decode is pasted with a soft edge."])
    else:
        fit = METHODS[method](z, vae, source, region, plain, frames, settings, node_id)
    if areas.thin is not None:
        fit = replace(fit, picture=reconstruction.with_thin(fit.picture, plain(), source, areas.broad, areas.thin), plain=plain())
    seconds = round(time.perf_counter() - start, 3)
    report = f"{method}: background {compared(fit, source, m)}."
    near = f"Within {BAND} pixels of the mask: {compared(fit, source, 1 - region.nearby(BAND) * (m == 0))}."
    flickers = [flickering(fit, source, m, frames)] if frames > 1 else []
    beyond = [] if areas.thin is None else [beyond_paint(areas.painted, m)]
    report = "\n".join([report, near, *flickers, *beyond, *fit.remarks])
    shown = comparison(fit.picture, source, m, fit.plain, frames=frames, method=method, seconds=seconds, report=report)
    return fit.picture.movedim(1, -1), fit.vae, report, shown


@dataclass(frozen=True)
class Areas:
    """What to reconstruct, each (B or 1, H, W) in 0..1: the mask as it was painted; the broad parts of it, for the method; the thin ones with what the
    edit changed beside them, to be pasted from the plain decode, if there are any; and all of it."""

    painted: Tensor
    broad: Tensor
    thin: Tensor | None
    m: Tensor

    @property
    def are_all_thin(self) -> bool:
        """Whether there is nothing for the method."""
        return self.thin is not None and not bool((self.broad > 0).any())

    def to(self, device: torch.device, dtype: torch.dtype) -> Areas:
        """The same elsewhere."""
        return Areas(*(None if t is None else t.to(device, dtype) for t in (self.painted, self.broad, self.thin, self.m)))


def areas_of(z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, ratio: int, frames: int, keep_thin: bool) -> Areas:
    """The areas of a mask (B or 1, H, W). keep_thin: see `reconstruct`; without it, all counts as broad."""
    if not keep_thin or not (thin := masks.thin_parts(m, ratio, THIN)).any():
        return Areas(m, m, None, m)
    wide = followed(z, vae, source, thin, ratio, frames)
    return Areas(m, m - thin, wide, torch.maximum(repeated(m, len(wide)), wide))


def drawn(vae: comfy.sd.VAE, z: Tensor, frames: int) -> Tensor:
    """The pictures of a latent, those of a video latent frame after frame: (B, 3, H, W) in 0..1. Of a single latent frame just the first counts."""
    pictures = vae.decode(z)
    return as_picture(pictures[:, :frames].flatten(0, 1) if pictures.ndim == 5 else pictures, "the decoded picture")


def followed(z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, ratio: int, frames: int) -> Tensor:
    """The mask (B or 1, H, W) with what the edit changed up to a latent cell around it: (B, H, W). Only what lies near the mask is decoded."""
    cells = [slice(max(0, s.start - CONTEXT), s.stop + CONTEXT) for s in box_of((m > 0).any(0), ratio)]
    place = (..., *(slice(s.start * ratio, s.stop * ratio) for s in cells))
    together = frames if z.ndim == 5 else 1
    seen = source[place].expand(max(len(source), together), -1, -1, -1).movedim(1, -1)
    sources = torch.cat([vae.encode(one) for one in with_channels_of(vae, seen).split(together)])
    edit, plain = (drawn(vae, t, together).to(source) for t in (z[(..., *cells)], sources))
    wide = repeated(m, len(edit))
    for i, one in enumerate(wide):
        one[place] = reconstruction.follow(one[place][None], edit[i : i + 1], plain[i % len(plain)][None], ratio)[0]
    return wide


def beyond_paint(painted: Tensor, m: Tensor) -> str:
    """How far the reconstruction went beyond the mask that was given."""
    more = (m > 0) & repeated(painted == 0, len(m))
    if not more.any():
        return "The edit changed nothing beside the thin parts of the mask."
    reach = repeated(Region(painted).outside, len(m))[more.cpu()].max()
    return f"Kept what the edit changed beside the thin parts of the mask: up to {reach:.0f} pixels away, {int(more.sum()) / len(m):.0f} pixels in a picture."


def flickering(fit: Fit, source: Tensor, m: Tensor, frames: int) -> str:
    """How much the seam of a video flickers, and that of the plain decode if there is one."""
    now, *before = (most_of(flickers_of(p.cpu(), source.cpu(), m.cpu(), frames)) for p in (fit.picture, fit.plain) if p is not None)
    return f"From frame to frame the seam changes by at most {now:.2f} levels" + "".join(f" ({levels:.2f} in the plain decode)" for levels in before) + "."


def compared(fit: Fit, source: Tensor, m: Tensor) -> str:
    """How close the pictures are to the source where m = 0, and the plain decode if there is one: a large picture may never be decoded whole."""
    now, *before = (background_psnr(p.cpu(), source.cpu(), m.cpu()) for p in (fit.picture, fit.plain) if p is not None)
    return f"{now:.2f} dB" + "".join(f" ({db:.2f} dB in the plain decode)" for db in before)


def check_vae(vae: comfy.sd.VAE) -> None:
    """Raises ValueError for a VAE of sounds or shapes. Call it first: such a VAE would crop a picture to nothing."""
    vae.throw_exception_if_invalid()
    if vae.latent_dim not in (2, 3) or vae.output_channels < 3:
        raise ValueError(f"vae is a {type(vae.first_stage_model).__name__}, which doesn't decode to pictures: connect an image VAE.")


def check_latent(z: Tensor, vae: comfy.sd.VAE) -> None:
    """Raises ValueError unless the VAE can decode the latent."""
    wanted = "(batch, channels, frames, height, width)" if vae.latent_dim == 3 else "(batch, channels, height, width)"
    if (vae.latent_dim == 3) != (z.ndim == 5):
        raise ValueError(f"samples has shape {list(z.shape)}, but must be {wanted} for this VAE: connect the VAE that encoded the source.")
    check_channels(vae, z, "samples")


def beside(z: Tensor, ratio: int, image: Tensor, mask: Tensor, frames: int, every: int) -> tuple[Tensor, Tensor]:
    """The source (B, 3, H, W) and the mask (B, H, W), cropped as VAE Encode crops, to lie on what z decodes to, `ratio` pixels a cell.

    frames: of each video. every: frames to each latent frame but the first. Raises ValueError unless their sizes and batches fit.
    """
    source, m = (masks.cropped(t, z.shape[-2:], ratio) for t in (image, mask))
    (height, width), (image_height, image_width) = ((ratio * side for side in z.shape[-2:]), image.shape[-2:])
    if source.shape[-2:] != (height, width):
        raise ValueError(f"image is {image_width}x{image_height}, but samples decode to {width}x{height}: connect the picture that was encoded.")
    if mask.shape[-2:] != image.shape[-2:]:
        raise ValueError(f"mask is {mask.shape[-1]}x{mask.shape[-2]}, but image is {image_width}x{image_height}: connect the mask of this picture.")
    pictures = len(z) * frames if z.ndim == 5 else len(z)
    source, m = (as_long(t, frames, every) for t in (source, m))
    check_batch(len(source), pictures, "image", "samples", frames)
    check_batch(len(m), pictures, "mask", "samples", frames)
    return source, m


def as_long(t: Tensor, frames: int, every: int) -> Tensor:
    """The frames of one video, (T, ...), without the last ones, which VAE Encode drops if they fill no latent frame of `every` frames."""
    return t[:frames] if 1 < frames < len(t) < frames + every else t


def by_decoder(z: Tensor, vae: comfy.sd.VAE, source: Tensor, region: Region, plain: Plain, frames: int, settings: dict, node_id: str | None) -> Fit:
    """See `fit_decoder`."""
    return fit_decoder(z, vae, source, region, **settings, frames=frames, node_id=node_id)


def by_latent(z: Tensor, vae: comfy.sd.VAE, source: Tensor, region: Region, plain: Plain, frames: int, settings: dict, node_id: str | None) -> Fit:
    """See `fit_latent`."""
    return replace(fit_latent(z, vae, source, region, **settings, node_id=node_id), plain=plain())


def in_pixels(
    method: str, z: Tensor, vae: comfy.sd.VAE, source: Tensor, region: Region, plain: Plain, frames: int, settings: dict, node_id: str | None
) -> Fit:
    """A method of `reconstruction.IN_PIXELS`."""
    stop = comfy.model_management.throw_exception_if_processing_interrupted
    picture, remarks = reconstruction.IN_PIXELS[method](plain(), source, region.m, frames, stop, **settings)
    return Fit(picture, vae, remarks, plain())


def by_auto(z: Tensor, vae: comfy.sd.VAE, source: Tensor, region: Region, plain: Plain, frames: int, settings: dict, node_id: str | None) -> Fit:
    """The cheapest method that meets the targets, or else the one whose seam shows least. Leaves out what this VAE does not allow."""
    fits: dict[str, Fit] = {}
    left_out = why_not_tuned(vae, z)

    def trial(method: str, options: dict) -> tuple[str, Callable[[], Tensor]]:
        def make() -> Tensor:
            fits[method] = METHODS[method](z, vae, source, region, plain, frames, options, node_id)
            return fits[method].picture

        return method, make

    methods = [trial(method, {}) for method in reconstruction.IN_PIXELS]
    if left_out is None:
        methods.append(trial(DECODER, {"memory_budget": settings["memory_budget"]}))
    trials = reconstruction.cheapest(methods, source, region.m, settings["target_background"], settings["target_seam"])
    best = reconstruction.best_of(trials)
    tried = [f"Tried {one.method}: background {one.background:.2f} dB, seam {level(one.seam)}." for one in trials]
    why = "the first method that meets both targets" if best.met else "no method meets both targets, and its seam shows least"
    if left_out is not None and not best.met:
        tried.append(f"Skipped {DECODER}: {left_out}")
    return Fit(best.picture, fits[best.method].vae, [*tried, f"Chose {best.method}: {why}.", *fits[best.method].remarks], plain())


def level(seam: float) -> str:
    """A seam in words."""
    return "none (the mask has no edge)" if math.isnan(seam) else f"{seam:.2f}"


METHODS: dict[str, Callable[..., Fit]] = {
    DECODER: by_decoder,
    LATENT: by_latent,
    **{method: functools.partial(in_pixels, method) for method in reconstruction.IN_PIXELS},
    AUTO: by_auto,
}
