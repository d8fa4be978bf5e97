from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import comfy.model_management
import comfy.sd
from comfy_api.latest import io
from torch import Tensor

from ..bld import reconstruction
from ..bld.metrics import background_psnr, ring_psnr
from .checks import as_image_samples, as_mask, as_picture, check_batch
from .reconstruction_fit import Fit, fit_decoder, fit_latent
from .types import CATEGORY
from .vae import cropped, tail_of

DECODER, LATENT, PASTE, COLOUR, POISSON, AUTO = "decoder weights", "latent", "paste", "colour fit", "poisson", "auto"
RATE_SHAPE = "The highest learning rate. It rises over the first five steps and falls to zero at the last. Lower it if the report says that the fit diverged."
RATE_TOOLTIP = f"{RATE_SHAPE} The paper uses 0.0001 throughout."
Plain = Callable[[], Tensor]
# Pixels around the mask that the report looks at by themselves.
BAND = 16


def _fit_inputs(iterations: int, rate: float, rate_tooltip: str) -> list[io.Input]:
    return [
        io.Int.Input(
            "iterations",
            default=iterations,
            min=0,
            max=10000,
            tooltip="The most optimizer steps to run. More steps bring the result closer to the source but take longer. 0 skips the fit. The paper runs 75, "
            "on the whole decoder and the whole picture.",
        ),
        io.Float.Input("learning_rate", default=rate, min=0.0, max=1.0, step=0.00001, round=0.0000001, tooltip=rate_tooltip),
        io.Float.Input(
            "background_weight",
            default=100.0,
            min=0.0,
            max=100000.0,
            step=1.0,
            tooltip="How much the background counts against the edit (lambda in the paper). Raise it for a more accurate background; lower it to protect the "
            "edit. 0 skips the fit. The paper uses 100.",
        ),
    ]


def _crop_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "surroundings",
            default=8,
            min=1,
            max=512,
            tooltip="How far around the mask the decoder learns to match the source, in pixels, so that the edit meets the background without a visible "
            "edge. The paper uses the whole picture.",
        ),
        io.Float.Input(
            "background_target",
            default=40.0,
            min=0.0,
            max=200.0,
            step=0.5,
            tooltip="Stops early once the area around the mask is this close to the source, in dB (PSNR, higher is closer). It also stops when the match no "
            "longer improves. The paper never stops early.",
        ),
        _memory_input(),
        _feather_input(8, "Thin masks get less automatically. Use 0 if the mask follows the outline of an object."),
    ]


def _memory_input() -> io.Input:
    return io.Float.Input(
        "memory_budget",
        default=0.0,
        min=0.0,
        max=1024.0,
        step=0.25,
        round=0.01,
        tooltip="The most memory the decoder fit may use, in GiB. If that is tight, the fit works in smaller pieces and takes longer. 0: all free memory.",
    )


def _feather_input(default: int = 0, more: str = "0 gives a hard edge.") -> io.Input:
    return io.Int.Input(
        "feather", default=default, min=0, max=1024, tooltip=f"How many pixels the edit takes to fade in, inward from the mask's edge. {more}"
    )


def _auto_inputs() -> list[io.Input]:
    return [
        io.Float.Input(
            "target_background",
            default=40.0,
            min=0.0,
            max=200.0,
            step=0.5,
            tooltip="How close the background must be to the source, in dB (PSNR, higher is closer). Above 40 dB a difference is hard to see.",
        ),
        io.Float.Input(
            "target_seam",
            default=2.0,
            min=0.0,
            max=255.0,
            step=0.1,
            round=0.01,
            tooltip="How visible the mask's edge may be at most: the color step across it that the source doesn't have, in levels of 255. Lower is stricter.",
        ),
        _memory_input(),
    ]


