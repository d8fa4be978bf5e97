"""The demo model's scenes, its start from the small one, and how a module runs with the small one in its place."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from demo import files
from demo.small import files as small
from demo.train import data, graft, unet

KINDS = range(len(data.KIND_NAMES))


def test_a_scene_follows_from_its_split_and_index():
    one, again, other = (data.render(data.plan(*which)) for which in (("train", 5), ("train", 5), ("train", 6)))
    assert one.shape == (data.SIZE, data.SIZE, 3) and one.dtype == np.uint8
    assert (one == again).all() and (one != other).any()
    assert data.plan("test", 5) != data.plan("train", 5)


def test_only_training_leaves_the_held_out_pairs_out():
    pairs = {split: {(item.kind, scene.background) for i in range(1500) for scene in [data.plan(split, i)] for item in scene.items}
             for split in ("train", "test")}
    assert not any(data.held_out(*pair) for pair in pairs["train"])
    assert any(data.held_out(*pair) for pair in pairs["test"])
    assert {kind for kind, _ in pairs["train"]} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=data.KIND_NAMES)
def test_an_object_is_painted_in_its_place(kind: int):
    scene = data.alone("test", kind, kind, data.BACKGROUNDS.index("plain white"))
    (item,) = scene.items
    seen = np.asarray(data.layer(item).getchannel("A")) > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    # A turned square is a little wider; a snake leaves most of its own empty.
    reach = 0.58 * item.side
    assert item.x - reach <= columns[0] and columns[-1] <= item.x + reach and item.y - reach <= rows[0] and rows[-1] <= item.y + reach
    assert seen.sum() > 0.05 * item.side**2
    empty = data.render(data.Plan((), scene.background, scene.seed))
    changed = (data.render(scene) != empty).any(-1)
    assert (changed <= (np.asarray(data.layer(item).getchannel("A")) > 0)).all() and changed.sum() > 0.5 * seen.sum()


def test_a_caption_names_what_shows():
    named = 0
    for i in range(300):
        scene = data.plan("train", i)
        said = data.caption(scene, np.random.default_rng(i))
        assert said.kinds <= {item.kind for item in scene.items}
        assert all(data.KIND_NAMES[kind] in said.text for kind in said.kinds)
        named += bool(said.kinds)
    assert named > 200


def test_the_unet_starts_from_the_small_ones():
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    model = UNetModel(**unet.UNET, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
    for weight in model.parameters():
        torch.nn.init.constant_(weight, torch.nan)
    graft.unet(model, small.WEIGHTS)
    left = {name.rsplit(".", 1)[0] for name, weight in model.named_parameters() if weight.isnan().any()}
    assert all(name.startswith("output_blocks.6.0.") for name in left)
    x = torch.randn(1, model.model_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model.input_blocks[1][0](x), F.avg_pool2d(x, 2), atol=1e-6)
        assert torch.allclose(model.output_blocks[5][2](x), F.interpolate(x, scale_factor=2.0), atol=1e-6)
        assert torch.allclose(model.output_blocks[6][0].skip_connection(torch.cat([x, -x], 1)), x, atol=1e-6)
    graft.unet(model, files.WEIGHTS)
    whole = graft.load(files.WEIGHTS, "unet")
    assert all(torch.equal(weight, whole[name]) for name, weight in model.state_dict().items()), "one of its own shape is taken as it is"


def test_a_module_and_its_processes_run_with_the_small_models_scenes_and_files(tmp_path):
    (tmp_path / "probe.py").write_text("from bench._process import apart\nfrom demo.files import WEIGHTS\nfrom demo.train import data, judge\n"
                                       "def size(): return data.SIZE\n"
                                       "def main(): print(size(), apart(size), judge.Judge().head.out_features, WEIGHTS)\n")
    paths = os.environ | {"PYTHONPATH": os.pathsep.join([*map(str, (files.HOME.parent, tmp_path)), *sys.path])}
    done = subprocess.run([sys.executable, "-m", "demo.small.run", "probe"], env=paths, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["128", "128", "24", str(files.HOME / "small" / "models" / "bld_demo.safetensors")]
