"""The fits on the host: a copy of the user's VAE, the memory there is, progress and Cancel."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from PIL import Image
from torch import Tensor

from ..bld import reconstruction
from ..bld.metrics import psnr
from ..bld.reconstruction.crop import Box, nearby, span
from ..bld.reconstruction.decoder import Work
from ..bld.reconstruction.memory import peak_bytes
from ..bld.reconstruction.objective import OnStep, Outcome, Settings, Step, trainable
from ..bld.reconstruction.tail import Tail, enter, picture_of, settle
from .vae import give_back, load_for_training, share_untuned, tail_of, trainable_copy

GIB = 1 << 30
# Cells of the latent around the mask's surroundings, where the whole picture's decode does not fit: enough for the decoder's middle to see.
CONTEXT = 12
# Sides of a small latent, to measure memory on.
PROBES = 8, 16
# Bytes that kernels and threads take once, whatever the size.
RUNTIME = 256 << 20
# Pixels a side, from the cheapest in time to the smallest.
TILES = 1 << 20, 1024, 512, 256, 128, 64


@dataclass(frozen=True)
class Fit:
    """The pictures (B, 3, H, W) in 0..1, the VAE to draw them again, what there is to say, and the plain decode where it was made on the way."""

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
    node_id: str | None = None,
) -> Fit:
    """Tunes a copy's decoder on the mask's surroundings. z as `as_samples` gives it, source (B or 1, 3, H, W), m (B or 1, H, W)."""
    tail_of(vae)
    if not (m > 0).any():
        return Fit(source.expand(len(z), -1, -1, -1).clone(), vae, ["The mask is empty: the source as it is."])
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(vae)
        tail = tail_of(copy)
        # What arrives was made in inference mode, where autograd cannot save it: clones can be.
        z, source, m = (t.clone().float() for t in (z, source, m))
        load_for_training(copy, 0)
        plans = make_plans(copy, tail, z, m, surroundings)
        load_for_training(copy, plans[0].bytes)
        plans = affordable(plans, memory_budget, comfy.model_management.get_free_memory(copy.device))
        settings = Settings(background_weight, iterations if background_weight > 0 and (m == 0).any() else 0, learning_rate, background_target)
        before = {name: weight.clone() for name, weight in tail.modules.state_dict().items()}
        remarks = []
        for number, plan in enumerate(plans):
            try:
                picture, plain, outcome = run(copy, tail, z, source, m, surroundings, settings, plan, show_progress(iterations, node_id))
                break
            except Exception as error:
                if not out_of_memory(error) or number == len(plans) - 1:
                    raise
                remarks = ["Memory ran out: started again with less."]
            # Outside the handler, which holds on to all that the failed attempt had made.
            tail.modules.load_state_dict(before)
            comfy.model_management.soft_empty_cache()
        give_back(copy, vae)
    share_untuned(copy, vae, tail.modules)
    picture, plain = (t if t is None else t.to(vae.output_device, vae.vae_output_dtype()) for t in (picture, plain))
    return Fit(picture, copy, [*remarks, describe(outcome, plan)], plain)


def run(
    copy: comfy.sd.VAE, tail: Tail, z: Tensor, source: Tensor, m: Tensor, ring: int, settings: Settings, plan: Plan, on_step: OnStep
) -> tuple[Tensor, Tensor | None, Outcome]:
    """One attempt within a plan: pictures (B, 3, H, W) in 0..1 on the source's device, and the plain decode if the plan has it."""
    rows, columns = plan.view
    scale = source.shape[-1] // z.shape[-1]
    place = (..., *(slice(cells.start * scale, cells.stop * scale) for cells in plan.view))
    seen, x, mask = z[..., rows, columns].to(copy.device), source[place].to(copy.device), m[place].to(copy.device)
    # Without a fit the edit is left as it was drawn.
    z_init = latents_of(copy, x) if settings.iterations > 0 else seen
    x_hat, found = reconstruction.look_at(decode_of(copy), tail, seen, z_init, x * 2 - 1, mask, ring, plan.work.tile)
    outcome = reconstruction.tune_decoder(tail, found, settings, plan.work, on_step)
    drawn = reconstruction.draw(tail, found, x, len(z), copy.process_output)
    if outcome.steps > 0:
        first = found[0].candidate
        with torch.autocast(copy.device.type, dtype=torch.bfloat16, enabled=plan.work.dtype == torch.bfloat16, cache_enabled=False):
            settle(decode_of(copy), tail, seen[first : first + 1], found[0].statistics)
    # What little the tuned picture is off along the edge is spread over the mask.
    meet = partial(reconstruction.poisson, on_iteration=comfy.model_management.throw_exception_if_processing_interrupted)
    result = source.expand(len(z), -1, -1, -1).clone()
    result[place] = (meet if settings.iterations > 0 else reconstruction.paste)(drawn, x, mask).to(result)
    return result, copy.process_output(x_hat) if plan.whole else None, outcome


