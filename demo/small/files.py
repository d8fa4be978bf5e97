"""Where the small model's files lie; by the names of ``demo.files``, whose place it takes."""

from __future__ import annotations

from pathlib import Path

HOME = Path(__file__).resolve().parent
WEIGHTS = HOME / "models" / "bld_demo.safetensors"
OPEN_CLIP = HOME / "models" / "open_clip"
SPRITES = HOME / "sprites"
SAMPLES = HOME / "samples"
INPUT = HOME / "input"
JUDGE = HOME / "judge.safetensors"
STROKE_JUDGE = HOME / "stroke_judge.safetensors"
WORK = "bld-demo-train"
