"""Apply Mask Schedule beside other patches and in every sampler node of the host, on a tiny SD 1.5."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.lora
import comfy.ops
import comfy.sd
import nodes as host_nodes
import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
from comfy_extras.nodes_freelunch import FreeU_V2
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, RescaleCFG
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from families import HEADS, UNET, Loaded, load, random_weight
from torch import Tensor

from blended_latent_diffusion.nodes.apply_mask_schedule import ApplyMaskSchedule
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate

SEED, STEPS, CFG = 5, 4, 3.0
MASK = torch.zeros(1, 12, 16)
MASK[:, 2, 2:12] = 1
MASK[:, 5:8, 4:7] = 1


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    """As in a running workflow."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def tiny() -> Loaded:
    return load("SD1.5")


def ours(model: Any, mask: Tensor = MASK, **options) -> Any:
    return ApplyMaskSchedule.execute(model, ProgressiveMaskDilate.execute(mask, stages=2).args[0], **options).args[0]


def lora(model: Any) -> Any:
    """A LoRA of rank 2 on every attention of the UNet, through the host's own loader."""
    generator, weights = torch.Generator().manual_seed(1), {}
    shapes = {f"diffusion_model.{key}": weight.shape for key, weight in model.model.diffusion_model.state_dict().items()}
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        if name.startswith("lora_unet") and key.endswith(("to_q.weight", "to_v.weight")):
            weights[f"{name}.lora_up.weight"] = torch.randn(shapes[key][0], 2, generator=generator)
            weights[f"{name}.lora_down.weight"] = torch.randn(2, shapes[key][1], generator=generator)
    return comfy.sd.load_lora_for_models(model, None, weights, 1.0, 0.0)[0]


PATCHES: dict[str, Callable[[Any], Any]] = {
    "DifferentialDiffusion": lambda model: DifferentialDiffusion.execute(model).args[0],
    "half DifferentialDiffusion": lambda model: DifferentialDiffusion.execute(model, 0.5).args[0],
    "LoRA": lora,
    "FreeU_V2": lambda model: FreeU_V2.execute(model, 1.3, 1.4, 0.9, 0.2).args[0],
    "RescaleCFG": lambda model: RescaleCFG().patch(model, 0.7)[0],
    "PerturbedAttention": lambda model: PerturbedAttentionGuidance.execute(model, 3.0).args[0],
    "ModelSamplingDiscrete": lambda model: ModelSamplingDiscrete().patch(model, "v_prediction", False)[0],
}


def ksampler(model: Any, loaded: Loaded, scheduler: str = "normal", **changes) -> Tensor:
    given = {"positive": loaded.positive, "negative": loaded.negative, "latent": loaded.latent} | changes
    return host_nodes.KSampler().sample(model, SEED, STEPS, CFG, "euler", scheduler, given["positive"], given["negative"], given["latent"], 1.0)[0]["samples"]


def advanced(model: Any, loaded: Loaded, latent: dict, start: int, end: int) -> dict:
    first, last = ("enable" if start == 0 else "disable"), ("enable" if end < STEPS else "disable")
    conditions = (loaded.positive, loaded.negative)
    return host_nodes.KSamplerAdvanced().sample(model, first, SEED, STEPS, CFG, "euler", "normal", *conditions, latent, start, end, last)[0]


def split(model: Any, loaded: Loaded) -> Tensor:
    """Two samplers, the second of which goes on from the noise that the first left."""
    return advanced(model, loaded, advanced(model, loaded, loaded.latent, 0, 2), 2, STEPS)["samples"]


def custom_sampler(model: Any, loaded: Loaded, guider: Any) -> Tensor:
    noise = custom.RandomNoise.execute(SEED).args[0]
    sampler = custom.KSamplerSelect.execute("euler").args[0]
    sigmas = custom.BasicScheduler.execute(model, "normal", STEPS, 1.0).args[0]
    return custom.SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, loaded.latent).args[0]["samples"]


def basic_guider(model: Any, loaded: Loaded) -> Tensor:
    return custom_sampler(model, loaded, custom.BasicGuider.execute(model, loaded.positive).args[0])


def cfg_guider(model: Any, loaded: Loaded) -> Tensor:
    return custom_sampler(model, loaded, custom.CFGGuider.execute(model, loaded.positive, loaded.negative, CFG).args[0])


def check_background(loaded: Loaded, result: Tensor) -> None:
    """The source outside the mask, but for some roundings of numbers up to 4 in the model's units (half a millionth each); inside not."""
    units = loaded.model.model.process_latent_in
    apart = (units(result) - units(loaded.latent["samples"])).abs()
    assert torch.isfinite(result).all()
    assert apart[(MASK == 0).expand_as(apart)].max() <= 5e-6
    assert (apart[(MASK > 0).expand_as(apart)] > 5e-6).float().mean() > 0.99


@pytest.mark.promise("any-sampler")
@pytest.mark.parametrize("node", [ksampler, basic_guider, cfg_guider, lambda model, loaded: advanced(model, loaded, loaded.latent, 0, STEPS)["samples"]])
def test_the_schedule_works_in_every_sampler_node_of_the_host(tiny, node):
    check_background(tiny, node(ours(tiny.model), tiny))


def test_all_sampler_nodes_give_the_same(tiny):
    patched = ours(tiny.model)
    whole = ksampler(patched, tiny)
    assert torch.equal(whole, cfg_guider(patched, tiny))
    assert torch.equal(whole, advanced(patched, tiny, tiny.latent, 0, STEPS)["samples"])


def test_a_split_run_that_knows_the_source_keeps_it(tiny):
    check_background(tiny, split(ours(tiny.model, source=tiny.latent), tiny))