def decode_of(vae: comfy.sd.VAE) -> Callable[[Tensor], Tensor]:
    """The decoder as bld wants it: (B, C, ..., h, w) -> (B, 3, H, W) in -1..1."""
    return lambda z: picture_of(vae.first_stage_model.decode(z))


def latents_of(vae: comfy.sd.VAE, pictures: Tensor) -> Tensor:
    """Each picture of (B, 3, H, W) in 0..1 encoded by itself: a video VAE would take them for frames."""
    with torch.no_grad():
        return torch.cat([vae.encode(one[None]) for one in pictures.movedim(1, -1)]).to(pictures)


def fit_latent(
    z: Tensor, vae: comfy.sd.VAE, source: Tensor, m: Tensor, iterations: int, learning_rate: float, background_weight: float, node_id: str | None = None
) -> Fit:
    """Tunes the latent, on the whole picture. Arguments as for `fit_decoder`."""
    tail_of(vae)
    with torch.inference_mode(False), torch.enable_grad():
        copy = trainable_copy(vae)
        z, x, m = (t.clone().to(copy.device, torch.float32) for t in (z, source * 2 - 1, m[:, None]))
        load_for_training(copy, 2 * comfy.model_management.module_size(copy.first_stage_model))
        settings = Settings(background_weight, iterations, learning_rate)
        y, _, outcome = reconstruction.tune_latent(decode_of(copy), z, x, m, settings, show_progress(iterations, node_id))
    return Fit(vae.process_output(y.clone()).to(vae.output_device, vae.vae_output_dtype()), vae, [f"{ending(outcome)}."])


@dataclass(frozen=True)
class Plan:
    """The cells of the latent that are decoded, and how the fit is cut; `bytes` is what that takes at most."""

    view: Box
    whole: bool
    work: Work
    bytes: int


@dataclass(frozen=True)
class Cost:
    """Bytes: so many at once, and so many for each pixel."""

    fixed: float
    pixel: float

    def of(self, pixels: int) -> float:
        """For so many pixels."""
        return self.fixed + self.pixel * pixels


def make_plans(copy: comfy.sd.VAE, tail: Tail, z: Tensor, m: Tensor, ring: int) -> list[Plan]:
    """The ways to fit, the fastest first; each takes less memory than the one before."""
    scale = m.shape[-1] // z.shape[-1]
    frame = tuple(slice(0, side) for side in z.shape[-2:])
    near = box_of(nearby(m, ring).amax((0, 1)) > 0, scale)
    around = tuple(slice(max(0, s.start - CONTEXT), min(side, s.stop + CONTEXT)) for s, side in zip(near, z.shape[-2:], strict=True))
    dtype = torch.bfloat16 if has_bfloat16(copy.device) else torch.float32
    small = [probe(copy, tail, z, side) for side in PROBES]
    cost = partial(line, [one.pixels for one in small])
    whole = cost([one.bytes for one in small])
    steps = {thrifty: cost([step_bytes(tail, one.h, Work(0, thrifty, dtype)) for one in small]) for thrifty in (False, True)}
    stored = small[-1].h.nbytes / small[-1].pixels
    theta = sum(p.nbytes for p in tail.modules.parameters())
    base = RUNTIME + copy.model_size() + 4 * theta
    plans: list[Plan] = []
    for view in (frame, around):
        pixels = scale**2 * area(view)
        pictures = len(z) * (4 * 12 * pixels + (stored + 5 * 12) * scale**2 * area(near))
        for tile in TILES:
            sides = [min(tile, scale * (s.stop - s.start)) + 2 * tail.needs[0] * tail.scale for s in near]
            seen = min(sides[0], scale * z.shape[-2]) * min(sides[1], scale * z.shape[-1])
            for thrifty in (False, True):
                needed = base + pictures + max(whole.of(pixels), steps[thrifty].of(seen))
                plan = Plan(view, view == frame, Work(tile, thrifty, dtype), int(needed))
                if not plans or plan.bytes < plans[-1].bytes:
                    plans.append(plan)
    return plans


def affordable(plans: list[Plan], memory_budget: float, free: float) -> list[Plan]:
    """Those that the budget in GiB allows, or without one nine tenths of the free bytes; of these at least the last.

    Raises ValueError where a given budget allows none.
    """
    fitting = [plan for plan in plans if plan.bytes <= (memory_budget * GIB or 0.9 * free)]
    if not fitting and memory_budget > 0:
        raise ValueError(f"memory_budget was {memory_budget:g} GiB, must be at least {plans[-1].bytes / GIB:.2f} for this mask, or 0 for all there is.")
    return fitting or plans[-1:]


