"""What the browser's before and after is given: pictures that show what they are called, and the figures of bld."""

from __future__ import annotations

from pathlib import Path

import folder_paths
import numpy as np
import pytest
import torch
from PIL import Image

from blended_latent_diffusion.bld.metrics import figures, seam
from blended_latent_diffusion.bridge.comparison import SHOWN, comparison, error_map, seam_picture
from blended_latent_diffusion.nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from conftest import Edit


def opened(file: dict) -> np.ndarray:
    path = Path(folder_paths.get_directory_by_type(file["type"]), file["subfolder"], file["filename"])
    return np.asarray(Image.open(path), np.float32) / 255


def reconstructed(edit: Edit, method: dict, count: int = 1) -> tuple[torch.Tensor, dict]:
    """The pictures and what the display gets."""
    latent = {"samples": (edit.latent["samples"] * 0.7).expand(count, -1, -1, -1)}
    with torch.inference_mode():
        out = DecoderFinetuneReconstruct.execute(latent, edit.vae, edit.image, edit.mask, method)
    (shown,) = out.ui["comparison"]
    return out.args[0], shown


def test_the_layers_are_the_source_the_plain_decode_and_the_result(edit):
    image, shown = reconstructed(edit, {"method": "paste", "feather": 0}, 2)
    with torch.inference_mode():
        decode = edit.vae.decode(edit.latent["samples"] * 0.7)
    assert shown["count"] == 2 and len(shown["pictures"]) == 2
    for one in shown["pictures"]:
        for name, expected in {"source": edit.image, "decode": decode, "result": image}.items():
            assert np.abs(opened(one["files"][name]) - expected[0].numpy()).mean() < 0.02, name
        for name, expected in {"decode": decode, "result": image}.items():
            measured = figures(expected[:1].movedim(-1, 1), edit.image.movedim(-1, 1), edit.mask)
            assert one["figures"][name]["seam"] == pytest.approx(measured.seam, abs=1e-3)
    assert shown["pictures"][0]["figures"]["result"]["background_psnr"] == 150, "exact"
    assert shown["method"] == "paste" and shown["seconds"] > 0 and "plain decode" in shown["report"]


def test_the_layers_error_and_seam_are_those_of_the_result():
    x, m = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 64, 64)
    m[:, 16:48, 16:48] = 1
    x_hat, decode = x + 0.02 + 0.3 * m[:, None], x - 0.04
    files = comparison(x_hat, x, m, decode)["comparison"][0]["pictures"][0]["files"]
    for name, draw in {"error": error_map, "seam": seam_picture}.items():
        assert np.abs(opened(files[name]) - draw(x_hat, x, m).numpy()).mean() < 0.01, name


def test_of_a_large_batch_the_first_pictures_are_shown():
    shown = comparison(torch.rand(SHOWN + 3, 3, 32, 32), torch.rand(1, 3, 32, 32), torch.zeros(1, 32, 32))["comparison"][0]
    assert shown["count"] == SHOWN + 3 and len(shown["pictures"]) == SHOWN
    assert shown["pictures"][0]["figures"]["result"]["seam"] is None and "decode" not in shown["pictures"][0]["files"]


def test_the_seam_is_red_where_it_shows_and_green_where_it_does_not():
    x, m = torch.full((1, 3, 64, 64), 0.5), torch.zeros(1, 64, 64)
    m[:, 16:48, 16:48] = 1
    x_hat = x.clone()
    x_hat[:, :, 16:48, 16:32] += 30 / 255
    red, green, _ = seam_picture(x_hat, x, m).unbind(-1)
    assert red[30, 16] > 0.9 > 0.3 > green[30, 16] and green[30, 47] > 0.7 > 0.3 > red[30, 47]
    assert float((red - green).abs()[(red - green).abs() < 0.01].numel()) > 0.8 * 64 * 64, "all else is gray"
    assert seam(x_hat, x, m) > 5
