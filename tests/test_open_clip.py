"""The node OpenClipLoader: where models come from, what the host does with them, and what is refused.

The models here are tiny ones of open_clip's own classes with random weights. The hub is a real server of the Hub's protocol on this machine.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import comfy.model_management
import folder_paths
import huggingface_hub.constants
import huggingface_hub.file_download
import open_clip
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from blended_latent_diffusion.bridge.clip import models as clips
from blended_latent_diffusion.bridge.clip.similarity import similarity
from blended_latent_diffusion.nodes.open_clip_loader import OpenClipLoader

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
TINY = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
RESNET = {"embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}, "text_cfg": TEXT}
COCA = {
    **TINY,
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "attn_pooler_heads": 2},
    "custom_text": True,
}
SIGLIP = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": True, "timm_pool": "avg", "timm_proj": "none"},
    "text_cfg": {**TEXT, "vocab_size": 16, "hf_tokenizer_name": "them/words", "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
}
HF_TEXT = {**TINY, "text_cfg": {"hf_model_name": "them/bert", "hf_tokenizer_name": "them/words", "context_length": 16, "hf_proj_type": "mlp"}}
# The same CLIP as open_clip's config and as transformers'; no two sizes are alike, and there are layers to mix up.
PICK = {"embed_dim": 24, "vision_cfg": {**VISION, "width": 64, "layers": 2}, "text_cfg": {**TEXT, "layers": 3}}
PICK_VISION = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32, "patch_size": 16}
PICK_TEXT = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 16}
OURS = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "interpolation": "bilinear", "resize_mode": "squash"}
INTERFACE = Path(__file__).with_name("interface.json")
REVISION = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(pack, tmp_path, monkeypatch) -> Path:
    """The host's models/open_clip, empty, and a Hub cache of the user's, empty too."""
    path = tmp_path / "models" / "open_clip"
    path.mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "models_dir", str(path.parent))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "open_clip", ([str(path)], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "users_cache"))
    return path


@pytest.fixture
def offline(monkeypatch) -> list:
    """Every attempt to reach another machine, each of which fails."""
    tried = []

    def refuse(self, address):
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: refuse(None, address))
    return tried


def model_of(config: dict, **options) -> torch.nn.Module:
    """An untrained model of that architecture, straight from open_clip."""
    torch.manual_seed(0)
    return open_clip.create_model(clips.register(config), load_weights=False, pretrained_text=False, **options).eval()


def put(folder: Path, name: str, config: dict | None = None, state: dict | None = None) -> str:
    """A weights file in the folder, with its config beside it."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.clone().contiguous() for key, value in (state or model_of(config).state_dict()).items()}, path)
    if config:
        path.with_suffix(".json").write_text(json.dumps(config))
    return name


def put_words(folder: Path) -> None:
    """A tokenizer and a text tower's config, as repositories of the Hub that lie on disk."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "a": 2, "fox": 3, "pizza": 4, "and": 5}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder / "them" / "words")
    bert = transformers.BertConfig(vocab_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, pad_token_id=0)
    bert.save_pretrained(folder / "them" / "bert")


@pytest.fixture
def tag(monkeypatch) -> str:
    """A pretrained model that open_clip knows, whose weights are on the Hub."""
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "bld-tiny", {"ours": open_clip.pretrained._pcfg(hf_hub="them/tiny/", **OURS)})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "bld-tiny", TINY)
    # The list is read from a copy of open_clip's table, which lacks what is added here.
    known = [*clips.tags(), "bld-tiny ours"]
    monkeypatch.setattr(clips, "tags", lambda: known)
    return known[-1]


def load(name: str, download: bool = False) -> clips.OpenClip:
    with torch.inference_mode():
        return OpenClipLoader.execute(name, download).args[0]


def pictures(side: int) -> torch.Tensor:
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(1))


def scores_of(clip: clips.OpenClip) -> torch.Tensor:
    """Of three pictures of the model's own size."""
    shown = pictures(clip.size[0]).movedim(1, -1)
    with torch.inference_mode():
        return similarity(list(shown), [torch.ones(shown.shape[1:3])] * 3, clip, [["a fox"]], [], ["whole"], 0.0)[:, 0]


