from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..bld import reconstruction
from ..bld.metrics import background_psnr
from .checks import as_image_samples, as_mask, as_picture, check_batch
from .types import CATEGORY
from .vae import decoder_of, give_back, load_for_training, trainable_copy

DECODER, LATENT, PASTE = "decoder weights", "latent", "paste"


def _fit_inputs(rate: float, rate_tooltip: str) -> list[io.Input]:
    return [
        io.Int.Input("iterations", default=75, min=0, max=10000, tooltip="Adam steps. The paper: 75, for the decoder weights."),
        io.Float.Input("learning_rate", default=rate, min=0.0, max=1.0, step=0.00001, round=0.0000001, tooltip=rate_tooltip),
        io.Float.Input(
            "background_weight", default=100.0, min=0.0, max=100000.0, step=1.0, tooltip="Lambda, the weight of the background in the loss. The paper: 100."
        ),
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
                        io.DynamicCombo.Option(DECODER, _fit_inputs(1e-4, "Of Adam. The paper: 0.0001.")),
                        io.DynamicCombo.Option(LATENT, _fit_inputs(0.05, "Of Adam, in units of the latent.")),
                        io.DynamicCombo.Option(
                            PASTE, [io.Int.Input("feather", default=0, min=0, max=1024, tooltip="Pixels of transition, all of them inside the mask.")]
                        ),
                    ],
                    tooltip="decoder weights: fine-tunes a copy of the decoder so that it draws this background (the paper). latent: optimises the latent; "
                    "smooth. paste: the source's own pixels outside the mask; exact, but the seam shows.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The edited pictures."),
                io.Vae.Output(display_name="vae", tooltip="The tuned copy with method decoder weights, else the VAE passed in."),
                io.String.Output(display_name="report", tooltip="What was done, with the background's PSNR before and after."),
            ],
        )

    @classmethod
    def execute(cls, samples: dict, vae: comfy.sd.VAE, image: Tensor, mask: Tensor, method: dict) -> io.NodeOutput:
        z = as_image_samples(samples, "samples")
        source = as_picture(vae.vae_encode_crop_pixels(image), "image")
        m = as_mask(mask)
        check_sizes(z, source, m, image, vae)
        m = as_mask(vae.vae_encode_crop_pixels(m[..., None].expand(*m.shape, vae.output_channels))[..., 0])

        plain = vae.decode(z).movedim(-1, 1)
        settings = {key: value for key, value in method.items() if key != "method"}
        if method["method"] == PASTE:
            picture, tuned = reconstruction.paste(plain, source.to(plain), m.to(plain), **settings), vae
        else:
            picture, tuned = fit(method["method"], z, vae, source, m, **settings)
        report = "{}: background {:.2f} dB, was {:.2f} dB as decoded.".format(
            method["method"], *(background_psnr(p.cpu(), source.cpu(), m.cpu()) for p in (picture, plain))
        )
        return io.NodeOutput(picture.movedim(1, -1), tuned, report)


def check_sizes(z: Tensor, source: Tensor, m: Tensor, image: Tensor, vae: comfy.sd.VAE) -> None:
    """Raises ValueError unless the latent, the source (cropped as VAE Encode crops it), the mask and the batches fit together."""
    if z.ndim != 4:
        raise ValueError(f"samples had shape {list(z.shape)}, must be (batch, channels, height, width): one-frame video latents cannot be reconstructed yet.")
    size = [side * vae.spacial_compression_decode() for side in z.shape[-2:]]
    if list(source.shape[-2:]) != size:
        raise ValueError(
            f"image is {image.shape[2]}x{image.shape[1]}, but samples decode to {size[1]}x{size[0]}: give the picture that went into VAE Encode."
        )
    if m.shape[-2:] != image.shape[1:3]:
        raise ValueError(f"mask is {m.shape[-1]}x{m.shape[-2]}, but image is {image.shape[2]}x{image.shape[1]}: give the mask of this picture.")
    check_batch(len(source), len(z), "image", "samples")
    check_batch(len(m), len(z), "mask", "samples")


def fit(
    method: str, z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, iterations: int, learning_rate: float, background_weight: float
) -> tuple[Tensor, comfy.sd.VAE]:
    """The two methods that optimise: pictures (B, 3, H, W) in 0..1, and the VAE that decoded them."""
    decoder_of(vae)
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(vae)
        load_for_training(copy, z)
        # What arrives was made in inference mode, where autograd cannot save it: clones can be.
        z, x, m = (t.clone().to(vae.device, torch.float32) for t in (z, source * 2 - 1, m[:, None]))
        shared = dict(x=x, m=m, lam=background_weight, iterations=iterations, lr=learning_rate, on_step=show_progress(iterations))
        decode = copy.first_stage_model.decode
        if method == LATENT:
            y, tuned = reconstruction.tune_latent(decode, z, **shared)[0], vae
        else:
            theta = list(decoder_of(copy).requires_grad_(True).parameters())
            y, tuned = reconstruction.tune_decoder(decode, theta, z, **shared), copy
            decoder_of(copy).requires_grad_(False)
            give_back(copy, vae)
    return vae.process_output(y.clone()).to(vae.output_device, vae.vae_output_dtype()), tuned


def show_progress(iterations: int) -> Callable[[int, float, Tensor], None]:
    """Progress bar with a live picture; lets Cancel through after every step."""
    bar = comfy.utils.ProgressBar(iterations)

    def on_step(step: int, loss: float, y: Tensor) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None
        if step % 10 == 9:
            pixels = ((y[0].movedim(0, -1).clamp(-1, 1) + 1) * 127.5).byte().cpu().numpy()
            preview = ("JPEG", Image.fromarray(pixels), 512)
        bar.update_absolute(step + 1, iterations, preview)

    return on_step
