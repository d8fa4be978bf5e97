from __future__ import annotations

from comfy_api.latest import io

from ..bridge.clip import models
from ..bridge.types import CATEGORY, OpenClipType


class OpenClipLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="OpenClipLoader",
            display_name="Load OpenCLIP",
            category=CATEGORY,
            description="Loads a CLIP with both towers for CLIP Rank Batch and Prune Candidates. A checkpoint's CLIP cannot rank: it lacks the picture's side.",
            search_aliases=["clip", "open_clip", "clip loader", "ranking", "blended latent diffusion"],
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=[*models.files(), *models.tags()],
                    tooltip="A .safetensors of models/open_clip, with its open_clip config (same name, .json) beside it, or named by its architecture, "
                    f"such as ViT-B-16-quickgelu.safetensors; or one of open_clip's pretrained models. The paper: {models.PAPER}.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    advanced=True,
                    tooltip="Lets open_clip fetch what is not on disk from the Hugging Face Hub into models/open_clip. Off, nothing asks the network.",
                ),
            ],
            outputs=[OpenClipType.Output(display_name="clip", tooltip="For CLIP Rank Batch and Prune Candidates.")],
        )

    @classmethod
    def validate_inputs(cls, clip_name: str | None, download: bool | None) -> bool | str:
        """Before anything runs: a batch that was drawn for nothing is worse than a refused prompt. Linked values are None here."""
        if clip_name is None:
            return True
        if clip_name not in (*models.files(), *models.tags()):
            return f"clip_name is {clip_name}, which is neither in models/open_clip nor one of the pretrained models."
        try:
            models.recipe(clip_name).check(download is not False)
        except (ValueError, ImportError) as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, clip_name: str, download: bool = False) -> io.NodeOutput:
        return io.NodeOutput(models.load(clip_name, download))