class DecoderFinetuneReconstruct(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DecoderFinetuneReconstruct",
            display_name="Decoder Finetune Reconstruct",
            category=CATEGORY,
            description="Decodes an edited latent and restores the background of the source picture, which a plain VAE decode alters. Your VAE is not changed.",
            search_aliases=[
                "inpaint",
                "restore background",
                "background reconstruction",
                "vae decode",
                "seam",
                "seamless",
                "paste back",
                "inpaint stitch",
                "fine-tune decoder",
                "blended latent diffusion",
            ],
            inputs=[
                io.Latent.Input("samples", tooltip="The edited latents, straight from the sampler or from CLIP Rank Batch."),
                io.Vae.Input("vae", tooltip="The VAE that encoded the source picture. The node works on a copy, so yours is never changed."),
                io.Image.Input("image", tooltip="The source picture that went into VAE Encode: one for the whole batch or one per latent."),
                io.Mask.Input("mask", tooltip="The mask at picture size, with the edited area in white: one for the whole batch or one per latent."),
                io.DynamicCombo.Input(
                    "method",
                    options=[
                        io.DynamicCombo.Option(DECODER, [*_fit_inputs(20, 1e-4, RATE_TOOLTIP), *_crop_inputs()]),
                        io.DynamicCombo.Option(LATENT, _fit_inputs(75, 0.05, RATE_SHAPE)),
                        io.DynamicCombo.Option(PASTE, [_feather_input()]),
                        io.DynamicCombo.Option(COLOUR, [_feather_input()]),
                        io.DynamicCombo.Option(POISSON, []),
                        io.DynamicCombo.Option(AUTO, _auto_inputs()),
                    ],
                    tooltip="How to restore the background. decoder weights: fine-tunes a copy of the decoder for this picture (the paper). latent: adjusts "
                    "the latent instead; the result is smoother. paste: copies the source's pixels outside the mask; exact and instant, but the seam can "
                    "show. colour fit: matches the edit's colors to the source, then pastes. poisson: pastes without a seam, but colors inside the mask "
                    "can drift. auto: the cheapest of paste, colour fit, poisson and decoder weights that meets two targets.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The edited pictures with the background restored."),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="The fine-tuned copy, if decoder weights were used; otherwise your VAE. The copy draws the area around the mask more like the "
                    "source, but the image output is closer still.",
                ),
                io.String.Output(
                    display_name="report", tooltip="What the node did, and how close the background and the pixels next to the mask are to the source, in dB."
                ),
            ],
        )

    @classmethod
    def execute(cls, samples: dict, vae: comfy.sd.VAE, image: Tensor, mask: Tensor, method: dict) -> io.NodeOutput:
        check_vae(vae)
        z = as_image_samples(samples, "samples")
        source = as_picture(vae.vae_encode_crop_pixels(image), "image")
        m = as_mask(mask)
        check_sizes(z, source, m, image, vae)
        m = cropped(m, vae)

        source, m = (t.to(vae.output_device, vae.vae_output_dtype()) for t in (source, m))
        plain = functools.cache(lambda: as_picture(frames_of(vae.decode(z)), "the decoded picture").to(source))
        settings = {key: value for key, value in method.items() if key != "method"}
        node_id = getattr(getattr(cls, "hidden", None), "unique_id", None)
        fit = METHODS[method["method"]](z, vae, source, m, plain, settings, node_id)
        report = f"{method['method']}: background {compared(background_psnr, fit, source, m)}."
        near = f"Within {BAND} px of the mask {compared(functools.partial(ring_psnr, width=BAND), fit, source, m)}."
        return io.NodeOutput(fit.picture.movedim(1, -1), fit.vae, "\n".join([report, near, *fit.remarks]))


def compared(measure: Callable[[Tensor, Tensor, Tensor], float], fit: Fit, source: Tensor, m: Tensor) -> str:
    """A measure in dB of the pictures, and of the plain decode where there is one: a large picture may never be decoded whole."""
    now, *before = (measure(p.cpu(), source.cpu(), m.cpu()) for p in (fit.picture, fit.plain) if p is not None)
    return f"{now:.2f} dB" + "".join(f", was {db:.2f} dB as decoded" for db in before)


def frames_of(decoded: Tensor) -> Tensor:
    """What a video VAE decodes to, (B, 1, H, W, C), as an IMAGE; pictures as they are."""
    return decoded[:, 0] if decoded.ndim == 5 else decoded


def check_vae(vae: comfy.sd.VAE) -> None:
    """Raises ValueError for a VAE of sounds or shapes. Comes first: such a VAE would crop a picture to nothing."""
    vae.throw_exception_if_invalid()
    if vae.latent_dim not in (2, 3) or vae.output_channels < 3:
        raise ValueError(f"vae is a {type(vae.first_stage_model).__name__}, which draws no pictures: give an image VAE, with any method.")


