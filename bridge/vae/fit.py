"""The two fits in ComfyUI, of the decoder and of the latent: a copy of the user's VAE, steps down when memory runs out, progress and Cancel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from torch import Tensor

from ...bld import reconstruction
from ...bld.edges import Region
from ...bld.reconstruction.decoder import of_video, repeated
from ...bld.reconstruction.objective import OnStep, Outcome, Settings, Step
from ...bld.reconstruction.tail import Tail, is_video, settle
from ..older_comfyui import picture_dtype
from .copies import give_back, load_for_training, share_untuned, trainable_copy
from .live import tell_step
from .pixels import decode_of, latents_of, unsigned
from .plan import GIB, TILES, Costs, Plan, costs_of, decoder_costs, decoder_plans, first_that_fits, latent_costs, latent_plans, reserved
from .tails import tail_of

EMPTY = "The mask is empty, so you get the source unchanged."


@dataclass(frozen=True)
class Fit:
    """The pictures (B, 3, H, W) in 0..1, the VAE that draws them again, remarks for the report, and the plain decode if it was made on the way."""

    picture: Tensor
    vae: comfy.sd.VAE
    remarks: list[str]
    plain: Tensor | None = None


@dataclass(frozen=True)
class Task:
    """What one fit of the decoder is for: candidates that share a source and a mask.

    rows: their places in the batch. z: (N, C, ..., h, w). source: (1, 3, H, W). m: (1, H, W); of the same shape near, 1 in the mask and its
    surroundings, else 0, and share, how much of the edit comes in. frames: of each video, with as many pictures and masks, or one; 1 for pictures.
    """

    rows: list[int]
    z: Tensor
    source: Tensor
    m: Tensor
    near: Tensor
    share: Tensor
    frames: int = 1


def fit_decoder(
    z: Tensor,
    vae: comfy.sd.VAE,
    source: Tensor,
    region: Region,
    iterations: int = 20,
    learning_rate: float = 1e-4,
    background_weight: float = 100.0,
    surroundings: int = 8,
    background_target: float = 40.0,
    memory_budget: float = 0.0,
    feather: int = 8,
    frames: int = 1,
    node_id: str | None = None,
) -> Fit:
    """Tunes the decoder of a copy on the mask's surroundings, anew for each source and mask of the batch.

    z: as `as_samples` returns it; source: (B or 1, 3, H, W); region: of the mask, (B or 1, H, W). frames: of each video, if z is one of videos;
    pictures and masks are then one, those of one video or those of all.
    """
    tail_of(vae, z)
    frames = frames if is_video(z) else 1
    if not (region.m > 0).any():
        return Fit(repeated(source, len(z) * frames), vae, [EMPTY])
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(vae)
        tail = tail_of(copy, z)
        # The inputs were made in inference mode, so autograd cannot save them. It can save clones.
        z, source, m = (t.clone().float() for t in (z, source, region.m))
        load_for_training(copy, 0)
        costs = costs_of(vae, decoder_costs, copy, tail, z)
        untuned = partial(tail.modules.load_state_dict, {name: weight.clone() for name, weight in tail.modules.state_dict().items()})
        tasks = tasks_of(z, source, m, region.nearby(surroundings).float(), region.rise(feather).float(), frames)
        bar = comfy.utils.ProgressBar(iterations * len(tasks))
        settings = Settings(background_weight, iterations, learning_rate, background_target)
        steps = (partial(show_step, bar, number, iterations, node_id) for number in range(len(tasks)))
        fits = [fit_task(copy, tail, costs, task, settings, memory_budget, untuned, on_step) for task, on_step in zip(tasks, steps, strict=True)]
        if len(tasks) == 1:
            give_back(copy, vae)
    if len(tasks) == 1:
        share_untuned(copy, vae, tail.modules)
    return together(tasks, fits, vae)


def fit_task(
    copy: comfy.sd.VAE,
    tail: Tail,
    costs: Costs,
    task: Task,
    settings: Settings,
    memory_budget: float,
    untuned: Callable[[], object],
    on_step: OnStep,
) -> Fit:
    """One fit, with the fastest plan that fits the memory. untuned: gives the copy the weights that it began with."""
    untuned()
    if not (task.m > 0).any():
        return Fit(repeated(task.source, len(task.z) * task.frames), copy, [EMPTY])
    settings = replace(settings, iterations=worthwhile(settings.iterations, settings.lam, task.m))
    plans = reserved(copy, decoder_plans(costs, tail, task.z, task.near), memory_budget)
    (picture, plain, outcome), plan, remarks = first_that_fits(plans, partial(run, copy, tail, task, settings, on_step), untuned)
    return Fit(picture, copy, [*remarks, describe(outcome, plan, "the area around the mask")], plain)


def together(tasks: list[Task], fits: list[Fit], vae: comfy.sd.VAE) -> Fit:
    """The fits of a batch as one, in the order of the batch, as the user's VAE gives pictures. No copy draws them all unless there was one fit."""
    order = torch.tensor([row for task in tasks for row in task.rows]).argsort()

    def batch(parts: list[Tensor | None]) -> Tensor | None:
        if any(part is None for part in parts):
            return None
        return torch.cat(parts).unflatten(0, (len(order), -1))[order].flatten(0, 1).to(vae.output_device, picture_dtype(vae))

    picture, plain = batch([fit.picture for fit in fits]), batch([fit.plain for fit in fits])
    if len(fits) == 1:
        return Fit(picture, fits[0].vae, fits[0].remarks, plain)
    kind = "Picture" if tasks[0].frames == 1 else "Video"
    remarks = [f"{kind} {', '.join(str(row + 1) for row in task.rows)}: {line}" for task, fit in zip(tasks, fits, strict=True) for line in fit.remarks]
    return Fit(picture, vae, [*remarks, "Each source and mask had a fit of its own, so the vae output is your own VAE."], plain)


