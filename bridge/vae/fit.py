"""The two fits in ComfyUI, of the decoder and of the latent: a copy of the user's VAE, steps down when memory runs out, progress and Cancel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from ...bld import reconstruction
from ...bld.reconstruction.objective import OnStep, Outcome, Settings, Step
from ...bld.reconstruction.tail import Tail, settle
from ..comfy_internals import out_of_memory, show_text
from ..older_comfyui import picture_dtype
from .copies import give_back, load_for_training, share_untuned, trainable_copy
from .pixels import decode_of, latents_of, unsigned
from .plan import GIB, TILES, Plan, affordable, make_plans
from .tails import tail_of


@dataclass(frozen=True)
class Fit:
    """The pictures (B, 3, H, W) in 0..1, the VAE that draws them again, remarks for the report, and the plain decode if it was made on the way."""

    picture: Tensor
    vae: comfy.sd.VAE
    remarks: list[str]
    plain: Tensor | None = None


def fit_decoder(
    z: Tensor,
    vae: comfy.sd.VAE,
    source: Tensor,
    m: Tensor,
    iterations: int = 20,
    learning_rate: float = 1e-4,
    background_weight: float = 100.0,
    surroundings: int = 8,
    background_target: float = 40.0,
    memory_budget: float = 0.0,
    feather: int = 8,
    node_id: str | None = None,
) -> Fit:
    """Tunes the decoder of a copy on the mask's surroundings. z: as `as_image_samples` returns it; source: (B or 1, 3, H, W); m: (B or 1, H, W)."""
    tail_of(vae)
    if not (m > 0).any():
        return Fit(source.expand(len(z), -1, -1, -1).clone(), vae, ["The mask is empty, so you get the source unchanged."])
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(vae)
        tail = tail_of(copy)
        # The inputs were made in inference mode, so autograd cannot save them. It can save clones.
        z, source, m = (t.clone().float() for t in (z, source, m))
        load_for_training(copy, 0)
        plans = make_plans(copy, tail, z, m, surroundings)
        load_for_training(copy, plans[0].bytes)
        plans = affordable(plans, memory_budget, comfy.model_management.get_free_memory(copy.device))
        settings = Settings(background_weight, worthwhile(iterations, background_weight, m), learning_rate, background_target)
        before = {name: weight.clone() for name, weight in tail.modules.state_dict().items()}
        remarks = []
        for number, plan in enumerate(plans):
            try:
                picture, plain, outcome = run(copy, tail, z, source, m, surroundings, feather, settings, plan, show_progress(iterations, node_id))
                break
            except Exception as error:
                if not out_of_memory(error) or number == len(plans) - 1:
                    raise
                remarks = ["Memory ran out, so the fit started again with a plan that needs less."]
            # Outside the handler, which holds on to everything that the failed attempt made.
            tail.modules.load_state_dict(before)
            comfy.model_management.soft_empty_cache()
        give_back(copy, vae)
    share_untuned(copy, vae, tail.modules)
    picture, plain = (t if t is None else t.to(vae.output_device, picture_dtype(vae)) for t in (picture, plain))
    return Fit(picture, copy, [*remarks, describe(outcome, plan)], plain)


def run(
    copy: comfy.sd.VAE, tail: Tail, z: Tensor, source: Tensor, m: Tensor, ring: int, feather: int, settings: Settings, plan: Plan, on_step: OnStep
) -> tuple[Tensor, Tensor | None, Outcome]:
    """One attempt within a plan: pictures (B, 3, H, W) in 0..1 on the source's device, and the plain decode if the plan makes it."""
    rows, columns = plan.view
    scale = source.shape[-1] // z.shape[-1]
    place = (..., *(slice(cells.start * scale, cells.stop * scale) for cells in plan.view))
    seen, x, mask = z[..., rows, columns].to(copy.device), source[place].to(copy.device), m[place].to(copy.device)
    # Without a fit, the edit stays as it was drawn.
    z_init = latents_of(copy, x) if settings.iterations > 0 else None
    x_hat, found = reconstruction.look_at(decode_of(copy), tail, seen, z_init, x * 2 - 1, mask, ring, feather, plan.work.tile)
    outcome = reconstruction.tune_decoder(tail, found, settings, plan.work, on_step)
    drawn = reconstruction.draw(tail, found, x, len(z), unsigned)
    if outcome.steps > 0:
        first = found[0].candidate
        with plan.work.autocast(copy.device):
            settle(decode_of(copy), tail, seen[first : first + 1], found[0].statistics)
    # The small error that is left along the edge is spread over the mask.
    meet = partial(reconstruction.poisson, on_iteration=comfy.model_management.throw_exception_if_processing_interrupted)
    result = source.expand(len(z), -1, -1, -1).clone()
    result[place] = (meet if settings.iterations > 0 else reconstruction.paste)(drawn, x, mask).to(result)
    return result, unsigned(x_hat) if plan.whole else None, outcome


def fit_latent(
    z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, iterations: int, learning_rate: float, background_weight: float, node_id: str | None = None
) -> Fit:
    """Tunes the latent on the whole picture. Same arguments as `fit_decoder`."""
    tail_of(vae)
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(vae)
        z, x, m = (t.clone().to(copy.device, torch.float32) for t in (z, source * 2 - 1, m[:, None]))
        load_for_training(copy, 2 * comfy.model_management.module_size(copy.first_stage_model))
        settings = Settings(background_weight, worthwhile(iterations, background_weight, m), learning_rate)
        y, _, outcome = reconstruction.tune_latent(decode_of(copy), z, x, m, settings, show_progress(iterations, node_id))
    return Fit(unsigned(y.clone()).to(vae.output_device, picture_dtype(vae)), vae, [f"{ending(outcome)}."])


def worthwhile(iterations: int, background_weight: float, m: Tensor) -> int:
    """How many steps to run: none if no background counts, since the edit is there already."""
    return iterations if background_weight > 0 and (m == 0).any() else 0


def ending(outcome: Outcome) -> str:
    """How many steps ran, and why they ended."""
    remedy = ", so the best state was restored; try a lower learning_rate" if outcome.restored else ""
    return f"{outcome.steps} steps, {outcome.reason}{remedy}"


def describe(outcome: Outcome, plan: Plan) -> str:
    """The fit in words, for the report."""
    parts = [ending(outcome)]
    if outcome.background:
        parts.append(f"the area around the mask went from {outcome.background[0]:.1f} to {outcome.background[-1]:.1f} dB")
    parts.append(f"{'bfloat16' if plan.work.dtype == torch.bfloat16 else 'float32'}, planned with at most {plan.bytes / GIB:.2f} GiB")
    if not plan.whole:
        parts.append("decoded only the area around the mask")
    if plan.work.tile < TILES[0]:
        parts.append(f"in tiles of {plan.work.tile} pixels")
    if plan.work.thrifty:
        parts.append("with activations computed twice to save memory")
    return ", ".join(parts) + "."


def show_progress(iterations: int, node_id: str | None) -> OnStep:
    """A progress bar with a live picture, step, loss and background dB. Cancel works at every step."""
    bar = comfy.utils.ProgressBar(iterations)

    def on_step(step: Step) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None
        if step.number % 10 == 0:
            pixels = ((step.picture[0].movedim(0, -1).float().clamp(-1, 1) + 1) * 127.5).byte().cpu().numpy()
            preview = ("JPEG", Image.fromarray(pixels), 512)
        bar.update_absolute(step.number + 1, iterations, preview)
        show_text(f"step {step.number + 1} of {iterations}, loss {step.loss:.3g}, background {step.background:.1f} dB", node_id)

    return on_step
