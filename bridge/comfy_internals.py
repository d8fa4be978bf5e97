"""Every private or unstable name of ComfyUI that this pack touches. When a new ComfyUI breaks the pack, mend it here.

The rest of the pack imports only what ComfyUI's own nodes and other packs rely on: `comfy_api.latest`, `folder_paths`, `latent_preview`,
and the public functions of `comfy.model_management`, `comfy.model_patcher`, `comfy.sample`, `comfy.samplers`, `comfy.sd` and `comfy.utils`.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace

import comfy.controlnet
import comfy.k_diffusion.sampling as k_diffusion
import comfy.model_base
import comfy.model_management
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .older_comfyui import is_oom

# --- A sampling run: its wrapper, its guider, its model calls ---

Guider = comfy.samplers.CFGGuider
MaskFunction = Callable[..., Tensor]


class Blend(comfy.samplers.KSamplerX0Inpaint):
    """ComfyUI's blend at each model call: noises the background with `noise`, calls the model, and puts the source's background into the prediction."""

    def __init__(self, model: comfy.samplers.KSamplerX0Inpaint) -> None:
        """model: the one that ComfyUI hands to a sampler function."""
        super().__init__(model.inner_model, model.sigmas)
        self.latent_image = model.latent_image
        self.noise = model.noise
        self.model_sampling = model.inner_model.inner_model.model_sampling

    def go_to(self, step: int) -> None:
        """Makes `step` of the run the current one. ComfyUI's samplers tell it by their callback, after the step's first call."""

    def mask_of_call(self, sigma: Tensor, denoise_mask: Tensor, model_options: dict) -> tuple[Tensor, dict]:
        """The mask that the call will blend with, and the options that let it blend with just this one."""
        options = dict(model_options)
        function = options.pop("denoise_mask_function", None)
        if function is None:
            return denoise_mask, options
        return function(sigma, denoise_mask, extra_options={"model": self.inner_model, "sigmas": self.sigmas}), options


@dataclass(frozen=True, eq=False)
class Run:
    """What a sampling run starts from.

    Attributes:
        guider: ComfyUI's, of this run alone.
        noise, latent: (B, C, ..., h, w).
        sigmas: (steps + 1,), descending.
        mask: the noise mask, (B or 1, C or 1, ..., h, w), or None.
        nested: whether the latent packs several kinds of data, such as video and audio.
    """

    guider: Guider
    noise: Tensor
    latent: Tensor
    sigmas: Tensor
    mask: Tensor | None
    nested: bool


def change_runs(model: ModelPatcher, key: str, change: Callable[[Run], tuple[Tensor, Tensor, Tensor]]) -> ModelPatcher:
    """A clone of the model. Each sampling run with it starts from the noise, latent and noise mask that `change` returns.

    A change that was set earlier under the same key no longer applies.
    """

    def outer_sample(executor, noise, latent_image, sampler, sigmas, denoise_mask=None, *args, **kwargs):
        nested = len(kwargs.get("latent_shapes") or ()) > 1
        noise, latent_image, mask = change(Run(executor.class_obj, noise, latent_image, sigmas, denoise_mask, nested))
        return executor(noise, latent_image, sampler, sigmas, mask, *args, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
    patched = model.clone()
    patched.remove_wrappers_with_key(kind, key)
    patched.add_wrapper_with_key(kind, key, outer_sample)
    return patched


def chain_mask_function(guider: Guider, make: Callable[[MaskFunction | None], MaskFunction]) -> None:
    """Sets the function that gives each model call of this run its mask. `make` gets the one that another patch has set, if any.

    The guider's options are ComfyUI's copy for this run, so the order of the patches in the workflow does not matter.
    """
    guider.model_options["denoise_mask_function"] = make(guider.model_options.get("denoise_mask_function"))


# Told one noise level for each frame of the latent, the mean of the mask over the frame; LTX-Video is told one for each cell.
LEVEL_PER_FRAME = (comfy.model_base.WAN22, comfy.model_base.CosmosPredict2)


class Told:
    """What a model with a noise level for each part of the latent is told, call by call: the part that is noised, and no other.

    ComfyUI tells such a model the mask that the run starts with. Where the model knows a level for each frame only, all of a frame
    that the mask touches is told, so all of it is noised.
    """

    def __init__(self, model: ModelPatcher) -> None:
        """model: our clone, which blends as the mask function tells."""
        self.frames = isinstance(model.model, LEVEL_PER_FRAME)
        if self.frames:
            model.add_object_patch("scale_latent_inpaint", partial(self.background, model.model))

    def tell(self, guider: Guider, mask: Tensor) -> None:
        """mask: (1 or B, 1 or C, ..., h, w), what the coming call blends with."""
        self.mask = (mask.amax((-2, -1), keepdim=True) > 0).to(mask) if self.frames else mask
        for conditions in guider.conds.values():
            for condition in conditions:
                if "denoise_mask" in condition["model_conds"]:
                    condition["model_conds"]["denoise_mask"].cond = self.mask

    def background(self, inner: comfy.model_base.BaseModel, **given) -> Tensor:
        """The source with the noise of its frames. Where a frame has none, the model's own `scale_latent_inpaint`, which leaves it clean."""
        noised = comfy.model_base.BaseModel.scale_latent_inpaint(inner, **given)
        return torch.where(self.mask > 0, noised, type(inner).scale_latent_inpaint(inner, **given))


