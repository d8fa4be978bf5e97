"""The socket types that travel between our nodes, the category of the nodes, and an input that several of them have."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "Blended Latent Diffusion"

MaskScheduleType = io.Custom("MASK_SCHEDULE")
OpenClipType = io.Custom("OPEN_CLIP")
PruningType = io.Custom("CANDIDATE_PRUNING")
EditPlaceType = io.Custom("EDIT_PLACE")


def frames_input(why: str) -> io.Input:
    """How the pictures of a batch are frames of videos, see `checks.frames_of`."""
    return io.Int.Input(
        "frames",
        default=1,
        min=0,
        max=1 << 20,
        optional=True,
        advanced=True,
        tooltip=f"If the pictures are the frames of videos: how many each video has, {why}. 0: all of them are one video. 1: separate pictures.",
    )
