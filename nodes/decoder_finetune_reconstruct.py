from __future__ import annotations

import comfy.sd
from comfy_api.latest import io
from torch import Tensor

from ..bridge.types import CATEGORY
from ..bridge.vae.reconstruct import AUTO, DECODER, LATENT, reconstruct

RATE_TOOLTIP = "Of Adam, at its highest: it rises over five steps and falls to nothing at the last. The paper: constant, for 75 steps of the whole decoder."


def _fit_inputs(iterations: int, rate: float, rate_tooltip: str) -> list[io.Input]:
    return [
        io.Int.Input(
            "iterations", default=iterations, min=0, max=10000, tooltip="Adam steps at most. The paper: 75, of the whole decoder on the whole picture."
        ),
        io.Float.Input("learning_rate", default=rate, min=0.0, max=1.0, step=0.00001, round=0.0000001, tooltip=rate_tooltip),
        io.Float.Input(
            "background_weight", default=100.0, min=0.0, max=100000.0, step=1.0, tooltip="Lambda, the weight of the background in the loss. The paper: 100."
        ),
    ]


def _crop_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "surroundings",
            default=8,
            min=1,
            max=512,
            tooltip="Pixels around the mask that the decoder learns to draw as the source has them, so that the edit meets them. The paper: the whole picture.",
        ),
        io.Float.Input(
            "background_target",
            default=40.0,
            min=0.0,
            max=200.0,
            step=0.5,
            tooltip="Stops once the decoder draws the surroundings this near to the source, in dB. It also stops when that gets no better. Not in the paper.",
        ),
        _memory_input(),
        _feather_input(8, ", fewer where it is thin. 0: for a mask that follows an outline"),
    ]


def _memory_input() -> io.Input:
    return io.Float.Input(
        "memory_budget",
        default=0.0,
        min=0.0,
        max=1024.0,
        step=0.25,
        round=0.01,
        tooltip="GiB that the fit may take, found before its first step: with less it works in tiles and computes more. 0: all that is free.",
    )


def _feather_input(default: int = 0, more: str = "") -> io.Input:
    return io.Int.Input("feather", default=default, min=0, max=1024, tooltip=f"Pixels of transition, all of them inside the mask{more}.")


def _auto_inputs() -> list[io.Input]:
    return [
        io.Float.Input("target_background", default=40.0, min=0.0, max=200.0, step=0.5, tooltip="The least PSNR of the unmasked area, in dB."),
        io.Float.Input(
            "target_seam",
            default=2.0,
            min=0.0,
            max=255.0,
            step=0.1,
            round=0.01,
            tooltip="The most that the mask's edge may show, in levels of 255: the step across it beyond the source's own.",
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
            description="Decodes edited latents and brings the source's background back, which a VAE alone changes. The VAE passed in stays as it is.",
            search_aliases=["background reconstruction", "vae decode", "seamless", "inpaint stitch", "fine-tune decoder", "blended latent diffusion"],
            inputs=[
                io.Latent.Input("samples", tooltip="Edited latents, as they came from the sampler."),
                io.Vae.Input("vae", tooltip="The VAE that made the source latent. It is never changed."),
                io.Image.Input("image", tooltip="The source picture, as it went into VAE Encode: one for all, or one each."),
                io.Mask.Input("mask", tooltip="The mask at picture size; white was edited."),
                io.DynamicCombo.Input(
                    "method",
                    options=[
                        io.DynamicCombo.Option(DECODER, [*_fit_inputs(20, 1e-4, RATE_TOOLTIP), *_crop_inputs()]),
                        io.DynamicCombo.Option(LATENT, _fit_inputs(75, 0.05, "Of Adam, in units of the latent; falls to nothing at the last step.")),
                        io.DynamicCombo.Option("paste", [_feather_input()]),
                        io.DynamicCombo.Option("colour fit", [_feather_input()]),
                        io.DynamicCombo.Option("poisson", []),
                        io.DynamicCombo.Option(AUTO, _auto_inputs()),
                    ],
                    tooltip="decoder weights: fine-tunes a copy of the decoder so that it draws this background (the paper). latent: optimises the latent; "
                    "smooth. paste: the source's own pixels outside the mask; exact, but the seam shows. colour fit: a paste after the edit was brought to the "
                    "source's tone. poisson: a paste without a seam, whose colours drift. auto: the cheapest of paste, colour fit, poisson and decoder weights "
                    "that meets two targets.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The edited pictures."),
                io.Vae.Output(
                    display_name="vae",
                    tooltip="With method decoder weights the tuned copy, for VAE Decode: around the mask it draws more like the source, elsewhere "
                    "about what the VAE passed in draws. The image is nearer: there, what the edit drew beside the mask is left out. Else the VAE passed in.",
                ),
                io.String.Output(
                    display_name="report", tooltip="What was done, with the background's PSNR before and after, and that of the pixels next to the mask."
                ),
            ],
        )

    @classmethod
    def execute(cls, samples: dict, vae: comfy.sd.VAE, image: Tensor, mask: Tensor, method: dict) -> io.NodeOutput:
        settings = {key: value for key, value in method.items() if key != "method"}
        node_id = getattr(getattr(cls, "hidden", None), "unique_id", None)
        return io.NodeOutput(*reconstruct(samples, vae, image, mask, method["method"], settings, node_id))
