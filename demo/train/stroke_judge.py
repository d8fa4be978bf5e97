"""The bench's judge for thin masks: which kinds show inside a stroke or blob, and on how much of it.

It sees only the latent cells that the mask touches. Its examples are ideal edits: the latent of one scene laid into that
of another under the mask, and decoded. Own scenes, seed and network, apart from the other nets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.spatial import cKDTree

from ..files import STROKE_JUDGE
from . import common, data, sampling

WIDTHS = (2, 4, 8, 16)
TRAINED_WIDTHS = (2, 3, 4, 6, 8, 12, 16)
CELL = 8
# Lengths below are for pictures of 128 pixels a side.
SCALE = data.SIZE // 128
PEAK = 2e-3
# Where the scenes of the split begin; the other judge's end far below.
FIRST = 100000
# Of the kinds that do not show in a window, at most this share may be claimed; sets the thresholds.
CLAIMED = 0.01


# ---------------------------------------------------------------- masks

def stroke(rng: np.random.Generator, width: float, centre: np.ndarray) -> np.ndarray:
    """A stroke of a brush of ``width`` pixels, 3/8 to 13/16 of the picture's side long, bool (H, W): a third along an axis, a third straight
    at any angle, a third curved."""
    form = rng.integers(3)
    angle = rng.integers(2) * np.pi / 2 if form == 0 else rng.uniform(0, np.pi)
    along = np.asarray([np.cos(angle), np.sin(angle)])
    t = np.linspace(-1, 1, 97)[:, None]
    bend = SCALE * rng.uniform(12, 28) * rng.choice((-1, 1)) * (form == 2)
    path = centre + t * along * SCALE * rng.uniform(24, 52) + (1 - 2 * t**2) * bend * np.asarray([-along[1], along[0]])
    y, x = np.mgrid[0:data.SIZE, 0:data.SIZE] + 0.5
    distance, _ = cKDTree(path).query(np.stack([x, y], -1), distance_upper_bound=width)
    return distance <= width / 2


def blob(rng: np.random.Generator, centre: np.ndarray) -> np.ndarray:
    """A round shape with bumps, about a quarter to half of the picture across, bool (H, W)."""
    y, x = np.mgrid[0:data.SIZE, 0:data.SIZE] + 0.5
    theta = np.arctan2(y - centre[1], x - centre[0])
    a, b = rng.uniform(0, 2 * np.pi, 2)
    radius = SCALE * rng.uniform(18, 34) * (1 + 0.22 * np.sin(2 * theta + a) + 0.13 * np.sin(3 * theta + b))
    return np.hypot(x - centre[0], y - centre[1]) <= radius


def mask_of(rng: np.random.Generator, width: int, centre: np.ndarray | None = None) -> np.ndarray:
    """A stroke of that width, or a blob for width 0, bool (H, W), not near the frame unless a centre is given."""
    at = rng.uniform(data.SIZE / 4, data.SIZE * 3 / 4, 2) if centre is None else centre
    return stroke(rng, width, at) if width else blob(rng, at)


def cells(mask: np.ndarray) -> np.ndarray:
    """The painted share of each latent cell: (..., H, W) to float32 (..., h, w)."""
    grid = data.SIZE // CELL
    return mask.astype(np.float32).reshape(*mask.shape[:-2], grid, CELL, grid, CELL).mean((-3, -1))


def enlarge(small: np.ndarray) -> np.ndarray:
    """Latent cells to pixels: (..., h, w) to (..., H, W)."""
    return small.repeat(CELL, -2).repeat(CELL, -1)


# ---------------------------------------------------------------- the network

class StrokeJudge(torch.nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] and painted shares (B, h, w) to one logit per kind, (B, K).

    The logit's sigmoid is the share of the painted area on which the kind shows.
    """

    def __init__(self, kinds: int = len(data.KIND_NAMES)) -> None:
        super().__init__()
        layers, before = [], 4
        for width, stride in ((32, 2), (64, 2), (96, 2), (128, 1)):
            layers += [_conv(before, width, stride), _conv(width, width, 1)]
            before = width
        self.body = torch.nn.Sequential(*layers)
        self.head = torch.nn.Linear(2 * before, kinds)

    def forward(self, x: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
        share = share[:, None]
        window = F.interpolate((share > 0).to(x), scale_factor=CELL, mode="nearest")
        x = self.body(torch.cat([x * window, window], 1))
        mean = (x * share).sum((2, 3)) / share.sum((2, 3))
        return self.head(torch.cat([mean, (x * (share > 0)).amax((2, 3))], 1))


def _conv(before: int, after: int, stride: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Conv2d(before, after, 3, stride, 1, bias=False),
                               torch.nn.BatchNorm2d(after), torch.nn.ReLU(inplace=True))


# ---------------------------------------------------------------- examples

def kind_map(scene: data.Plan) -> np.ndarray:
    """Which kind each pixel shows, int (H, W); -1 where there is background."""
    out = np.full((data.SIZE, data.SIZE), -1)
    for item in scene.items:
        out[np.asarray(data.layer(item).getchannel("A")) > 127] = item.kind
    return out


@dataclass
class Examples:
    """``pixels`` uint8 (P, H, W, 3) and, for each of N windows: ``row`` of its picture, ``masks`` bool (N, H, W),
    ``shown`` (N, K) share of the painted pixels that show each kind, ``width`` of the stroke (0: a blob)."""

    pixels: np.ndarray
    row: np.ndarray
    masks: np.ndarray
    shown: np.ndarray
    width: np.ndarray


def examples(vae: object, split: str, start: int, count: int, widths: tuple[int, ...], windows: int = 3) -> Examples:
    """Ideal edits of ``count`` scenes, with ``windows`` masks in each: the scenes are laid into one another in latents.

    A window's cells hold the other scene (mostly), a half of both, or the untouched one.
    """
    plans = [data.plan(split, i) for i in range(start, start + count)]
    source = common.pictures(split, start, count)
    latents = torch.cat([sampling.encode(vae, p) for p in np.array_split(source, max(1, count // 16))]).numpy()
    maps = np.stack([kind_map(p) for p in plans])
    pixels, rows, masks, shown, width = [], [], [], [], []
    rng = np.random.default_rng((5, data.SPLITS[split], start))
    for first in range(0, count, 16):
        mixed = []
        for row in range(first, min(first + 16, count)):
            other = int(rng.integers(count))
            drawn = [_window(rng, plans[other], widths) for _ in range(windows)]
            weight = np.max([m for _, _, m in drawn], 0)
            mixed.append(latents[other] * weight + latents[row] * (1 - weight))
            weight = enlarge(weight)
            for w, mask, _ in drawn:
                inside = weight[mask]
                parts = [np.bincount(k[mask] + 1, v, len(data.KIND_NAMES) + 1)[1:] for k, v in
                         ((maps[other], inside), (maps[row], 1 - inside))]
                rows.append(row), masks.append(mask), width.append(w), shown.append(sum(parts) / mask.sum())
        pixels.append(sampling.decode(vae, torch.from_numpy(np.stack(mixed)).float()))
    return Examples(np.concatenate(pixels), np.asarray(rows), np.stack(masks), np.asarray(shown, np.float32), np.asarray(width))


def _window(rng: np.random.Generator, scene: data.Plan, widths: tuple[int, ...]) -> tuple[int, np.ndarray, np.ndarray]:
    """A mask, mostly over one of the scene's objects, and how much of each latent cell takes that scene."""
    item = scene.items[int(rng.integers(len(scene.items)))] if scene.items and rng.random() < 0.8 else None
    spread = item.side / 5 if item else 0
    centre = np.clip(np.asarray([item.x, item.y]) + rng.uniform(-spread, spread, 2), data.SIZE / 16, data.SIZE * 15 / 16) if item else None
    width = int(rng.choice(widths))
    mask = mask_of(rng, width, centre)
    weight = (cells(mask) > 0) * rng.choice((1.0, 1.0, 1.0, 0.5, 0.0)) if rng.random() < 0.8 else cells(mask)
    return width, mask, weight.astype(np.float32)


# ---------------------------------------------------------------- training

def train(settings: common.Settings) -> None:
    """Train for the settings' minutes on ideal edits made with the exported model, calibrate, write the weights."""
    from .. import loader

    common.prepare(settings.threads, 53)
    vae = loader.load()[2]
    with torch.inference_mode(), common.autocast(settings.device):
        seen = examples(vae, "judge", FIRST, settings.count or 3000, (*TRAINED_WIDTHS, 0, 0))
        apart = examples(vae, "calibrate", FIRST, 600, (*WIDTHS, 0))
    _finish(fit(seen, settings), apart)


def fit(seen: Examples, settings: common.Settings) -> StrokeJudge:
    """The trained network."""
    model, share = StrokeJudge().to(settings.device), cells(seen.masks)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.05)
    clock, rng, step = common.Clock(settings.minutes), np.random.default_rng(53), 0
    while clock.progress() < 1:
        chosen = rng.integers(len(seen.row), size=settings.batch or 64)
        x, grid = _augment(common.to_tensor(seen.pixels[seen.row[chosen]], settings.device),
                           torch.from_numpy(share[chosen]).to(settings.device), rng)
        with common.autocast(settings.device):
            logits = model(x, grid).float()
        loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(seen.shown[chosen]).to(x.device))
        common.descend(optimiser, loss, common.cosine(clock.progress(), step, PEAK, 50))
        step += 1
        if step % 50 == 0:
            print(f"stroke judge step {step} {clock.spent() / 60:.1f} min loss {loss.item():.4f}", flush=True)
    return model.eval()


def _augment(x: torch.Tensor, share: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Mirror, brightness and noise."""
    if rng.random() < 0.5:
        x, share = x.flip(3), share.flip(2)
    gain = torch.from_numpy(rng.uniform(0.9, 1.1, (len(x), 3, 1, 1)).astype(np.float32)).to(x.device)
    return (x * gain + torch.randn_like(x) * float(rng.uniform(0, 0.05))).clamp(-1, 1), share


@torch.no_grad()
def shares(model: StrokeJudge, pixels: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """How much of each mask's area shows each kind, float32 (N, K) in 0..1: pixels uint8 (N, H, W, 3), masks bool."""
    device, share = next(model.parameters()).device, torch.from_numpy(cells(masks))
    parts = [model(common.to_tensor(pixels[i], device), share[i].to(device)).sigmoid().cpu().numpy()
             for i in np.array_split(np.arange(len(pixels)), len(pixels) // 50 + 1)]
    return np.concatenate(parts)


def error(said: np.ndarray, shown: np.ndarray, threshold: float) -> dict[str, float]:
    """Of the windows' estimated and true shares, (N, K): how often a kind that covers half of the painted area is missed, how often
    one that covers less than 2 % is claimed, and how many covering kinds there were."""
    there = shown >= 0.5
    return {"missed": float((said[there] <= threshold).mean()), "claimed": float((said[shown < 0.02] > threshold).mean()),
            "shown": float(there.sum())}


def _finish(model: StrokeJudge, apart: Examples) -> None:
    """Choose a threshold for each width on the windows of the calibration split, write the weights."""
    said = shares(model, apart.pixels[apart.row], apart.masks)
    thresholds = {}
    for width in (*WIDTHS, 0):
        part = apart.width == width
        thresholds[width] = float(np.quantile(said[part][apart.shown[part] < 0.02], 1 - CLAIMED))
        print(f"width {width}: threshold {thresholds[width]:.3f}, {error(said[part], apart.shown[part], thresholds[width])}", flush=True)
    save_file({k: v.cpu().contiguous() for k, v in model.half().state_dict().items()}, STROKE_JUDGE,
              {"bld_judge": json.dumps({"thresholds": thresholds, "kinds": list(data.KIND_NAMES)})})


def load() -> tuple[StrokeJudge, dict[int, float]]:
    """The trained judge (float32, eval) and, by width of the stroke (0: a blob), the share from which a kind counts as shown."""
    with safe_open(STROKE_JUDGE, "pt") as file:
        thresholds = json.loads(file.metadata()["bld_judge"])["thresholds"]
        state = {k: file.get_tensor(k) for k in file.keys()}
    model = StrokeJudge()
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval().requires_grad_(False), {int(w): t for w, t in thresholds.items()}