def box_of(wanted: Tensor, scale: int) -> Box:
    """The cells that hold what is wanted, (H, W) of bool."""
    return tuple(slice(*span(wanted.any(axis), scale)) for axis in (1, 0))


def area(box: Box) -> int:
    """In cells."""
    return (box[0].stop - box[0].start) * (box[1].stop - box[1].start)


@dataclass(frozen=True)
class Probe:
    """A small picture, decoded and encoded to see what that takes. h: what the tail gets for it, bytes: what both took at most."""

    pixels: int
    h: Tensor
    bytes: int


def probe(copy: comfy.sd.VAE, tail: Tail, z: Tensor, side: int) -> Probe:
    """Of a latent of the kind of z, so many cells a side."""
    small, entered = z.new_zeros(1, *z.shape[1:-2], side, side, device=copy.device), []

    def there_and_back() -> None:
        entered.extend(enter(decode_of(copy), tail, small))
        latents_of(copy, entered[0])

    most = peak_bytes(there_and_back)
    picture, h, _ = entered
    return Probe(picture.shape[-1] * picture.shape[-2], h, most)


def line(pixels: Sequence[int], peaks: Sequence[int]) -> Cost:
    """The cost that two measurements show."""
    slope = (peaks[1] - peaks[0]) / (pixels[1] - pixels[0])
    return Cost(max(0.0, peaks[1] - slope * pixels[1]), slope)


def step_bytes(tail: Tail, h: Tensor, work: Work) -> int:
    """What one step of the fit takes, its gradients included."""
    with trainable(tail.modules.parameters()):
        return peak_bytes(partial(forward_and_backward, tail, h, work))


def forward_and_backward(tail: Tail, h: Tensor, work: Work) -> None:
    """One step without its end."""
    with torch.autocast(h.device.type, dtype=torch.bfloat16, enabled=work.dtype == torch.bfloat16):
        y = tail.decode(h, (0, 0, 0, 0), work.thrifty)
    y.float().square().mean().backward()


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes faster in bfloat16 than in float32. The host says no to every CPU, also to those that do."""
    if comfy.model_management.is_device_cpu(device):
        found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
    return comfy.model_management.should_use_bf16(device)


def out_of_memory(error: Exception) -> bool:
    """Whether an error says so: the host knows those of GPUs, not those of the CPU."""
    return comfy.model_management.is_oom(error) or isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def ending(outcome: Outcome) -> str:
    """How many steps there were, and why no more."""
    remedy = ": the best state was put back; try a lower learning_rate" if outcome.restored else ""
    return f"{outcome.steps} steps, {outcome.reason}{remedy}"


def describe(outcome: Outcome, plan: Plan) -> str:
    """In words, for the report."""
    parts = [ending(outcome)]
    if outcome.background:
        parts.append(f"the decoder's picture of the mask's surroundings came from {outcome.background[0]:.1f} to {outcome.background[-1]:.1f} dB")
    parts.append(f"{'bfloat16' if plan.work.dtype == torch.bfloat16 else 'float32'}, at most {plan.bytes / GIB:.2f} GiB")
    if not plan.whole:
        parts.append("only the mask's surroundings were decoded")
    if plan.work.tile < TILES[0]:
        parts.append(f"in tiles of {plan.work.tile} px")
    if plan.work.thrifty:
        parts.append("with activations computed twice")
    return ", ".join(parts) + "."


def show_progress(iterations: int, node_id: str | None) -> OnStep:
    """Progress bar with a live picture, step, loss and background dB; lets Cancel through at every step."""
    bar = comfy.utils.ProgressBar(iterations)

    def on_step(step: Step) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = None
        if step.number % 10 == 0:
            pixels = ((step.picture[0].movedim(0, -1).float().clamp(-1, 1) + 1) * 127.5).byte().cpu().numpy()
            preview = ("JPEG", Image.fromarray(pixels), 512)
        bar.update_absolute(step.number + 1, iterations, preview)
        tell(f"step {step.number + 1} of {iterations}, loss {step.loss:.3g}, background {step.background:.1f} dB", node_id)

    return on_step


def tell(text: str, node_id: str | None) -> None:
    """Shows a text on the node, where a server runs."""
    server = sys.modules.get("server")
    if node_id is not None and server is not None and getattr(server.PromptServer, "instance", None) is not None:
        server.PromptServer.instance.send_progress_text(text, node_id)


def ring_psnr(picture: Tensor, source: Tensor, m: Tensor, width: int) -> float:
    """PSNR in dB of the unmasked pixels at most `width` from the mask; NaN where there are none."""
    near = ((nearby(m, width) > 0) & (m == 0)[:, None]).expand_as(picture)
    return psnr(float((picture - source).square()[near].double().mean()))
