"""The node LoadDemoModel."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from . import loader


class LoadDemoModel(io.ComfyNode):
    """Loads the embedded demo model; takes the place of CheckpointLoaderSimple in the examples."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="LoadDemoModel",
            display_name="Load Demo Model (Blended Latent Diffusion)",
            category="Blended Latent Diffusion/demo",
            description="A small text-to-image model (128x128, SD 1.5 in miniature) that comes with this pack. "
                        "Replace it by Load Checkpoint to use the same graph with an SD model.",
            inputs=[],
            outputs=[io.Model.Output(), io.Clip.Output(), io.Vae.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        if not loader.WEIGHTS.exists():
            raise FileNotFoundError(f"The demo model's weights are missing: {loader.WEIGHTS.name} belongs into "
                                    "demo/models. Get a complete copy of the repository.")
        return io.NodeOutput(*loader.load())


class DemoExtension(ComfyExtension):
    """The pack of one node; makes the demo's small CLIP known as an open_clip model."""

    async def on_load(self) -> None:
        import folder_paths

        folder_paths.add_model_folder_path("open_clip", str(loader.OPEN_CLIP))

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [LoadDemoModel]