def levels_of_call(model_options: dict) -> Tensor:
    """The sigmas of the run that a model call belongs to, (steps + 1,)."""
    return model_options["transformer_options"]["sample_sigmas"]


def mixing_factors(model_sampling, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(signal, noise) at a sigma: how the model's family mixes the two."""
    zero, one = sigma.new_zeros(1), sigma.new_ones(1)
    return model_sampling.noise_scaling(sigma, zero.clone(), one.clone()), model_sampling.noise_scaling(sigma, one.clone(), zero.clone())


def load_again(patcher: ModelPatcher, conds: dict[str, list], shape: Sequence[int]) -> None:
    """Loads the diffusion model again with all that its conditioning needs. Another model that ran between two calls may have pushed it out."""
    others, memory = comfy.sampler_helpers.get_additional_models(conds, patcher.model.get_dtype())
    others += comfy.sampler_helpers.get_additional_models_from_model_options(patcher.model_options) + patcher.get_nested_additional_models()
    comfy.model_management.load_models_gpu([patcher, *others], memory_required=memory + patcher.model.memory_required(list(shape)))


def with_models_beside(model: ModelPatcher, key: str, others: Sequence[ModelPatcher]) -> ModelPatcher:
    """A clone of the model. Whenever ComfyUI loads it to sample, it loads the others together with it, so that they stay."""
    patched = model.clone()
    patched.set_additional_models(key, list(others))
    return patched


def on_several_devices(model: ModelPatcher) -> bool:
    """Whether ComfyUI splits the model's calls over clones on other devices. It would clone every model beside it, too."""
    return bool(model.additional_models.get("multigpu"))


# --- Samplers and their noise ---


def is_stochastic(sampler: comfy.samplers.KSAMPLER) -> bool:
    """Whether a sampler draws noise of its own."""
    return "noise_sampler" in inspect.signature(sampler.sampler_function).parameters


def sampler_noise(name: str, x: Tensor, sigmas: Tensor, seeds: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """The noise that the stochastic sampler `name` would draw for each candidate alone with its seed, for a batch of them."""
    if name.startswith("dpmpp") and "_sde" in name:
        levels = sigmas[sigmas > 0]
        return k_diffusion.BrownianTreeNoiseSampler(x, levels.min(), levels.max(), seed=seeds, cpu=not name.endswith("_gpu"))
    # ComfyUI adds 1 to a seed on a CPU, and a generator takes less than 2^64.
    each = [k_diffusion.default_noise_sampler(x[i : i + 1], seed=min(seed, 2**64 - 2)) for i, seed in enumerate(seeds)]
    return lambda sigma, sigma_next: torch.cat([one(sigma, sigma_next) for one in each])


# --- Conditioning: one part of a batch ---

Pick = Callable[[object], object]


def pick_conditionings(conditionings: list[list], pick: Pick) -> list[list]:
    """CONDITIONINGs in which `pick` has chosen from every tensor, those of their ControlNets included."""
    # ComfyUI runs prompts together only if they share the very same ControlNet.
    controls: dict[int, comfy.controlnet.ControlBase] = {}

    def of(value):
        if isinstance(value, comfy.controlnet.ControlBase):
            if id(value) not in controls:
                controls[id(value)] = of_control(value)
            return controls[id(value)]
        return [of(one) for one in value] if isinstance(value, list) else pick(value)

    def of_control(control: comfy.controlnet.ControlBase) -> comfy.controlnet.ControlBase:
        picked = control.copy()
        picked.cond_hint_original = of(control.cond_hint_original)
        picked.extra_concat_orig = [of(value) for value in control.extra_concat_orig]
        return picked.set_previous_controlnet(of(control.previous_controlnet))

    return [[[of(cond), {key: of(value) for key, value in options.items()}] for cond, options in conditioning] for conditioning in conditionings]


def post_cfg_functions(model_options: dict) -> list[Callable[[dict], Tensor]]:
    """What is applied to the guided prediction, in order."""
    return model_options.get("sampler_post_cfg_function", [])


def with_post_cfg_functions(model_options: dict, functions: list[Callable[[dict], Tensor]]) -> dict:
    """The options with other functions applied to the guided prediction."""
    return {**model_options, "sampler_post_cfg_function": functions}


# --- Patches of a model's calls ---

PACK = __name__.removesuffix("bridge.comfy_internals")
# What a patch may hold but does not change: it's not looked into.
WHOLES = (Tensor, nn.Module, ModelPatcher, comfy.sd.VAE, comfy.sd.CLIP, ModuleType, type)


def patches_of(model: ModelPatcher, model_options: dict | None = None) -> dict[tuple, tuple[str, object]]:
    """Every value that the host's and other packs' patches of a model's calls hold, with the patch's name, by the place where it lies.

    A patch is named after the node that made its function, or after its class. model_options: those of a run, if not the model's own.
    """
    found: dict[tuple, tuple[str, object]] = {}
    seen: set[int] = set()

    def look(value: object, place: tuple, name: str) -> None:
        if (getattr(getattr(value, "func", value), "__module__", None) or "").startswith(PACK):
            return
        name = name or name_of_patch(value)
        if name:
            found[place] = name, value
        if id(value) not in seen:
            seen.add(id(value))
            for key, part in parts_of(value).items():
                look(part, (*place, key), name)

    # The mask function works on what the model answers, not inside its calls.
    options = {key: value for key, value in (model_options or model.model_options).items() if key != "denoise_mask_function"}
    network = model.model.diffusion_model
    for place, value in (("options", options), ("wrappers", model.wrappers), ("callbacks", model.callbacks), ("objects", model.object_patches)):
        look(value, (place,), "")
    # Some patches keep what they remember in the network.
    for key, value in vars(network).items() if found else ():
        if not key.startswith("_"):
            look(value, ("network", key), type(network).__name__)
    return found


def name_of_patch(value: object) -> str:
    """The name of a patch's function or object, and none of a mere container."""
    if isinstance(value, FunctionType | MethodType):
        return value.__qualname__.partition(".")[0]
    return type(value).__name__ if hasattr(value, "__dict__") else ""


def parts_of(value: object) -> Mapping[object, object]:
    """Where a value can hold others: the items of a container, the variables of a function, the attributes of an object."""
    if isinstance(value, WHOLES):
        return {}
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple | set):
        return dict(enumerate(value))
    if isinstance(value, MethodType):
        return {"self": value.__self__}
    if isinstance(value, FunctionType):
        return {index: cell.cell_contents for index, cell in enumerate(value.__closure__ or ()) if cell != CellType()}
    return getattr(value, "__dict__", {})


# --- Memory ---


def bytes_for(model: ModelPatcher) -> float:
    """What ComfyUI could give to a model, for its weights and for its work: the free memory of its device and what it would free there."""
    # ComfyUI forgets a model that nobody holds any more only later on.
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models if entry.model is not None]
    others = [other for other in loaded if other.load_device == model.load_device and not model.is_clone(other)]
    # The weights of dynamic models count as free already.
    return model.get_free_memory(model.load_device) + sum(one.loaded_size() for one in (model, *others) if not one.is_dynamic())