@pytest.mark.parametrize("scheduler", ["normal", "ddim_uniform"])
@pytest.mark.parametrize("name", PATCHES)
def test_the_order_of_patches_does_not_matter(tiny, name, scheduler):
    patch = PATCHES[name]
    behind, in_front = ksampler(patch(ours(tiny.model)), tiny, scheduler), ksampler(ours(patch(tiny.model)), tiny, scheduler)
    assert torch.equal(behind, in_front)
    check_background(tiny, behind)


@pytest.mark.parametrize("name", PATCHES)
def test_the_other_patch_still_works(tiny, name):
    """Under a soft mask, since Differential Diffusion leaves one of 0 and 1 as it is."""
    soft = MASK * 0.4
    assert not torch.equal(ksampler(PATCHES[name](ours(tiny.model, soft)), tiny), ksampler(ours(tiny.model, soft), tiny))


def test_differential_diffusion_works_on_the_mask_of_the_stage(tiny):
    """A mask of 0.4 joins in when 40 % of the way is left, until then it is source: the pixels of each stage, not of the thin mask."""
    seen = []
    watched = DifferentialDiffusion.execute(ours(tiny.model, MASK * 0.4)).args[0]
    inner = watched.model_options["denoise_mask_function"]

    def watch(sigma: Tensor, denoise_mask: Tensor, extra_options: dict) -> Tensor:
        seen.append((int((denoise_mask[0, 0] > 0).sum()), float(inner(sigma, denoise_mask, extra_options=extra_options)[0, 0].sum())))
        return inner(sigma, denoise_mask, extra_options=extra_options)

    watched.set_model_denoise_mask_function(watch)
    ksampler(watched, tiny, "ddim_uniform")
    given, kept = zip(*seen, strict=True)
    assert given[0] > given[-1] == int(MASK.sum()) and all(wide >= thin for wide, thin in pairwise(given)), "the schedule reaches it"
    assert kept[0] == 0 and kept[-1] == given[-1], "and it counts"


def state(model: Any) -> str:
    """What a patch might have changed in a model: options, wrappers, patches, objects and weights."""
    kept = (model.model_options, model.wrappers, model.callbacks, sorted(model.patches), sorted(model.object_patches), model.attachments)
    digest = hashlib.sha256(repr(kept).encode())
    for weight in model.model.state_dict().values():
        digest.update(weight.cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def test_the_model_passed_in_is_untouched(tiny):
    before = state(tiny.model)
    for patch in PATCHES.values():
        ksampler(patch(ours(tiny.model)), tiny)
        BlendedLatentKSampler.execute(ours(tiny.model), SEED, STEPS, CFG, "euler", "normal", tiny.positive, tiny.negative, tiny.latent, mask=MASK)
    tiny.model.unpatch_model()
    assert state(tiny.model) == before


def test_a_patch_stays_as_it_was_after_sampling(tiny):
    patched = ours(DifferentialDiffusion.execute(tiny.model).args[0])
    before = dict(patched.model_options)
    ksampler(patched, tiny)
    assert patched.model_options == before, "the mask function is set for the sampling only"


@pytest.fixture(scope="module")
def control() -> comfy.controlnet.ControlNet:
    """A tiny ControlNet of the host's own class."""
    sizes = {key: value for key, value in (UNET | HEADS).items() if key not in ("out_channels", "transformer_depth_output")}
    with torch.inference_mode():
        network = comfy.cldm.cldm.ControlNet(**sizes, hint_channels=3, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        generator = torch.Generator().manual_seed(2)
        network.load_state_dict({key: random_weight(key, value, generator) for key, value in network.state_dict().items()})
        return comfy.controlnet.ControlNet(network, load_device=load("SD1.5").model.load_device)


def controlled(control: Any, loaded: Loaded, hints: Tensor) -> dict[str, Any]:
    positive, negative = host_nodes.ControlNetApplyAdvanced().apply_controlnet(loaded.positive, loaded.negative, control, hints, 1.0, 0.0, 1.0)
    return {"positive": positive, "negative": negative}


def hints(count: int) -> Tensor:
    return torch.rand(count, 96, 128, 3, generator=torch.Generator().manual_seed(3))


def test_the_schedule_works_with_a_controlnet(tiny, control):
    result = ksampler(ours(tiny.model), tiny, **controlled(control, tiny, hints(1)))
    check_background(tiny, result)
    assert not torch.equal(result, ksampler(ours(tiny.model), tiny)), "the ControlNet counts"


@pytest.mark.parametrize("chunk_size", [0, 1, 3])
def test_a_hint_for_each_source_follows_it_into_every_chunk(tiny, control, chunk_size):
    """Two sources with a hint each, two candidates of each."""

    def sample(latent: dict, hints: Tensor, seed: int, **options) -> tuple[Tensor, list[int]]:
        given = controlled(control, tiny, hints) | {"latent_image": latent, "mask": MASK} | options
        latent, seeds = BlendedLatentKSampler.execute(tiny.model, seed, STEPS, CFG, "euler", "normal", **given).args
        return latent["samples"], seeds

    pictures = hints(2)
    together, seeds = sample(tiny.latent, pictures, SEED, candidates=2, chunk_size=chunk_size)
    for index, seed in enumerate(seeds):
        row = index // 2
        (alone,), _ = sample({"samples": tiny.latent["samples"][row : row + 1]}, pictures[row : row + 1], seed)
        apart = (together[index] - alone).abs().max()
        assert apart < 1e-4 * alone.abs().max(), f"candidate {index}: {apart:.2g}"