def tasks_of(z: Tensor, source: Tensor, m: Tensor, near: Tensor, share: Tensor, frames: int) -> list[Task]:
    """The candidates z by source and mask: those whose source and mask are equal come together."""
    groups: list[list[int]] = []
    for row in range(len(z)):
        same = (rows for rows in groups if all(torch.equal(of_video(t, row, frames), of_video(t, rows[0], frames)) for t in (source, m)))
        group = next(same, None)
        if group is None:
            groups.append(group := [])
        group.append(row)
    return [Task(rows, z[rows], *(of_video(t, rows[0], frames) for t in (source, m, near, share)), frames) for rows in groups]


def run(copy: comfy.sd.VAE, tail: Tail, task: Task, settings: Settings, on_step: OnStep, plan: Plan) -> tuple[Tensor, Tensor | None, Outcome]:
    """One attempt within a plan: pictures (N, 3, H, W) in 0..1 on the source's device, and the plain decode if the plan makes it."""
    rows, columns = plan.view
    scale = task.source.shape[-1] // task.z.shape[-1]
    place = (..., *(slice(cells.start * scale, cells.stop * scale) for cells in plan.view))
    seen = task.z[..., rows, columns].to(copy.device)
    x, mask, near, share = (t[place].to(copy.device) for t in (task.source, task.m, task.near, task.share))
    # Without a fit, the edit stays as it was drawn.
    z_init = latents_of(copy, repeated(x, task.frames), task.frames) if settings.iterations > 0 else None
    x_hat, found = reconstruction.look_at(decode_of(copy), tail, seen, z_init, x * 2 - 1, mask, near, share, plan.work.tile)
    outcome = reconstruction.tune_decoder(tail, found, settings, plan.work, on_step)
    drawn = reconstruction.draw(tail, found, x, len(seen) * task.frames, unsigned)
    if outcome.steps > 0:
        first = found[0].candidate
        with plan.work.autocast(copy.device):
            settle(decode_of(copy), tail, seen[first : first + 1], found[0].statistics)
    # The small error that is left along the edge is spread over the mask.
    meet = partial(reconstruction.poisson, on_iteration=comfy.model_management.throw_exception_if_processing_interrupted)
    result = repeated(task.source, len(drawn))
    result[place] = (meet if settings.iterations > 0 else reconstruction.paste)(drawn, x, mask).to(result)
    return result, unsigned(x_hat) if plan.whole else None, outcome


def fit_latent(
    z: Tensor,
    vae: comfy.sd.VAE,
    source: Tensor,
    region: Region,
    iterations: int = 75,
    learning_rate: float = 0.05,
    background_weight: float = 100.0,
    memory_budget: float = 0.0,
    node_id: str | None = None,
) -> Fit:
    """Tunes the latent on the whole picture. Same arguments as `fit_decoder`."""
    if is_video(z):
        raise ValueError(f"samples is a video of {z.shape[2]} latent frames, but method latent takes pictures only: use paste, colour fit, poisson or auto.")
    tail_of(vae)
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(vae)
        tail = tail_of(copy)
        z, x, m = (t.clone().to(copy.device, torch.float32) for t in (z, source * 2 - 1, region.m[:, None]))
        load_for_training(copy, 0)
        plans = reserved(copy, latent_plans(costs_of(vae, latent_costs, copy, tail, z), tail, z), memory_budget)
        settings = Settings(background_weight, worthwhile(iterations, background_weight, m), learning_rate)
        on_step = partial(show_step, comfy.utils.ProgressBar(iterations), 0, iterations, node_id)

        def attempt(plan: Plan) -> tuple[Tensor, Tensor, Outcome]:
            return reconstruction.tune_latent(decode_of(copy), tail, z, x, m, settings, plan.work, on_step)

        (y, _, outcome), plan, remarks = first_that_fits(plans, attempt)
    picture = unsigned(y.clone()).to(vae.output_device, picture_dtype(vae))
    return Fit(picture, vae, [*remarks, describe(outcome, plan, "the background")])


def worthwhile(iterations: int, background_weight: float, m: Tensor) -> int:
    """How many steps to run: none if no background counts, since the edit is there already."""
    return iterations if background_weight > 0 and (m == 0).any() else 0


def ending(outcome: Outcome) -> str:
    """How many steps ran, and why they ended."""
    remedy = ", so the best state was restored; try a lower learning_rate" if outcome.restored else ""
    return f"{outcome.steps} steps, {outcome.reason}{remedy}"


def describe(outcome: Outcome, plan: Plan, where: str) -> str:
    """The fit in words, for the report."""
    parts = [ending(outcome)]
    if outcome.background:
        parts.append(f"{where} went from {outcome.background[0]:.1f} to {outcome.background[-1]:.1f} dB")
    parts.append(f"{'bfloat16' if plan.work.dtype == torch.bfloat16 else 'float32'}, planned with at most {plan.bytes / GIB:.2f} GiB")
    if not plan.whole:
        parts.append("decoded only the area around the mask")
    if plan.work.tile < TILES[0]:
        parts.append(f"in tiles of {plan.work.tile} pixels")
    if plan.work.thrifty:
        parts.append("with activations computed twice to save memory")
    return ", ".join(parts) + "."


def show_step(bar: comfy.utils.ProgressBar, fit: int, iterations: int, node_id: str | None, step: Step) -> None:
    """Tells a progress bar of a step of one of several fits, and the node's display its curve and picture. Cancel works at every step."""
    comfy.model_management.throw_exception_if_processing_interrupted()
    bar.update_absolute(fit * iterations + step.number + 1, bar.total)
    tell_step(step, iterations, node_id)
