"""The bench's judge: which kinds are in a picture. Trained apart from the ranker: other network, seed and scenes."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file

from ..files import JUDGE
from . import common, data, vae

PEAK = 2e-3
ROUND_TRIPS = 1200


class Judge(torch.nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to one logit per kind, (B, K)."""

    def __init__(self, kinds: int = len(data.KIND_NAMES)) -> None:
        super().__init__()
        widths, layers, before = (32, 64, 96, 160), [], 3
        for width in widths:
            layers += [_conv(before, width, 2), _conv(width, width, 1)]
            before = width
        self.body = torch.nn.Sequential(*layers)
        self.head = torch.nn.Linear(2 * before, kinds)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The largest and the mean value of each of the last maps, (B, 320); pictures are looked at with 128 pixels a side."""
        x = self.body(F.avg_pool2d(x, data.SIZE // 128))
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))


def _conv(before: int, after: int, stride: int) -> torch.nn.Sequential:
    return torch.nn.Sequential(torch.nn.Conv2d(before, after, 3, stride, 1, bias=False),
                               torch.nn.BatchNorm2d(after), torch.nn.ReLU(inplace=True))


def labels(split: str, start: int, count: int) -> np.ndarray:
    """Which kinds each scene shows: float32 (count, K)."""
    out = np.zeros((count, len(data.KIND_NAMES)), np.float32)
    for row, index in enumerate(range(start, start + count)):
        out[row, [item.kind for item in data.plan(split, index).items]] = 1
    return out


@torch.no_grad()
def round_trip(pixels: np.ndarray, settings: common.Settings) -> np.ndarray:
    """What the autoencoder makes of pictures: uint8 in, uint8 out, same shape."""
    model, out = vae.load_trained(settings), []
    for part in np.array_split(pixels, max(1, len(pixels) // 16)):
        with common.autocast(settings.device):
            y = vae.decode(model, vae.encode(model, common.to_tensor(part, settings.device))[0])
        y = ((y.float().clamp(-1, 1) + 1) * 127.5 + 0.5).to(torch.uint8)
        out.append(y.permute(0, 2, 3, 1).cpu().numpy())
    return np.concatenate(out)


def augment(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mirror, shift, blur, brightness and noise, so that softness or colour alone decide nothing."""
    x = x.flip(3) if rng.random() < 0.5 else x
    reach = data.SIZE * 3 // 64
    top, left = (int(v) for v in rng.integers(0, 2 * reach + 1, 2))
    x = F.pad(x, (reach,) * 4, mode="replicate")[:, :, top:top + data.SIZE, left:left + data.SIZE]
    if rng.random() < 0.3:
        x = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    gain = torch.from_numpy(rng.uniform(0.85, 1.15, (len(x), 3, 1, 1)).astype(np.float32)).to(x.device)
    return (x * gain + torch.randn_like(x) * float(rng.uniform(0, 0.08))).clamp(-1, 1)


def train(settings: common.Settings) -> None:
    """Train for the settings' minutes, calibrate one threshold, write the weights."""
    common.prepare(settings.threads, 37)
    count = settings.count or 9000
    pixels, target = common.pictures("judge", 0, count), labels("judge", 0, count)
    if (settings.work / "vae.pt").exists():
        trips = min(ROUND_TRIPS, count // 3)
        pixels = np.concatenate([pixels, round_trip(pixels[-trips:], settings)])
        target = np.concatenate([target, target[-trips:]])
    model = Judge().to(settings.device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK, weight_decay=0.02)
    clock, rng, step = common.Clock(settings.minutes), np.random.default_rng(37), 0
    while clock.progress() < 1:
        chosen = rng.integers(len(pixels), size=settings.batch or 64)
        x = augment(common.to_tensor(pixels[chosen], settings.device), rng)
        with common.autocast(settings.device):
            logits = model(x).float()
        loss = F.binary_cross_entropy_with_logits(logits, torch.from_numpy(target[chosen]).to(x.device))
        common.descend(optimiser, loss, common.cosine(clock.progress(), step, PEAK, 50))
        step += 1
        if step % 50 == 0:
            print(f"judge step {step} {clock.spent() / 60:.1f} min loss {loss.item():.4f}", flush=True)
    _finish(model.eval(), settings)


def logits_of(model: Judge, pixels: np.ndarray) -> np.ndarray:
    """Logits (N, K) of uint8 pictures."""
    return _in_parts(model, model, pixels)


def features_of(model: Judge, pixels: np.ndarray) -> np.ndarray:
    """What the judge goes by, float64 (N, 320), of uint8 pictures."""
    return _in_parts(model, model.features, pixels).astype(np.float64)


@torch.no_grad()
def _in_parts(model: Judge, look: Callable[[torch.Tensor], torch.Tensor], pixels: np.ndarray) -> np.ndarray:
    device = next(model.parameters()).device
    parts = [look(common.to_tensor(p, device)).cpu().numpy() for p in np.array_split(pixels, len(pixels) // 50 + 1)]
    return np.concatenate(parts)


def _finish(model: Judge, settings: common.Settings) -> None:
    """Choose the threshold on the calibration split, write the file, print the accuracy on the test split."""
    logits, truth = logits_of(model, common.pictures("calibrate", 0, 1500)), labels("calibrate", 0, 1500)
    candidates = np.linspace(-4, 4, 81)
    threshold = float(max(candidates, key=lambda c: np.mean(((logits > c) == truth).all(1))))
    save_file({k: v.cpu().contiguous() for k, v in model.half().state_dict().items()}, JUDGE,
              {"bld_judge": json.dumps({"threshold": threshold, "kinds": list(data.KIND_NAMES)})})
    print(f"judge threshold {threshold:.2f}; test: {accuracy(2000)}", flush=True)


def load() -> tuple[Judge, float]:
    """The trained judge (float32, eval) and its threshold on the logits."""
    with safe_open(JUDGE, "pt") as file:
        threshold = json.loads(file.metadata()["bld_judge"])["threshold"]
        state = {k: file.get_tensor(k) for k in file.keys()}
    model = Judge()
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval().requires_grad_(False), threshold


def accuracy(count: int, start: int = 20000) -> dict[str, float]:
    """Held-out accuracy: exact set of kinds, and balanced 'is kind k shown?' queries (half of them yes)."""
    model, threshold = load()
    said, truth = logits_of(model, common.pictures("test", start, count)) > threshold, labels("test", start, count) > 0
    return {"exact": float((said == truth).all(1).mean()),
            "query": float((said[truth].mean() + (~said[~truth]).mean()) / 2)}
