"""The ranker: a small open_clip model, trained on whole, cropped and masked scenes."""

from __future__ import annotations

import json

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from ..files import OPEN_CLIP
from . import common, data, judge, words
from .wording import Caption, article

NAME = "bld_demo_clip"
CONFIG = {"embed_dim": 64,
          "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 24, "head_width": 64},
          "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}}
PEAK = 1.5e-3
UNKNOWN = 1
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def build() -> torch.nn.Module:
    """An untrained model, made by open_clip's own factory from our config."""
    import open_clip

    OPEN_CLIP.mkdir(parents=True, exist_ok=True)
    (OPEN_CLIP / f"{NAME}.json").write_text(json.dumps(CONFIG, indent=1) + "\n")
    open_clip.add_model_config(OPEN_CLIP)
    return open_clip.create_model(NAME, load_weights=False)


class Tokens:
    """open_clip's layout: start, tokens, end, zeros; tokens outside the captions become one shared token."""

    def __init__(self) -> None:
        self.vocabulary = words.vocabulary()
        self.known = [words.START, words.END, *self.vocabulary.ids]

    def __call__(self, text: str, rng: np.random.Generator | None = None) -> np.ndarray:
        """int64 (77,)."""
        rows = self.vocabulary.rows(text)
        rows = words.loosen(rows, rng) if rng is not None else rows
        ids = [UNKNOWN if r == 0 else self.vocabulary.ids[r - 1] for r in rows][:75]
        out = np.zeros(77, np.int64)
        out[:len(ids) + 2] = [words.START, *ids, words.END]
        return out


def view(pixels: np.ndarray, scene: data.Plan, rng: np.random.Generator) -> tuple[np.ndarray, data.Plan]:
    """A whole, masked or cropped view (H, W, 3) of a scene, and the plan of what is left to see in it."""
    draw = rng.random()
    if draw < 0.25:
        return pixels, scene
    item = scene.items[int(rng.integers(len(scene.items)))] if scene.items and rng.random() < 0.9 else None
    left, top, right, bottom = _box(item, rng)
    kept = tuple(i for i in scene.items if i is item or _inside(i, (left, top, right, bottom)))
    hidden = any(_touches(i, (left, top, right, bottom)) for i in scene.items if i not in kept)
    if hidden:
        return pixels, scene
    seen = data.Plan(kept, scene.background, scene.seed)
    if draw < 0.8:
        out = np.zeros_like(pixels)
        out[top:bottom, left:right] = pixels[top:bottom, left:right]
        return out, seen
    return _resize(pixels[top:bottom, left:right]), seen


def _box(item: data.Item | None, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random box: around the object with a random margin on each side, or anywhere."""
    if item is None:
        size, corner = rng.integers(data.SIZE // 4, 0.7 * data.SIZE, 2), rng.random(2)
        left, top = (int(c * (data.SIZE - s)) for c, s in zip(corner, size, strict=True))
        return left, top, left + int(size[0]), top + int(size[1])
    left, top, right, bottom = data.box(item)
    margin = ((rng.random(4) ** 2 * 0.375 - 1 / 64) * data.SIZE).astype(int)
    return (max(0, left - margin[0]), max(0, top - margin[1]),
            min(data.SIZE, right + margin[2]), min(data.SIZE, bottom + margin[3]))


def _inside(item: data.Item, frame: tuple[int, int, int, int]) -> bool:
    left, top, right, bottom = data.box(item)
    return left >= frame[0] and top >= frame[1] and right <= frame[2] and bottom <= frame[3]


def _touches(item: data.Item, frame: tuple[int, int, int, int]) -> bool:
    """Whether a fair part of the object shows in the frame, although not all of it."""
    left, top, right, bottom = data.box(item)
    w, h = min(right, frame[2]) - max(left, frame[0]), min(bottom, frame[3]) - max(top, frame[1])
    return w > 0 and h > 0 and w * h > 0.08 * item.side**2


def _resize(crop: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.fromarray(crop).resize((data.SIZE, data.SIZE), Image.Resampling.BILINEAR))


def prepare(pixels: np.ndarray, device: torch.device, size: int = 96) -> torch.Tensor:
    """uint8 (B, H, W, 3) to normalised (B, 3, 96, 96)."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous().to(device).float() / 255
    x = F.interpolate(x, (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    return (x - torch.tensor(MEAN, device=device).view(3, 1, 1)) / torch.tensor(STD, device=device).view(3, 1, 1)


def targets(seen: list[data.Plan], said: list[Caption], spoken: list[int]) -> np.ndarray:
    """Which captions are true of which views, bool (B, B): the named kinds show, and the background is the same."""
    out = np.zeros((len(seen), len(said)), bool)
    for i, scene in enumerate(seen):
        kinds = frozenset(item.kind for item in scene.items)
        for j, caption in enumerate(said):
            named = caption.kinds <= kinds if caption.kinds else not kinds
            out[i, j] = named and (caption.bare or spoken[j] == scene.background)
    return out


def loss_of(image: torch.Tensor, text: torch.Tensor, scale: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Symmetric InfoNCE whose targets are spread evenly over all true pairs."""
    logits = scale * F.normalize(image.float(), dim=1) @ F.normalize(text.float(), dim=1).T
    rows = -(F.log_softmax(logits, 1) * true / true.sum(1, keepdim=True)).sum(1).mean()
    columns = -(F.log_softmax(logits, 0) * true / true.sum(0, keepdim=True)).sum(0).mean()
    return (rows + columns) / 2


def train(settings: common.Settings) -> None:
    """Train for the settings' minutes and write the config and the weights."""
    common.prepare(settings.threads, 53)
    tokens, model, device = Tokens(), build().to(settings.device).train(), settings.device
    count = settings.count or 9000
    plans = [data.plan("train", 50000 + i) for i in range(count)]
    pixels = common.pictures("train", 50000, count)
    if (settings.work / "vae.pt").exists():
        trips = min(judge.ROUND_TRIPS, count // 3)
        pixels[:trips] = judge.round_trip(pixels[:trips], settings)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.98), weight_decay=0.02)
    clock, rng, step = common.Clock(settings.minutes), np.random.default_rng(53), 0
    while clock.progress() < 1:
        chosen = rng.integers(count, size=settings.batch or 96)
        images, seen = zip(*(view(pixels[i], plans[i], rng) for i in chosen), strict=True)
        said = [data.caption(scene, rng, 0.4, 0.55) for scene in seen]
        ids = torch.from_numpy(np.stack([tokens(c.text, rng) for c in said])).to(device)
        true = torch.from_numpy(targets(list(seen), said, [s.background for s in seen])).to(device)
        x = augment(prepare(np.stack(images), device), rng)
        with common.autocast(device):
            image, text = model.encode_image(x), model.encode_text(ids)
        loss = loss_of(image, text, model.logit_scale.exp().clamp(max=50), true.float())
        common.descend(optimiser, loss, common.cosine(clock.progress(), step, PEAK, 100), 1.0)
        step += 1
        if step % 50 == 0:
            print(f"clip step {step} {clock.spent() / 60:.1f} min loss {loss.item():.4f}", flush=True)
        if step % 400 == 0:
            export(model, tokens)
            print(f"clip held-out top-1 {top1(200):.3f}", flush=True)
    export(model, tokens)
    print(f"clip held-out top-1 {top1(1000):.3f}", flush=True)


def augment(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Mirror, brightness and noise on normalised pictures."""
    x = x.flip(3) if rng.random() < 0.5 else x
    gain = torch.from_numpy(rng.uniform(0.9, 1.1, (len(x), 3, 1, 1)).astype(np.float32)).to(x.device)
    return x * gain + torch.randn_like(x) * float(rng.uniform(0, 0.08))


def export(model: torch.nn.Module, tokens: Tokens) -> None:
    """Write the weights (fp16); every token that was never trained gets the shared unknown token's row."""
    state = {k: v.detach().cpu() for k, v in model.state_dict().items()}
    table = state["token_embedding.weight"]
    spread = table[UNKNOWN].repeat(len(table), 1)
    spread[tokens.known] = table[tokens.known]
    state["token_embedding.weight"] = spread
    state = {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items() if k != "attn_mask"}
    save_file(state, OPEN_CLIP / f"{NAME}.safetensors", {"format": "pt"})


def load() -> tuple[torch.nn.Module, object]:
    """The exported model and open_clip's own tokenizer for it."""
    import open_clip

    open_clip.add_model_config(OPEN_CLIP)
    model = open_clip.create_model(NAME, pretrained=str(OPEN_CLIP / f"{NAME}.safetensors"))
    return model.eval().requires_grad_(False), open_clip.get_tokenizer(NAME)


@torch.no_grad()
def top1(count: int, start: int = 30000) -> float:
    """Share of held-out single-object pictures whose kind is the best of all "a {kind}" prompts."""
    model, tokenizer = load()
    texts = F.normalize(model.encode_text(tokenizer([article(k) for k in data.KIND_NAMES])), dim=1)
    found = [i for i in range(start, start + 3 * count) if len(data.plan("test", i).items) == 1][:count]
    right = 0
    for part in np.array_split(np.asarray(found), max(1, count // 100)):
        plans = [data.plan("test", int(i)) for i in part]
        image = model.encode_image(prepare(np.stack([data.render(p) for p in plans]), torch.device("cpu")))
        best = (F.normalize(image, dim=1) @ texts.T).argmax(1)
        right += sum(int(b) == p.items[0].kind for b, p in zip(best, plans, strict=True))
    return right / len(found)
