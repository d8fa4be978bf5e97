"""``python -m demo.train STAGE``: run from the repository root with the ComfyUI tree on PYTHONPATH."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import torch

from host.pack import prepare

from . import common

STAGES = ("vae", "latents", "decoder", "unet", "clip", "judge", "stroke_judge", "export", "sheets")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--work", type=Path, default=common.default_work(), help="checkpoints and latents go here")
    parser.add_argument("--minutes", type=float, default=20.0, help="length of the whole schedule, restarts included")
    parser.add_argument("--batch", type=int, default=0, help="0: the stage's own")
    parser.add_argument("--count", type=int, default=0, help="scenes to use; 0: the stage's own")
    parser.add_argument("--rate", type=float, default=0.0, help="peak of the learning rate; 0: the stage's own (vae, unet)")
    parser.add_argument("--workers", type=int, default=0, help="processes that make batches beside the training (unet)")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fresh", action="store_true", help="do not resume")
    parser.add_argument("--start", type=Path, help="an exported model to start from: one of half the side, or for the UNet one of its own (vae, unet)")
    options = parser.parse_args()
    prepare(cpu=options.device == "cpu")
    settings = common.Settings(options.work, options.minutes, torch.device(options.device), options.batch,
                               options.threads, options.count, options.fresh, options.start, options.rate, options.workers)
    importlib.import_module(f".{options.stage}", __package__).train(settings)


if __name__ == "__main__":
    main()
