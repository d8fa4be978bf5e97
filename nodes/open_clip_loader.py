from __future__ import annotations

from comfy_api.latest import io

from ..bridge.checks import printable
from ..bridge.clip import models
from ..bridge.inputs import checked
from ..bridge.older_comfyui import schema
from ..bridge.types import CATEGORY, OpenClipType


class OpenClipLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="OpenClipLoader",
            display_name="Load OpenCLIP",
            category=CATEGORY,
            description="Loads a CLIP model that can compare pictures with a prompt, for CLIP Rank Batch and Prune Candidates. The CLIP of a checkpoint "
            "can't do this because it has no image encoder.",
            search_aliases=["clip", "open_clip", "clip loader", "clip score", "ranking", "blended latent diffusion"],
            inputs=[
                io.Combo.Input(
                    "clip_name",
                    options=[*models.files(), *models.tags()],
                    tooltip="A .safetensors file in models/open_clip, or one of open_clip's pretrained models. Name a file after its architecture, such as "
                    f"ViT-B-16-quickgelu.safetensors, or put its open_clip config next to it under the same name with .json. The paper uses {models.PAPER}.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    advanced=True,
                    tooltip="Downloads missing files from the Hugging Face Hub to models/open_clip. While it is off, the node never uses the network.",
                ),
            ],
            outputs=[OpenClipType.Output(display_name="clip", tooltip="The model, for CLIP Rank Batch and Prune Candidates.")],
        )

    @classmethod
    def validate_inputs(cls, clip_name: str | None, download: bool | None) -> bool | str:
        """Before anything runs: a batch that was drawn for nothing is worse than a refused prompt. Linked values are None here."""
        if clip_name is None:
            return True
        try:
            models.recipe(clip_name).check(download is not False)
        except (ValueError, ImportError) as error:
            return printable(str(error))
        return True

    @classmethod
    @checked
    def execute(cls, clip_name: str, download: bool = False) -> io.NodeOutput:
        return io.NodeOutput(models.load(clip_name, download))