def streams_weights(model: ModelPatcher) -> bool:
    """Whether ComfyUI copies the weights that find no room to the device anew for each model call."""
    management = comfy.model_management
    low = (management.VRAMState.NO_VRAM, management.VRAMState.LOW_VRAM, management.VRAMState.NORMAL_VRAM)
    return model.is_dynamic() or (management.lowvram_available and management.vram_state in low)


def weights_that_stay(memory: float) -> float:
    """Of the memory that there is for a model that is streamed, what ComfyUI gives to its weights in any case."""
    management = comfy.model_management
    return max(0, min(memory * management.MIN_WEIGHT_MEMORY_RATIO, memory - management.minimum_inference_memory()))


def bytes_to_decode(vae: comfy.sd.VAE, shape: Sequence[int]) -> float:
    """What ComfyUI keeps free to decode one latent (C, ..., h, w)."""
    shape = (shape[0], *shape[-2:]) if vae.latent_dim == 2 else shape
    return vae.memory_used_decode((1, *shape), vae.vae_dtype)


def bytes_to_encode(vae: comfy.sd.VAE, shape: Sequence[int]) -> float:
    """What ComfyUI keeps free to encode one video or picture (F, H, W, C)."""
    frames = () if vae.latent_dim == 2 else shape[:1]
    return vae.memory_used_encode((1, shape[-1], *frames, *shape[1:3]), vae.vae_dtype)


