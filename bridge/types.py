"""The socket types that travel between our nodes, and the category of the nodes."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "Blended Latent Diffusion"

MaskScheduleType = io.Custom("MASK_SCHEDULE")
OpenClipType = io.Custom("OPEN_CLIP")
PruningType = io.Custom("CANDIDATE_PRUNING")
