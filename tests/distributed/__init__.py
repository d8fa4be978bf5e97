"""Two nodes with the names and signatures of ComfyUI-Distributed's, for tests without it: a test carries the pictures from server to server."""
import numpy as np
import torch
from comfy_api.latest import ComfyExtension, io
from folder_paths import get_annotated_filepath
from PIL import Image


class DistributedSeed(io.ComfyNode):
    """A seed for each machine: the master's own, and one more for each worker. `machine` is what the pack puts in: 0 is the master."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="DistributedSeed", inputs=[io.Int.Input("seed", max=2**64 - 1), io.Int.Input("machine", default=0, optional=True)],
                         outputs=[io.Int.Output(display_name="seed")])

    @classmethod
    def execute(cls, seed, machine=0):
        return io.NodeOutput(seed + machine)


class DistributedCollector(io.ComfyNode):
    """On the master, its own pictures and then those of the workers, which come as PNG files. `received` is what the pack puts in: their names."""

    @classmethod
    def define_schema(cls):
        return io.Schema(node_id="DistributedCollector",
                         inputs=[io.Image.Input("images"), io.Boolean.Input("load_balance", default=False),
                                 io.String.Input("received", default="", optional=True)],
                         outputs=[io.Image.Output(display_name="images"), io.Audio.Output(display_name="audio")])

    @classmethod
    def execute(cls, images, load_balance, received=""):
        others = [np.asarray(Image.open(get_annotated_filepath(name)).convert("RGB"), np.float32) / 255 for name in received.split()]
        return io.NodeOutput(torch.cat([images, *(torch.from_numpy(one)[None] for one in others)]), None)


class Extension(ComfyExtension):
    async def get_node_list(self):
        return [DistributedSeed, DistributedCollector]


async def comfy_entrypoint():
    return Extension()
