from __future__ import annotations

import comfy.sd
from comfy_api.latest import io
from torch import Tensor

from ..bridge.inputs import checked
from ..bridge.older_comfyui import schema
from ..bridge.types import CATEGORY, frames_input
from ..bridge.vae.reconstruct import AUTO, DECODER, LATENT, reconstruct

RATE_SHAPE = "The highest learning rate. It rises over the first five steps and falls to zero at the last. Lower it if the report says that the fit diverged."
RATE_TOOLTIP = f"{RATE_SHAPE} The paper uses 0.0001 throughout."


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


def _memory_input(optional: bool = False) -> io.Input:
    return io.Float.Input(
        "memory_budget",
        default=0.0,
        min=0.0,
        max=1024.0,
        step=0.25,
        round=0.01,
        optional=optional,
        tooltip="The most memory the fit may use, in GiB. If that is tight, the fit works in smaller pieces and takes longer. 0: all memory that is free, so "
        "that other models stay loaded where that is enough.",
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
        return schema(
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
            has_intermediate_output=True,
            inputs=[
                io.Latent.Input("samples", tooltip="The edited latents, straight from the sampler or from CLIP Rank Batch."),
                io.Vae.Input("vae", tooltip="The VAE that encoded the source picture. The node works on a copy, so yours is never changed."),
                io.Image.Input(
                    "image",
                    tooltip="The source picture that went into VAE Encode: one for the whole batch or one per latent. Of a video, all frames, or a single "
                    "picture if it stands still.",
                ),
                io.Mask.Input(
                    "mask",
                    tooltip="The mask at picture size, with the edited area in white: one for the whole batch or one per latent. For a video, one for all "
                    "frames or one per frame.",
                ),
                io.DynamicCombo.Input(
                    "method",
                    options=[
                        io.DynamicCombo.Option(DECODER, [*_fit_inputs(20, 1e-4, RATE_TOOLTIP), *_crop_inputs()]),
                        # Optional, since prompts of older versions lack it.
                        io.DynamicCombo.Option(LATENT, [*_fit_inputs(75, 0.05, RATE_SHAPE), _memory_input(optional=True)]),
                        io.DynamicCombo.Option("paste", [_feather_input()]),
                        io.DynamicCombo.Option("colour fit", [_feather_input()]),
                        io.DynamicCombo.Option("poisson", []),
                        io.DynamicCombo.Option(AUTO, _auto_inputs()),
                    ],
                    tooltip="How to restore the background. decoder weights: fine-tunes a copy of the decoder for this picture (the paper). latent: adjusts "
                    "the latent instead; the result is smoother. paste: copies the source's pixels outside the mask; exact and instant, but the seam can "
                    "show. colour fit: matches the edit's colors to the source, then pastes. poisson: pastes without a seam, but colors inside the mask "
                    "can drift. auto: the cheapest of paste, colour fit, poisson and decoder weights that meets two targets.",
                ),
                io.Boolean.Input(
                    "keep_thin_edits",
                    default=True,
                    optional=True,
                    tooltip="An edit fills whole latent cells, so a thin stroke hides part of it. On: where the mask is at most 3 latent cells thick (24 "
                    "pixels for most VAEs), the node pastes the plain decode, with what the edit changed up to one cell beyond it and a soft edge. Off: the "
                    "method does it all, and every pixel outside the mask is the source's.",
                ),
                frames_input("so that colour fit changes their colors no faster than the source does. Not needed for the latent of a video VAE"),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The edited pictures with the background restored."),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="The fine-tuned copy, if decoder weights were used for one source and mask; otherwise, or if the mask is thin throughout, your "
                    "VAE. The copy draws the area around the mask more like the source, but the image output is closer still.",
                ),
                io.String.Output(
                    display_name="report", tooltip="What the node did, and how close the background and the pixels next to the mask are to the source, in dB."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, samples: dict, vae: comfy.sd.VAE, image: Tensor, mask: Tensor, method: dict, keep_thin_edits: bool = False, frames: int = 1
    ) -> io.NodeOutput:
        settings = {key: value for key, value in method.items() if key != "method"}
        node_id = getattr(getattr(cls, "hidden", None), "unique_id", None)
        *outputs, shown = reconstruct(samples, vae, image, mask, method["method"], settings, keep_thin_edits, frames, node_id)
        return io.NodeOutput(*outputs, ui=shown)
