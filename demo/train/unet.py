"""Stage 3: the UNet and the text encoder, trained together on the latents."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from . import common, data, graft, words

UNET = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 96, "num_res_blocks": [1, 1, 1],
        "channel_mult": [1, 2, 2], "transformer_depth": [0, 1, 1], "transformer_depth_output": [1, 1, 1, 1, 0, 0],
        "transformer_depth_middle": 1, "use_spatial_transformer": True, "context_dim": 128, "num_heads": -1,
        "num_head_channels": 32, "use_linear_in_transformer": False, "adm_in_channels": None, "legacy": False,
        "use_checkpoint": False, "use_temporal_attention": False, "num_classes": None}
if data.SIZE == 256:
    # One level more, with no block on the way down: on two cores, half of a step's time would go into it.
    UNET |= {"num_res_blocks": [0, 1, 1, 1], "channel_mult": [1, 1, 2, 2], "transformer_depth_output": [0, 1, 1, 1, 1, 0, 0]}
TEXT = {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "num_hidden_layers": 3,
        "max_position_embeddings": 77, "hidden_act": "quick_gelu", "eos_token_id": 49407}
PEAK = 5e-4
EMPTY = 0.1
# Seconds between two checkpoints.
SAVE_EVERY = 120


class TextEncoder(torch.nn.Module):
    """The host's CLIP text transformer over a compact token table; (B, 77) rows to (B, 77, 128)."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        import comfy.ops
        from comfy.clip_model import CLIPTextModel_

        self.model = CLIPTextModel_(TEXT, torch.float32, "cpu", comfy.ops.disable_weight_init)
        del self.model.embeddings.token_embedding
        self.table = torch.nn.Embedding(rows, TEXT["hidden_size"])
        common.initialise(self)
        torch.nn.init.normal_(self.table.weight, std=0.1)
        torch.nn.init.normal_(self.model.embeddings.position_embedding.weight, std=0.02)
        self.register_buffer("causal", torch.full((words.LENGTH,) * 2, -1e9).triu_(1), persistent=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        from comfy.ldm.modules.attention import attention_pytorch

        x = self.table(rows) + self.model.embeddings.position_embedding.weight
        # Not encoder.forward: the host adds in place there, which autograd refuses.
        for layer in self.model.encoder.layers:
            x = x + layer.self_attn(layer.layer_norm1(x), self.causal.to(x.dtype), attention_pytorch)
            x = x + layer.mlp(layer.layer_norm2(x))
        return self.model.final_layer_norm(x)


class Pair(torch.nn.Module):
    """UNet and text encoder as one module, for the optimiser and the average."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        import comfy.ops
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        self.unet = UNetModel(**UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        common.initialise(self.unet)
        _zero_outputs(self.unet)
        self.text = TextEncoder(rows)

    def forward(self, x: torch.Tensor, t: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        return self.unet(x, t, context=self.text(rows))


def _zero_outputs(unet: torch.nn.Module) -> None:
    """Start every residual branch at zero, as SD does."""
    from comfy.ldm.modules.attention import SpatialTransformer
    from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock

    for part in unet.modules():
        if isinstance(part, ResBlock):
            torch.nn.init.zeros_(part.out_layers[-1].weight)
        elif isinstance(part, SpatialTransformer):
            torch.nn.init.zeros_(part.proj_out.weight)
    torch.nn.init.zeros_(unet.out[-1].weight)


def schedule() -> torch.Tensor:
    """SD's cumulative alphas, (1000,)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


class Batches(torch.utils.data.IterableDataset):
    """Batches without end: latents (B, 4, h, w) and caption rows (B, 77)."""

    def __init__(self, latents: np.ndarray, plans: list[data.Plan], vocabulary: words.Vocabulary, seed: int, size: int) -> None:
        self.scenes, self.vocabulary, self.seed, self.size = (latents, plans), vocabulary, seed, size

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((23, self.seed, worker.id if worker else 0))
        while True:
            yield _batch(*self.scenes, self.vocabulary, rng, self.size)


def _batch(latents: np.ndarray, plans: list, vocabulary: words.Vocabulary, rng: np.random.Generator,
           size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (B, 4, h, w) and caption rows (B, 77)."""
    chosen = rng.integers(len(latents), size=size)
    rows = []
    for i in chosen:
        text = "" if rng.random() < EMPTY else data.caption(plans[i], rng).text
        rows.append(vocabulary.padded(words.loosen(vocabulary.rows(text), rng)))
    return torch.from_numpy(latents[chosen].astype(np.float32)), torch.from_numpy(np.stack(rows))


def loss_of(model: torch.nn.Module, z: torch.Tensor, rows: torch.Tensor, alphas: torch.Tensor
            ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Min-SNR-5 weighted eps loss; also the timesteps and the plain loss of each sample."""
    t = torch.randint(0, len(alphas), (len(z),), device=z.device)
    a = alphas[t].view(-1, 1, 1, 1)
    noise = torch.randn_like(z)
    with common.autocast(z.device):
        predicted = model(a.sqrt() * z + (1 - a).sqrt() * noise, t, rows)
    each = (predicted.float() - noise).square().mean((1, 2, 3))
    snr = (a / (1 - a)).flatten()
    return (each * snr.clamp(max=5) / snr).mean(), t, each.detach()


def train(settings: common.Settings) -> None:
    """Train for the settings' minutes, resuming from ``unet.pt``."""
    common.prepare(settings.threads, 23)
    latents, plans = scenes(settings)
    device, path, vocabulary = settings.device, settings.work / "unet.pt", words.vocabulary()
    model = Pair(len(vocabulary.ids) + 1)
    if settings.start:
        graft.unet(model.unet, settings.start)
        graft.text(model.text, settings.start, vocabulary.ids)
    model.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    ema, state = common.Ema(model, 0.999), None if settings.fresh else common.load(path, device)
    step, spent = 0, 0.0
    if state:
        model.load_state_dict(state["model"]), optimiser.load_state_dict(state["optimiser"]), ema.restore(state["ema"])
        step, spent = state["step"], state["spent"]
    torch.manual_seed(23 + step)
    batches = iter(torch.utils.data.DataLoader(Batches(latents, plans, vocabulary, step, settings.batch or 32), batch_size=None,
                                               num_workers=settings.workers, pin_memory=device.type == "cuda"))
    alphas, clock = schedule().to(device), common.Clock(settings.minutes, spent)
    seen, print_every, saved = [], 50, spent
    print(f"unet {sum(p.numel() for p in model.unet.parameters()) / 1e6:.1f} M, text "
          f"{sum(p.numel() for p in model.text.parameters()) / 1e6:.2f} M, {len(vocabulary.ids)} tokens", flush=True)
    while clock.progress() < 1:
        z, rows = next(batches)
        loss, t, each = loss_of(model, z.to(device, non_blocking=True), rows.to(device, non_blocking=True), alphas)
        common.descend(optimiser, loss, common.cosine(clock.progress(), step, settings.rate or PEAK), 1.0)
        ema.update(model)
        step += 1
        # Fetched when it is printed: each look would make a GPU wait.
        seen.append((t, each))
        if step % print_every == 0:
            _print(step, clock, seen)
            seen = []
        if clock.spent() > saved + SAVE_EVERY:
            _save(path, model, optimiser, ema, vocabulary, step, clock)
            saved = clock.spent()
    _save(path, model, optimiser, ema, vocabulary, step, clock)


def scenes(settings: common.Settings) -> tuple[np.ndarray, list[data.Plan]]:
    """The latents there are so far, (N, 4, h, w), and their plans."""
    latents = np.load(settings.work / "latents.npy")
    return latents, [data.plan("train", i) for i in range(len(latents))]


def _print(step: int, clock: common.Clock, seen: list) -> None:
    """Loss by quarter of the schedule: the third is where the kind of object is decided."""
    t, each = (torch.cat(parts).cpu() for parts in zip(*seen, strict=True))
    quarters = [float(each[(t >= q * 250) & (t < q * 250 + 250)].mean()) for q in range(4)]
    print(f"unet step {step} {clock.spent() / 60:.1f} min loss " + " ".join(f"{q:.4f}" for q in quarters), flush=True)


def _save(path, model, optimiser, ema, vocabulary, step, clock) -> None:
    common.save(path, {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "ema": ema.state(),
                       "ids": vocabulary.ids, "step": step, "spent": clock.spent()})
