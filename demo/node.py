"""The node LoadDemoModel."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import loader


class LoadDemoModel(io.ComfyNode):
    """Loads the demo model. In the examples it takes the place of CheckpointLoaderSimple."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadDemoModel",
            display_name="Load Demo Model (Blended Latent Diffusion)",
            category="Blended Latent Diffusion/demo",
            description="Loads a small demo model that draws 256x256 pictures, an SD 1.5 in miniature. To run the same workflow with your own model, "
                        "replace this node with Load Checkpoint.",
            inputs=[],
            outputs=[
                io.Model.Output(tooltip="The diffusion model, for a sampler."),
                io.Clip.Output(tooltip="Encodes prompts, for CLIP Text Encode (Prompt)."),
                io.Vae.Output(tooltip="Encodes and decodes pictures, for VAE Encode and VAE Decode."),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        if not loader.WEIGHTS.exists():
            raise FileNotFoundError(f"The demo model's weights {loader.WEIGHTS.name} are missing from demo/models: "
                                    "download a complete copy of the repository.")
        return io.NodeOutput(*loader.load())


class DemoExtension(ComfyExtension):
    """Adds the node, and lists the demo's small CLIP in Load OpenCLIP."""

    async def on_load(self) -> None:
        import folder_paths

        folder_paths.add_model_folder_path("open_clip", str(loader.OPEN_CLIP))

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadDemoModel]
