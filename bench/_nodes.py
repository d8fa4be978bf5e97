"""The model and the pack's nodes, as a user finds them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from comfy_api.latest import io

from bench._cases import Case, mask_of
from bench._judge import Referee
from blended_latent_diffusion.bld.schedule import MaskSchedule
from blended_latent_diffusion.bridge.clip import models as clips
from blended_latent_diffusion.bridge.sampling.pruning import Pruning
from blended_latent_diffusion.nodes.blended_latent_ksampler import BlendedLatentKSampler
from blended_latent_diffusion.nodes.clip_rank_batch import ClipRankBatch
from blended_latent_diffusion.nodes.latent_mask_resize import LatentMaskResize
from blended_latent_diffusion.nodes.open_clip_loader import OpenClipLoader
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from blended_latent_diffusion.nodes.prune_candidates import PruneCandidates
from demo import loader
from demo.train import clip as ranker
from demo.train import sampling, stroke_judge
from host.pack import quick_bfloat16


@dataclass(frozen=True)
class Tools:
    """The model and those who look at its pictures. clip: the ranker."""

    model: Any
    text: Any
    vae: Any
    clip: Any

    @cached_property
    def referee(self) -> Referee:
        """The judge and its thresholds."""
        return stroke_judge.load()


def load() -> Tools:
    """The real parts, as a workflow has them."""
    return Tools(*loader.load(), load_clip())


def load_clip() -> Any:
    """The model's own ranker, an OPEN_CLIP."""
    import folder_paths

    folder_paths.add_model_folder_path(clips.FOLDER, str(loader.OPEN_CLIP))
    return OpenClipLoader.execute(f"{ranker.NAME}.safetensors").args[0]


def half_precision(enabled: bool = True) -> torch.autocast:
    """bfloat16 for what the CPU computes inside, where it is quick at it; on a GPU the host's own choice stands."""
    return torch.autocast("cpu", torch.bfloat16, enabled and quick_bfloat16())


def settings(node: Any) -> dict[str, Any]:
    """What the widgets of a new node hold."""
    return {i.id: i.default for i in node.define_schema().inputs if isinstance(i, io.WidgetInput)}


def defaults(node: Any, name: str, key: str) -> dict[str, Any]:
    """What a node gets for an input that is a combination of a choice and its settings, where the user changes nothing else."""
    choice = next(i for i in node.define_schema().inputs if i.id == name)
    return {name: key} | {i.id: i.default for i in next(o for o in choice.options if o.key == key).inputs}


def source_of(tools: Tools, case: Case) -> dict:
    """The source as LATENT."""
    return {"samples": sampling.encode(tools.vae, case.source[None])}


def prompts_of(tools: Tools, case: Case) -> tuple[list, list]:
    """The positive and the negative CONDITIONING."""
    positive, negative = (sampling.conditioning(tools.text, [prompt]) for prompt in (case.prompt, ""))
    return positive, negative


def schedule_of(case: Case, latent: dict, **shrinking: Any) -> MaskSchedule:
    """The masks of an edit, by Latent Mask Resize and Progressive Mask Dilate. shrinking: settings beside the defaults."""
    return ProgressiveMaskDilate.execute(LatentMaskResize.execute(mask_of(case), latent).args[0], **settings(ProgressiveMaskDilate) | shrinking).args[0]


def draw(tools: Tools, case: Case, seed: int, count: int, shrinking: dict[str, Any] | None = None, **options: Any) -> dict:
    """Candidates as LATENT, by Latent Mask Resize, Progressive Mask Dilate and Blended Latent KSampler. shrinking: settings beside the defaults."""
    latent = source_of(tools, case)
    schedule = schedule_of(case, latent, **shrinking or {})
    given = {"model": tools.model, "steps": sampling.STEPS, "sampler_name": sampling.SAMPLER, "scheduler": sampling.SCHEDULER, "chunk_size": count} | options
    positive, negative = prompts_of(tools, case)
    return BlendedLatentKSampler.execute(
        seed=seed, cfg=sampling.CFG, positive=positive, negative=negative, latent_image=latent, mask_schedule=schedule, candidates=count, **given
    ).args[0]


def prunings(tools: Tools, case: Case, kinds: dict[str, dict[str, Any]]) -> dict[str, Pruning]:
    """What Prune Candidates makes of each kind of settings."""
    return {name: PruneCandidates.execute(tools.clip, tools.vae, case.prompt, mask_of(case), **options).args[0] for name, options in kinds.items()}


def scores(tools: Tools, case: Case, pictures: torch.Tensor, scope: str, **settings: Any) -> torch.Tensor:
    """The score of each picture by CLIP Rank Batch, (N,). settings: of the scope, beside the defaults."""
    _, _, found, order, _ = ranked(tools, case, pictures, scope, settings)
    return torch.tensor(found)[torch.tensor(order).argsort()]


def best_of(tools: Tools, case: Case, latent: dict, pictures: torch.Tensor, scope: str) -> dict:
    """The LATENT of the candidate that CLIP Rank Batch puts first."""
    return ranked(tools, case, pictures, scope, top_k=[1], latents=[latent])[1][0]


def ranked(tools: Tools, case: Case, pictures: torch.Tensor, scope: str, settings: dict[str, Any] | None = None, **more: Any) -> tuple:
    """The outputs of CLIP Rank Batch with the scope's defaults but for these settings."""
    options = {name: [value] for name, value in (defaults(ClipRankBatch, "scope", scope) | (settings or {})).items()}
    return ClipRankBatch.execute([pictures], [tools.clip], [case.prompt], [mask_of(case)], scope=options, **more).args
