"""Where the demo model's files lie."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).resolve().parent
WEIGHTS = HOME / "models" / "bld_demo.safetensors"
OPEN_CLIP = HOME / "models" / "open_clip"
SPRITES = HOME / "sprites"
SAMPLES = HOME / "samples"
INPUT = HOME / "input"
# Of the benchmarks; no node loads them. The judge of strokes has been trained for the small model only.
JUDGE = HOME / "judge.safetensors"
STROKE_JUDGE = HOME / "stroke_judge.safetensors"
# Below the user's cache: checkpoints and latents.
WORK = "bld-demo-train-256"
