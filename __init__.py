"""Blended Latent Diffusion for ComfyUI: edit part of a picture by text, and keep the rest of it."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .bridge.clip import models
from .nodes.apply_mask_schedule import ApplyMaskSchedule
from .nodes.blended_latent_ksampler import BlendedLatentKSampler
from .nodes.clip_rank_batch import ClipRankBatch
from .nodes.decoder_finetune_reconstruct import DecoderFinetuneReconstruct
from .nodes.edit_cut_out import EditCutOut
from .nodes.edit_put_back import EditPutBack
from .nodes.edit_report import EditReport
from .nodes.latent_mask_resize import LatentMaskResize
from .nodes.open_clip_loader import OpenClipLoader
from .nodes.progressive_mask_dilate import ProgressiveMaskDilate
from .nodes.prune_candidates import PruneCandidates

WEB_DIRECTORY = "./js"


class BlendedLatentDiffusion(ComfyExtension):
    async def on_load(self) -> None:
        models.register_folder()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            LatentMaskResize,
            ProgressiveMaskDilate,
            BlendedLatentKSampler,
            ApplyMaskSchedule,
            DecoderFinetuneReconstruct,
            OpenClipLoader,
            ClipRankBatch,
            PruneCandidates,
            EditReport,
            EditCutOut,
            EditPutBack,
        ]


async def comfy_entrypoint() -> BlendedLatentDiffusion:
    return BlendedLatentDiffusion()
