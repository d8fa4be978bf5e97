"""Soft masks of every kind that the host's nodes make."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import comfy_extras.nodes_compositing as host_compositing
import comfy_extras.nodes_mask as host_mask
import comfy_extras.nodes_post_processing as host_post
import nodes as host_nodes
import pytest
import torch
import torchvision

from blended_latent_diffusion.bridge.checks import as_mask
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize


def soft_masks() -> dict[str, Callable[[], torch.Tensor]]:
    """A rough mask as each of the host's nodes that can soften one hands it on, and as torchvision does."""
    rough = (torch.rand(1, 24, 40, generator=torch.Generator().manual_seed(1)) > 0.6).float()
    picture = host_mask.MaskToImage.execute(rough).args[0]
    double = {"resize_type": "scale by multiplier", "multiplier": 2.0}

    def resized(method: str) -> torch.Tensor:
        return host_post.ResizeImageMaskNode.execute(rough, method, double).args[0]

    def of_image(image: torch.Tensor) -> torch.Tensor:
        return host_mask.ImageToMask.execute(image, "red").args[0]

    def composited() -> torch.Tensor:
        sources = picture, rough, picture.repeat(1, 2, 2, 1), rough.repeat(1, 2, 2)
        return host_compositing.PorterDuffImageComposite.execute(*sources, mode="SRC_OVER").args[1]

    return {
        **{f"Resize Image/Mask, {method}": partial(resized, method) for method in host_post.ResizeImageMaskNode.scale_methods},
        "Invert Mask": lambda: host_mask.InvertMask.execute(resized("bicubic")).args[0],
        "Feather Mask": lambda: host_mask.FeatherMask.execute(rough, 5, 5, 5, 5).args[0],
        "Grow Mask": lambda: host_mask.GrowMask.execute(resized("bicubic"), 2, True).args[0],
        "Mask Composite": lambda: host_mask.MaskComposite.execute(resized("bicubic"), rough, 8, 8, "subtract").args[0],
        "Batch Masks": lambda: host_post.BatchMasksNode.execute({"mask0": resized("bicubic"), "mask1": rough}).args[0],
        "Blur Image": lambda: of_image(host_post.Blur.execute(picture, 5, 1.0).args[0]),
        "Upscale Image": lambda: of_image(host_nodes.ImageScale().upscale(picture, "bicubic", 96, 60, "disabled")[0]),
        "Split Image with Alpha": lambda: host_compositing.SplitImageWithAlpha.execute(torch.cat([picture, resized("bicubic")[:, ::2, ::2, None]], -1)).args[1],
        "Porter-Duff Image Composite": composited,
        "torchvision's blur": lambda: torchvision.transforms.functional.gaussian_blur(rough, 9, 3.0),
        "torchvision's blur of white": lambda: torchvision.transforms.functional.gaussian_blur(torch.ones(1, 24, 40), 9, 3.0),
    }


@pytest.mark.parametrize("name", soft_masks())
def test_a_soft_mask_of_any_node_is_taken_and_only_its_overshoot_cut(name):
    made = soft_masks()[name]()
    assert torch.equal(as_mask(made), made.float().clamp(0, 1))
    assert LatentMaskResize.execute(made, {"samples": torch.zeros(len(made), 4, made.shape[1] // 4, made.shape[2] // 4)}).args[0].max() <= 1


def test_some_of_them_do_overshoot():
    """Or the host has changed and needs no help."""
    beyond = {name for name, make in soft_masks().items() if make().max() > 1 or make().min() < 0}
    assert {"Resize Image/Mask, bicubic", "Invert Mask", "Porter-Duff Image Composite"} <= beyond


@pytest.mark.parametrize(
    "mask, found",
    [
        (torch.full((1, 8, 8), 255.0), "from 255 to 255"),
        (torch.linspace(0, 255, 64).reshape(1, 8, 8), "from 0 to 255"),
        (torch.linspace(-1, 1, 64).reshape(1, 8, 8), "from -1 to 1"),
        (torch.linspace(0, 1.6, 64).reshape(1, 8, 8), "from 0 to 1.6"),
    ],
)
def test_what_is_no_mask_is_refused_with_its_figures(mask, found):
    with pytest.raises(ValueError, match=f"mask has values {found}, but they must lie between 0 and 1: rescale it"):
        LatentMaskResize.execute(mask, {"samples": torch.zeros(1, 4, 1, 1)})