def check_sizes(z: Tensor, source: Tensor, m: Tensor, image: Tensor, vae: comfy.sd.VAE) -> None:
    """Raises ValueError unless the latent, the source (cropped as VAE Encode crops it), the mask and the batches fit together."""
    wanted = "(batch, channels, 1, height, width)" if vae.latent_dim == 3 else "(batch, channels, height, width)"
    if (vae.latent_dim == 3) != (z.ndim == 5):
        raise ValueError(f"samples had shape {list(z.shape)}, must be {wanted} for this VAE.")
    if z.shape[1] != vae.latent_channels:
        raise ValueError(f"samples had {z.shape[1]} channels, must have {vae.latent_channels} for this VAE.")
    size = [side * vae.spacial_compression_decode() for side in z.shape[-2:]]
    if list(source.shape[-2:]) != size:
        raise ValueError(f"image is {image.shape[2]}x{image.shape[1]}, but samples decode to {size[1]}x{size[0]}: give the picture that went into VAE Encode.")
    if m.shape[-2:] != image.shape[1:3]:
        raise ValueError(f"mask is {m.shape[-1]}x{m.shape[-2]}, but image is {image.shape[2]}x{image.shape[1]}: give the mask of this picture.")
    check_batch(len(source), len(z), "image", "samples")
    check_batch(len(m), len(z), "mask", "samples")


def by_decoder(z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, plain: Plain, settings: dict, node_id: str | None) -> Fit:
    """See `fit_decoder`."""
    return fit_decoder(z, vae, source, m, **settings, node_id=node_id)


def by_latent(z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, plain: Plain, settings: dict, node_id: str | None) -> Fit:
    """See `fit_latent`."""
    return replace(fit_latent(z, vae, source, m, **settings, node_id=node_id), plain=plain())


def by_paste(z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, plain: Plain, settings: dict, node_id: str | None) -> Fit:
    """See `paste`."""
    return Fit(reconstruction.paste(plain(), source, m, **settings), vae, [], plain())


def by_colour(z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, plain: Plain, settings: dict, node_id: str | None) -> Fit:
    """See `colour_fit`."""
    picture, fits = reconstruction.colour_fit(plain(), source, m, **settings)
    return Fit(picture, vae, [f"Picture {i + 1}: gain {', '.join(f'{g:.3f}' for g in one.gain.tolist())}." for i, one in enumerate(fits)], plain())


def by_poisson(z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, plain: Plain, settings: dict, node_id: str | None) -> Fit:
    """See `poisson`."""
    return Fit(reconstruction.poisson(plain(), source, m, comfy.model_management.throw_exception_if_processing_interrupted), vae, [], plain())


def by_auto(z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, plain: Plain, settings: dict, node_id: str | None) -> Fit:
    """The cheapest of the others that meets the targets; else the one whose seam shows least. What this VAE does not allow is left out."""
    fits: dict[str, Fit] = {}
    left_out = why_not_tuned(vae)

    def trial(method: str, options: dict) -> tuple[str, Callable[[], Tensor]]:
        def make() -> Tensor:
            fits[method] = METHODS[method](z, vae, source, m, plain, options, node_id)
            return fits[method].picture

        return method, make

    methods = [trial(PASTE, {}), trial(COLOUR, {}), trial(POISSON, {})]
    if left_out is None:
        methods.append(trial(DECODER, {"memory_budget": settings["memory_budget"]}))
    trials = reconstruction.cheapest(methods, source, m, settings["target_background"], settings["target_seam"])
    best = reconstruction.best_of(trials)
    tried = [f"Tried {one.method}: background {one.background:.2f} dB, seam {level(one.seam)}." for one in trials]
    why = "the first that meets both targets" if best.met else "no method meets both targets, its seam shows least"
    if left_out is not None and not best.met:
        tried.append(f"Left out {DECODER}: {left_out}")
    return Fit(best.picture, fits[best.method].vae, [*tried, f"Took {best.method}: {why}.", *fits[best.method].remarks], plain())


def why_not_tuned(vae: comfy.sd.VAE) -> str | None:
    """What stands against tuning this VAE's decoder, if anything."""
    try:
        tail_of(vae)
    except ValueError as error:
        return str(error)
    return None


def level(seam: float) -> str:
    """A seam in words."""
    return "none, the mask has no edge" if math.isnan(seam) else f"{seam:.2f}"


METHODS: dict[str, Callable[..., Fit]] = {
    DECODER: by_decoder,
    LATENT: by_latent,
    PASTE: by_paste,
    COLOUR: by_colour,
    POISSON: by_poisson,
    AUTO: by_auto,
}