def bytes_for_work(memory_required: float) -> float:
    """What ComfyUI keeps free beside the weights for work that takes this much."""
    return max(comfy.model_management.minimum_inference_memory(), memory_required + comfy.model_management.extra_reserved_memory())


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out. ComfyUI knows the errors of GPUs, not those of the CPU."""
    return is_oom(error) or isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


# What ComfyUI hangs on a module that it has loaded (_v, _v_weight, _pins, dynamic_vbars, ...): handles of the user's memory
# on the GPU, which a copy would free when it goes.
HOST_STATE = ("_v", "_pin", "_prefetch", "dynamic_")


def host_state(part: nn.Module) -> list[str]:
    """The names of what ComfyUI has hung on one module."""
    return [name for name in part.__dict__ if name.startswith(HOST_STATE)]


def forget_size(vae: comfy.sd.VAE) -> None:
    """Makes ComfyUI measure a VAE again whose weights have changed."""
    vae.size = None
    vae.patcher.size = 0


# --- The decoders' classes, for vae/tails.py, which knows how each of them is built ---


class Absent:
    """Stands for what this ComfyUI lacks. Nothing is an instance of it."""


def family(module: str, *names: str) -> SimpleNamespace:
    """Names of one of ComfyUI's modules. If one is missing, all are `Absent`: VAEs of this family then can't be tuned, and nothing else is lost."""
    try:
        found = importlib.import_module(module)
        return SimpleNamespace(**{name: getattr(found, name) for name in names})
    except Exception as error:
        logging.warning("Blended Latent Diffusion: the decoders of %s can't be tuned with this ComfyUI: %s", module, error)
        return SimpleNamespace(**dict.fromkeys(names, Absent))


LDM = "comfy.ldm.modules.diffusionmodules.model"
autoencoder = family("comfy.ldm.models.autoencoder", "AutoencodingEngine")
carried = family(LDM, "CarriedConv3d", "conv_carry_causal_3d")
cascade = family("comfy.ldm.cascade.stage_a", "StageA")
hunyuan_image = family("comfy.ldm.hunyuan_video.vae", "Decoder", "PixelUnshuffle2D")
hunyuan_video = family("comfy.ldm.hunyuan_video.vae_refiner", "Decoder", "UpSmpl")
ldm = family(LDM, "Decoder", "Upsample")
ltx = family("comfy.ldm.lightricks.vae.causal_video_autoencoder", "VideoVAE", "UNetMidBlock3D", "mark_conv3d_ended", "unpatchify")
plain = family(LDM, "pytorch_attention")
video = family(LDM, "VideoConv3d")
taesd = family("comfy.taesd.taesd", "TAESD")
wan = family("comfy.ldm.wan.vae", "WanVAE", "Resample")
wan22 = family("comfy.ldm.wan.vae2_2", "WanVAE", "unpatchify")


def frame_convolution(convolution: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """How one frame is convolved, or None if this ComfyUI does not tell: some video decoders' convolutions do not pad by themselves."""
    if isinstance(convolution, carried.CarriedConv3d):
        return lambda h: carried.conv_carry_causal_3d([h], convolution)
    pads = isinstance(convolution, (nn.Conv2d, nn.Conv3d, video.VideoConv3d))
    return convolution if pads else None


def all_frames(layer: nn.Module, h: Tensor, **settings: object) -> Tensor:
    """What one of LTX's layers makes of all frames of h. It would keep the last of them for a call with more."""
    ltx.mark_conv3d_ended(layer)
    try:
        return layer(h, **settings)
    finally:
        for part in layer.modules():
            getattr(part, "temporal_cache_state", {}).clear()


def use_plain_attention(module: nn.Module) -> None:
    """Attention that needs little memory. What ComfyUI may choose instead holds a figure for every pair of cells, or fills all free memory."""
    for part in module.modules():
        if hasattr(part, "optimized_attention") and plain.pytorch_attention is not Absent:
            part.optimized_attention = plain.pytorch_attention


# --- The server ---


def tell(event: str, node_id: str | None, **data: object) -> None:
    """Sends an event to the browser that runs the workflow, if one does: `js/lib/display.js` gives it to the node's display."""
    server = sys.modules.get("server")
    instance = server and getattr(server.PromptServer, "instance", None)
    if node_id is not None and instance is not None:
        instance.send_sync(event, {"node": node_id, **data}, instance.client_id)