def direct_scores(model: torch.nn.Module, tokens: torch.Tensor, preprocess: dict) -> torch.Tensor:
    """The same by open_clip's own methods."""
    size = model.visual.image_size
    mean, std = (torch.tensor(preprocess[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        images = (pictures(size[0] if isinstance(size, tuple) else size) - mean) / std
        return model.encode_image(images, normalize=True) @ model.encode_text(tokens, normalize=True)[0]


def test_the_list_holds_files_and_the_pretrained_models_that_fit(folder):
    put(folder, "mine.safetensors", TINY)
    put(folder, f"models--them--tiny/snapshots/{REVISION}/open_clip_model.safetensors", state={"a": torch.zeros(1)})
    (folder / "old.bin").write_bytes(b"")
    options = OpenClipLoader.define_schema().inputs[0].options
    assert options[:2] == ["mine.safetensors", "ViT-B-16-quickgelu openai"]
    assert {"ViT-B-16 laion2b_s34b_b88k", "ViT-H-14 laion2b_s32b_b79k", "ViT-B-16-SigLIP webli", "coca_ViT-B-32 laion2b_s13b_b90k"} < set(options)
    assert "ViT-B-16 openai" not in options, "those weights need the other GELU"
    assert len(options) > 150 and len(set(options)) == len(options)


@pytest.mark.promise("asks-nobody")
def test_without_download_no_pretrained_model_asks_the_network(folder, offline):
    for name in clips.tags()[::9]:
        repository = open_clip.get_pretrained_cfg(*name.split())["hf_hub"].rpartition("/")[0]
        refused = OpenClipLoader.validate_inputs(name, False)
        assert refused.startswith(f"clip_name is {name}, which is not on disk, and download is off: turn it on, or save ")
        assert refused.endswith(f" of {repository} on the Hugging Face Hub in models/open_clip/{repository}.")
    with pytest.raises(ValueError, match="download is off: turn it on, or save open_clip_model.safetensors of timm/vit_base_patch16_clip_224.openai"):
        load(clips.PAPER)
    assert OpenClipLoader.validate_inputs(clips.PAPER, True) is True and OpenClipLoader.validate_inputs(None, None) is True
    assert "neither a file in models/open_clip nor" in OpenClipLoader.validate_inputs("else", True)
    assert offline == []


@pytest.mark.parametrize("place", ["them/tiny", f"models--them--tiny/snapshots/{REVISION}"])
def test_a_tag_on_disk_is_loaded_from_there(folder, offline, tag, place):
    model = model_of(TINY)
    put(folder, f"{place}/open_clip_model.safetensors", state=model.state_dict())
    (folder / "models--them--tiny" / "refs").mkdir(parents=True)
    (folder / "models--them--tiny" / "refs" / "main").write_text(REVISION)
    assert OpenClipLoader.validate_inputs(tag, False) is True
    clip = load(tag)
    assert (clip.mean, clip.std, clip.interpolation, clip.size) == (OURS["mean"], OURS["std"], "bilinear", (32, 32))
    assert torch.allclose(scores_of(clip), direct_scores(model, open_clip.tokenize(["a fox"], 16), OURS), atol=1e-5)
    assert offline == []


class Hub(BaseHTTPRequestHandler):
    """The Hub's protocol for the files of a folder <owner>/<name>/<file>."""

    root: Path
    asked: list[str]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.asked.append(self.path)
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[0] == "api":
            folder = self.root / parts[2] / parts[3]
            names = [{"type": "file", "rfilename": path.name, "path": path.name, "size": path.stat().st_size, "oid": ""} for path in folder.iterdir()]
            answer = names if "tree" in parts else {"id": f"{parts[2]}/{parts[3]}", "sha": REVISION, "siblings": names}
            return self.answer(json.dumps(answer).encode())
        path = self.root / parts[0] / parts[1] / parts[-1]
        return self.answer(path.read_bytes()) if path.is_file() else self.answer(b"", 404)

    def answer(self, body: bytes, status: int = 200):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), "ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X-Repo-Commit": REVISION}.items():
            self.send_header(name, str(value))
        if status == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Iterator[type[Hub]]:
    """The Hub: put files into its root."""
    handler = type("OurHub", (Hub,), {"root": tmp_path / "hub", "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        # Old clients keep a name of their own for it.
        for module in (huggingface_hub.constants, huggingface_hub.file_download):
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}", raising=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler
        server.shutdown()


@pytest.mark.promise("clip-download")
def test_a_download_lands_in_the_hosts_folder_and_only_when_asked_for(folder, hub, tag):
    put(hub.root, "them/tiny/open_clip_model.safetensors", state=model_of(TINY).state_dict())
    with pytest.raises(ValueError, match="download is off"):
        load(tag)
    assert hub.asked == []
    scores = scores_of(load(tag, download=True))
    assert [path.name for path in folder.rglob("*.safetensors")] == ["open_clip_model.safetensors"]
    assert not Path(huggingface_hub.constants.HF_HUB_CACHE).exists()
    hub.asked.clear()
    assert torch.equal(scores_of(load(tag)), scores) and hub.asked == [], "now it is on disk"


@pytest.fixture
def known() -> Iterator[None]:
    """An architecture of open_clip's own whose tokenizer is the one of SIGLIP."""
    open_clip.factory._MODEL_CONFIGS["their-siglip"] = SIGLIP
    yield
    # open_clip has made the dict anew with each config that was registered.
    del open_clip.factory._MODEL_CONFIGS["their-siglip"]


def test_a_tokenizer_is_downloaded_only_when_asked_for_too(folder, hub, known):
    put_words(hub.root)
    put(folder, "siglip.safetensors", SIGLIP)
    sentence = "needs its tokenizer from them/words on the Hugging Face Hub, but download is off: turn it on, or save tokenizer_config.json and its other"
    assert sentence in OpenClipLoader.validate_inputs("siglip.safetensors", False)
    with pytest.raises(ValueError, match=sentence):
        load("siglip.safetensors")
    assert hub.asked == []
    scores = scores_of(load("siglip.safetensors", download=True))
    hub.asked.clear()
    assert torch.equal(scores_of(load("siglip.safetensors")), scores) and hub.asked == []
    assert list(folder.rglob("tokenizer_config.json"))


@pytest.mark.promise("only-open-clips")
def test_nothing_is_downloaded_that_open_clip_does_not_name(folder, hub):
    put_words(hub.root)
    put(folder, "siglip.safetensors", SIGLIP)
    sentence = "needs its tokenizer from them/words on the Hugging Face Hub, but open_clip itself doesn't use it, so it isn't downloaded: save"
    for download in (True, True):  # the first try must not make it known
        assert sentence in OpenClipLoader.validate_inputs("siglip.safetensors", download)
        with pytest.raises(ValueError, match=sentence):
            load("siglip.safetensors", download)
    assert hub.asked == []
    put_words(folder)
    assert load("siglip.safetensors", download=True).size == (160, 160)


@pytest.mark.promise("log-says-first")
def test_the_log_says_what_is_downloaded_how_large_it_is_and_from_where(folder, hub, tag, caplog):
    caplog.set_level("INFO")
    put(hub.root, "them/tiny/open_clip_model.safetensors", state=model_of(TINY).state_dict())
    size = (hub.root / "them/tiny/open_clip_model.safetensors").stat().st_size
    load(tag, download=True)
    (line,) = (record.getMessage() for record in caplog.records if "Load OpenCLIP" in record.getMessage())
    assert line.startswith("Load OpenCLIP downloads from http://127.0.0.1:") and "/them/tiny to " in line and str(folder) in line
    assert line.endswith(f": open_clip_model.safetensors ({size / 1e6:.1f} MB)")


def test_a_failed_download_gets_one_clear_sentence(folder, hub, tag):
    with pytest.raises(ValueError, match="^download is on, but them/tiny on the Hugging Face Hub can't be downloaded: .*; check the network") as error:
        load(tag, download=True)
    assert "\n" not in str(error.value) and not list(folder.rglob("*.safetensors"))


def with_text(**text: object) -> dict:
    return {**TINY, "text_cfg": {**TEXT, **text}}


def with_vision(**vision: object) -> dict:
    return {**TINY, "vision_cfg": {**VISION, **vision}}


@pytest.mark.promise("no-code")
@pytest.mark.parametrize(
    "config, reason",
    [
        (with_text(hf_tokenizer_name="../../secrets"), "hf_tokenizer_name is no repository"),
        (with_text(hf_tokenizer_name="/etc"), "hf_tokenizer_name is no repository"),
        (with_text(hf_tokenizer_name="C:\\secrets"), "hf_tokenizer_name is no repository"),
        (with_text(hf_model_name=["them/words"]), "hf_model_name is no repository"),
        (with_text(hf_tokenizer_name="them/words", tokenizer_kwargs={"trust_remote_code": True}), "tokenizer_kwargs may only be clean, language, strip_sep"),
        (with_vision(timm_model_name="hf-hub:them/model"), "timm_model_name is no architecture"),
        (with_vision(timm_model_name="local-dir:/tmp/model"), "timm_model_name is no architecture"),
        (with_text(context_length=10**6), "context_length is too large"),
        (with_text(layers=10**9), "layers is too large"),
        (with_text(width=10**400), "width is too large"),
        (with_vision(image_size=4096, patch_size=1), "it cuts a picture of 4096 pixels into patches of 1"),
        ({**TINY, "embed_dim": 2**40}, "embed_dim is too large"),
        ({"model_cfg": TINY, "preprocess_cfg": {"mean": 5}}, "mean must be three numbers from 0 to 1"),
        ({"model_cfg": TINY, "preprocess_cfg": {"mean": ["a", "b", "c"]}}, "mean must be three numbers from 0 to 1"),
        ({"model_cfg": TINY, "preprocess_cfg": {"mean": [0.5, 0.5, float("nan")]}}, "mean must be three numbers from 0 to 1"),
        ({"model_cfg": TINY, "preprocess_cfg": {"std": [0, 0, 0]}}, "std must be three numbers from 0.001 to 1"),
    ],
)
def test_a_config_may_not_do_more_than_describe_a_clip(folder, offline, config, reason):
    put(folder, "mine.safetensors", state={"visual.proj": torch.zeros(1), "text_projection": torch.zeros(1)})
    (folder / "mine.json").write_text(json.dumps(config))
    for download in (False, True):
        refused = OpenClipLoader.validate_inputs("mine.safetensors", download)
        assert refused.startswith("clip mine.safetensors: mine.json next to it is refused, because ") and reason in refused
        with pytest.raises(ValueError, match=re.escape(refused)):
            load("mine.safetensors", download)
    assert offline == []


@pytest.mark.promise("no-false-sizes")
@pytest.mark.parametrize("vision", [{}, {"timm_model_name": ""}, {"timm_model_name": None}, {"timm_model_name": "test_vit"}], ids=str)
def test_a_model_that_is_larger_than_its_file_takes_no_memory(folder, vision):
    """The widths are allowed one by one, and together they are 70 TB, or 4 TB beside an image tower of timm's."""
    put(folder, "mine.safetensors", state={"visual.proj": torch.zeros(1), "text_projection": torch.zeros(1)})
    config = {"embed_dim": 2**20, "vision_cfg": {**VISION, "width": 2**20, **vision}, "text_cfg": {**TEXT, "vocab_size": 2**20, "width": 2**20}}
    (folder / "mine.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="it has [0-9]+ weights, more than a file of [0-9]+ bytes holds"):
        load("mine.safetensors")


@pytest.mark.promise("clip")
@pytest.mark.parametrize("config", [TINY, RESNET, COCA, SIGLIP, HF_TEXT], ids=["vit", "resnet", "coca", "siglip-like", "hf text tower"])
def test_every_kind_of_open_clip_model_scores_as_by_itself(folder, offline, config):
    put_words(folder)
    local = clips.with_local_files(clips.Recipe("", None, config, {}, {}))
    model = model_of(local)
    put(folder, "them/model/open_clip_model.safetensors", state=model.state_dict())
    (folder / "them/model/open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": OURS}))
    clip = load("them/model/open_clip_model.safetensors")
    tokens = open_clip.get_tokenizer(clips.register(local))(["a fox"])
    assert torch.allclose(scores_of(clip), direct_scores(model, tokens, OURS), atol=1e-5)
    assert clip.kept("a fox " * 40).split() == clip.kept("a fox " * 50).split() and len(clip.kept("a fox " * 40).split()) < 17
    assert clip.kept("a fox") == "a fox"
    assert offline == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("config", [TINY, RESNET, COCA, SIGLIP, HF_TEXT], ids=["vit", "resnet", "coca", "siglip-like", "hf text tower"])
def test_half_precision_where_the_host_likes_it(folder, monkeypatch, config, dtype):
    put_words(folder)
    put(folder, "mine.safetensors", config, model_of(clips.with_local_files(clips.Recipe("", None, config, {}, {}))).state_dict())
    full = scores_of(load("mine.safetensors"))
    # The host says no for a CPU.
    monkeypatch.setattr(comfy.model_management, "should_use_fp16", lambda *_, **__: dtype == torch.float16)
    monkeypatch.setattr(comfy.model_management, "should_use_bf16", lambda *_, **__: dtype == torch.bfloat16)
    clip = load("mine.safetensors")
    assert clip.dtype == dtype and {p.dtype for p in clip.patcher.model.parameters()} == {dtype}
    assert clip.patcher.model_size() < 0.6 * sum(4 * p.numel() for p in clip.patcher.model.parameters())
    scores = scores_of(clip)
    assert torch.allclose(scores, full, atol=5e-3 if dtype == torch.float16 else 4e-2)


def published(folder: Path, activation: str = "gelu", width: int = 64) -> tuple[transformers.CLIPModel, dict[str, torch.Tensor]]:
    """An untrained model of transformers, every weight of which matters, and the file it makes, with the buffers that its older versions kept."""
    towers = {"vision_config": {**PICK_VISION, "hidden_size": width, "intermediate_size": 4 * width}, "text_config": PICK_TEXT}
    torch.manual_seed(0)
    model = transformers.CLIPModel(transformers.CLIPConfig(**{key: {**tower, "hidden_act": activation} for key, tower in towers.items()}, projection_dim=24))
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    model.eval().save_pretrained(folder)
    ids = {f"{tower}_model.embeddings.position_ids": torch.arange(16)[None] for tower in ("text", "vision")}
    return model, {**load_file(folder / "model.safetensors"), **ids}


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_a_clip_of_transformers_embeds_as_by_itself(folder, tmp_path, monkeypatch, offline, activation):
    model, state = published(tmp_path, activation)
    config = {**PICK, "quick_gelu": activation == "quick_gelu"}
    put(folder, "pick/model.safetensors", state=state)
    (folder / "pick/open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": OURS}))
    clip, images, prompts = load("pick/model.safetensors"), pictures(32), ["a fox", "a pizza with a fox on it"]
    assert (clip.mean, clip.std, clip.interpolation, clip.size) == (OURS["mean"], OURS["std"], "bilinear", (32, 32))
    mean, std = (torch.tensor(OURS[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        clip.load()
        theirs = model.get_image_features((images - mean) / std), model.get_text_features(open_clip.tokenize(prompts, 16))
        for ours, expected in zip((clip.embed_images(images), clip.embed_text(prompts)), theirs, strict=True):
            pooled = getattr(expected, "pooler_output", expected)  # a tensor before transformers 5
            assert torch.allclose(ours, pooled, rtol=0, atol=1e-5) and ours.std() > 0.1
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "bld-pick", config)
    named = load(put(folder, "bld-pick.safetensors", state=state))
    assert torch.equal(named.embed_text(prompts), clip.embed_text(prompts)), "named by its architecture"
    assert offline == []


def test_a_cpu_computes_in_float32(folder):
    assert load(put(folder, "mine.safetensors", TINY)).dtype == torch.float32


def test_the_host_owns_the_model(folder):
    clip = load(put(folder, "mine.safetensors", TINY))
    scores = scores_of(clip)

    def held():
        return [loaded for loaded in comfy.model_management.current_loaded_models if loaded.model is clip.patcher]

    assert held() and clip.patcher.loaded_size() == clip.patcher.model_size() > 0
    comfy.model_management.unload_all_models()  # what /free does
    assert not held() and clip.patcher.loaded_size() == 0
    assert torch.equal(scores_of(clip), scores) and held()
    clip.patcher.partially_unload(clip.patcher.offload_device, 1)  # what another model's loading does when memory is short
    assert torch.equal(scores_of(clip), scores) and clip.patcher.loaded_size() == clip.patcher.model_size()


def test_a_config_beside_a_file_replaces_none_of_open_clips(folder):
    shipped = Path(open_clip.__file__).parent / "model_configs" / "ViT-B-32.json"
    assert load(put(folder, "ViT-B-32.safetensors", TINY)).size == (32, 32)
    assert open_clip.get_model_config("ViT-B-32") == json.loads(shipped.read_text())


@pytest.mark.promise("clip-file")
def test_a_file_named_by_its_architecture_is_prepared_as_its_weights_were(folder):
    means = {}
    for name in ("ViT-B-16-SigLIP", "ViT-B-16", "ViT-L-14"):
        put(folder, f"{name}.safetensors", state={"a": torch.zeros(1)})
        means[name] = clips.recipe(f"{name}.safetensors").preprocess.get("mean")
    assert means == {"ViT-B-16-SigLIP": (0.5, 0.5, 0.5), "ViT-B-16": open_clip.OPENAI_DATASET_MEAN, "ViT-L-14": None}, "L-14's weights differ in it"


@pytest.mark.parametrize(
    "name, config, state, sentence",
    [
        ("mine.safetensors", None, {"a": 1}, "has no mine.json next to it, and mine is no open_clip architecture"),
        (
            "mine.safetensors",
            TINY,
            {"model.diffusion_model.out.weight": 1, "x": 1},
            "is not a CLIP in open_clip's or transformers' layout: it has weights such as",
        ),
        ("mine.safetensors", TINY, {"visual.proj": 1, "logit_scale": 1}, "has no text encoder, so it can't compare pictures with a prompt"),
        ("mine.safetensors", TINY, {"token_embedding.weight": 1, "text_projection": 1}, "has no image encoder, so it can't compare pictures with a prompt"),
        ("mine.safetensors", TINY, {"visual.proj": 1, "text_projection": 1}, "doesn't fit its architecture"),
        ("mine.safetensors", {"embed_dim": 16, "vision_cfg": VISION}, {"visual.proj": 1}, "has no text encoder"),
        (
            "mine.safetensors",
            {"hidden_size": 5},
            {"a": 1},
            "mine.json next to it is not an open_clip config, because it lacks embed_dim and vision_cfg and text_cfg",
        ),
        ("mine.safetensors", [1], {"a": 1}, "mine.json next to it is not an open_clip config"),
        ("mine.safetensors", {**TINY, "else": 1}, {"visual.proj": 1, "text_projection": 1}, "doesn't fit its architecture"),
    ],
)
def test_what_is_not_a_clip_gets_one_clear_sentence(folder, offline, name, config, state, sentence):
    put(folder, name, config, {key: torch.zeros(value) for key, value in state.items()})
    with pytest.raises(ValueError, match=sentence) as refused:
        load(name)
    assert str(refused.value).startswith(f"clip {name}") and "\n" not in str(refused.value) and len(str(refused.value)) < 300
    assert offline == []


@pytest.mark.parametrize(
    "kept, width, sentence",
    [
        (("vision_model.", "visual_projection."), 64, "has no text encoder, so it can't compare pictures with a prompt: choose a complete CLIP"),
        (("text_model.", "text_projection."), 64, "has no image encoder, so it can't compare pictures with a prompt: choose a complete CLIP"),
        ("", 32, r"doesn't fit its architecture, .*: size mismatch for visual.*\(\[32\]\) .* current model is .*\(\[64\]\)"),
        ("", 128, r"doesn't fit its architecture, .*: size mismatch for visual.*\(\[128\]\) .* current model is .*\(\[64\]\)"),
    ],
    ids=["vision only", "text only", "narrower", "wider"],
)
def test_half_a_clip_of_transformers_or_another_width_gets_one_clear_sentence(folder, tmp_path, kept, width, sentence):
    state = {key: weight for key, weight in published(tmp_path, width=width)[1].items() if key.startswith(kept)}
    with pytest.raises(ValueError, match=f"clip mine.safetensors {sentence}") as refused:
        load(put(folder, "mine.safetensors", PICK, state))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 300


def test_a_damaged_file_gets_one_clear_sentence(folder):
    put(folder, "mine.safetensors", TINY)
    (folder / "mine.safetensors").write_bytes(b"<html>404</html>")
    with pytest.raises(ValueError, match="clip mine.safetensors can't be read because mine.safetensors is damaged, so download it again"):
        load("mine.safetensors")


def header(entry: dict, body: int = 64, length: int | None = None) -> bytes:
    """A safetensors file of one weight, as its header tells it."""
    text = json.dumps({"visual.proj": entry}).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + bytes(body)


@pytest.mark.promise("no-false-sizes")
@pytest.mark.parametrize(
    "content",
    [
        header({"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}, body=8),
        header({"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 64]}),
        header({"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 2**63]}),
        header({"dtype": "F32", "shape": [4, 4], "data_offsets": [-64, 0]}),
        header({"dtype": "F32", "shape": [4, 4], "data_offsets": [64, 0]}),
        header({"dtype": "PICKLE", "shape": [4, 4], "data_offsets": [0, 64]}),
        header({"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}, length=2**62),
        header({"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}, length=3),
        (10**5).to_bytes(8, "little") + b"[" * 10**5,
        b"",
    ],
)
def test_a_header_that_lies_gets_one_clear_sentence(folder, content):
    put(folder, "mine.safetensors", TINY)
    (folder / "mine.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match="clip mine.safetensors can't be read because mine.safetensors is damaged") as error:
        load("mine.safetensors")
    assert "".join(traceback.format_exception(error.value)).replace("\n", "").isprintable(), "ComfyUI logs all of it"


@pytest.mark.promise("texts-stay-texts")
def test_names_in_a_file_cannot_control_the_terminal(folder):
    put(folder, "mine.safetensors", TINY, {"a\x1b[2J\x1b]0;title\x07\u202e": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"it has weights such as a\\x1b\[2J") as error:
        load("mine.safetensors")
    assert "".join(traceback.format_exception(error.value)).replace("\n", "").isprintable(), "ComfyUI logs all of it"


class Payload:
    def __reduce__(self):
        return own, (1,)


def own(value: int) -> None:
    owned.append(value)


owned: list[int] = []


@pytest.mark.promise("no-code", "no-pickles")
def test_no_pickle_is_loaded_whatever_lies_on_disk_or_on_the_hub(folder, hub, tag):
    """Neither where open_clip itself would take it, nor in the place of a safetensors file."""
    for path in (folder / "them" / "tiny" / "open_clip_pytorch_model.bin", folder / "mine.bin", hub.root / "them" / "tiny" / "open_clip_pytorch_model.bin"):
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"state_dict": model_of(TINY).state_dict(), "more": Payload()}, path)
    with pytest.raises(ValueError, match="^clip_name is bld-tiny ours, which is not on disk, and download is off"):
        load(tag)
    with pytest.raises(ValueError, match="can't be downloaded: it has none of the files that are needed, or only as a pickle file, which is never loaded;"):
        load(tag, download=True)
    with pytest.raises(ValueError, match="^clip_name is 'mine.bin', but must be one of the choices that the node offers"):
        load("mine.bin")
    put(folder, "mine.safetensors", TINY)
    (folder / "mine.bin").replace(folder / "mine.safetensors")
    with pytest.raises(ValueError, match="^clip mine.safetensors can't be read because mine.safetensors is damaged"):
        load("mine.safetensors")
    assert not any(path.endswith(".bin") for path in hub.asked) and owned == []
    torch.load(folder / "mine.safetensors", weights_only=False)
    assert owned == [1], "the payload would have run"


@pytest.mark.promise("without-open-clip")
def test_without_open_clip_the_node_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    clips.tags.cache_clear()
    try:
        assert OpenClipLoader.define_schema().inputs[0].options == [clips.PAPER]
        assert "pip install open_clip_torch" in OpenClipLoader.validate_inputs(clips.PAPER, False)
        with pytest.raises(ImportError, match="pip install open_clip_torch"):
            load(clips.PAPER)
    finally:
        clips.tags.cache_clear()


START = """
import asyncio, json, sys
pack, broken = sys.argv[1:]
sys.argv[1:] = ["--cpu"]
import comfy.options
comfy.options.enable_args_parsing()
import nodes
for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
    del sys.modules[name]
sys.path.insert(0, broken)
stock, imported = set(nodes.NODE_CLASS_MAPPINGS), set(sys.modules)
asyncio.run(nodes.load_custom_node(pack))
imported = sorted({name.partition(".")[0] for name in set(sys.modules) - imported} & {"open_clip", "timm", "torchvision"})
loader = nodes.NODE_CLASS_MAPPINGS["OpenClipLoader"]
options = loader.define_schema().inputs[0].options
print(json.dumps([sorted(set(nodes.NODE_CLASS_MAPPINGS) - stock), imported, options, loader.validate_inputs(options[0], False)]))
"""


@pytest.mark.promise("without-open-clip")
def test_a_start_imports_no_open_clip_and_a_broken_one_takes_no_node_with_it(pack, host, tmp_path):
    broken = tmp_path / "torchvision" / "__init__.py"
    broken.parent.mkdir()
    broken.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    command = [host.python, "-c", START, Path(pack.__file__).parent, tmp_path]
    done = subprocess.run(command, cwd=host.comfyui, env=host.environment(host.comfyui), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    nodes, imported, options, refused = json.loads(done.stdout.splitlines()[-1])
    assert nodes == sorted(json.loads(INTERFACE.read_text(encoding="utf-8")))
    assert imported == [] and options == clips.tags()
    assert refused == (
        "Load OpenCLIP can't import open_clip: operator torchvision::nms does not exist. "
        "Reinstall the package at fault in ComfyUI's Python, then restart ComfyUI."
    )
