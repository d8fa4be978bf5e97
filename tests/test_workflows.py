"""The example workflows in the real server, as a client runs them; the public interface of the nodes."""

from __future__ import annotations

import copy
import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import ROOT, needs_math
from host import demo
from host.client import Client, Event, ExecutionFailed, Interrupted, PromptRefused

Json = dict[str, Any]

EXAMPLES = sorted(path.stem for path in (ROOT / "example_workflows").glob("*.json"))
NEEDS_A_CHECKPOINT, NEEDS_ANOTHER_PACK = {"sd15_or_sdxl"}, {"many_machines"}
INTERFACE = ROOT / "tests" / "interface.json"


def workflow(name: str) -> Json:
    return json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))


def nodes_of(prompt: Json, kind: str) -> list[str]:
    return [node_id for node_id, node in prompt.items() if node["class_type"] == kind]


def pixels(client: Client, run: Any, node: str) -> np.ndarray:
    """The first picture that a node saved or previewed, as floats in 0..1."""
    return np.asarray(Image.open(BytesIO(client.images(run, node)[0])).convert("RGB"), np.float32) / 255


def quick(client: Client, seed: int, **sampler: Any) -> Json:
    """The main example with few steps, so that a test is short, and a seed of its own, so that nothing is cached."""
    prompt = client.prompt(workflow("blended_latent_edit"))
    prompt[nodes_of(prompt, "BlendedLatentKSampler")[0]]["inputs"].update({"seed": seed, "steps": 8, "candidates": 2} | sampler)
    return prompt


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_has_its_picture_and_no_foreign_node(client, name):
    if name == "one_node":
        needs_math(client)
    with Image.open(ROOT / "example_workflows" / f"{name}.jpg") as picture:
        assert min(picture.size) >= 128
    ours = {"custom_nodes.comfyui-blended-latent-diffusion", "custom_nodes.bld-demo"}
    for node in client.prompt(workflow(name)).values():
        module = client.object_info()[node["class_type"]]["python_module"]
        allowed = ours | ({"custom_nodes.distributed"} if name in NEEDS_ANOTHER_PACK else set())
        assert module in allowed or not module.startswith("custom_nodes."), f"{node['class_type']} is of {module}"


@pytest.mark.promise("same-outputs")
def test_the_checkpoint_example_is_the_main_example_with_another_loader(client):
    ours, theirs = client.prompt(workflow("blended_latent_edit")), client.prompt(workflow("sd15_or_sdxl"))
    kinds = [sorted(node["class_type"] for node in prompt.values()) for prompt in (ours, theirs)]
    kinds[0][kinds[0].index("LoadDemoModel")] = "CheckpointLoaderSimple"
    assert sorted(kinds[0]) == kinds[1]
    with pytest.raises(PromptRefused) as refused:
        client.queue(theirs)
    missing = {entry["class_type"] for entry in refused.value.node_errors.values()}
    assert missing == {"CheckpointLoaderSimple", "OpenClipLoader"}, "nothing but the user's own files"
    assert "download is off: turn it on" in str(refused.value)


def test_the_edit_shows_in_the_mask_and_nowhere_else(client):
    prompt = quick(client, seed=11)
    edit = prompt[nodes_of(prompt, "DecoderFinetuneReconstruct")[0]]["inputs"]
    prompt["mask"] = {"class_type": "MaskToImage", "inputs": {"mask": edit["mask"]}}
    for name, link in {"source_view": edit["image"], "mask_view": ["mask", 0], "result_view": [nodes_of(prompt, "DecoderFinetuneReconstruct")[0], 0]}.items():
        prompt[name] = {"class_type": "PreviewImage", "inputs": {"images": link}}
    run = client.run(prompt)
    source, mask, result = (pixels(client, run, name) for name in ("source_view", "mask_view", "result_view"))
    inside = mask[..., 0] > 0.5
    assert np.abs(result - source)[inside].mean() > 0.05
    assert np.array_equal(result[~inside], source[~inside]), "the background is the source's"


@pytest.mark.promise("your-comfyui-stays")
def test_a_run_changes_nothing_in_the_comfyui_tree(client, host):
    def files() -> dict[str, tuple[int, int]]:
        """Size and time of each file. Python's bytecode is no one's."""
        found = (path for path in host.comfyui.rglob("*") if "__pycache__" not in path.parts and path.is_file())
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}

    before = files()
    assert len(before) > 100
    assert nodes_of(prompt := quick(client, seed=21), "SaveImage")
    client.run(prompt)
    assert files() == before


@pytest.mark.promise("demo")
def test_the_demo_reads_the_ranking_that_the_report_tells(client):
    prompt = quick(client, seed=18)
    (rank,) = nodes_of(prompt, "ClipRankBatch")
    taps = demo.tap(prompt, client.object_info())
    prompt["report"] = {"class_type": "PreviewAny", "inputs": {"source": [rank, 4]}}
    run = client.run(prompt)
    told = [f"{place}. candidate {index}: {score:.4f}" for place, (index, score) in enumerate(demo.ranking(run, taps), 1)]
    assert len(told) == 2 and all(line in run.outputs["report"]["text"][0] for line in told)


def test_the_same_again_comes_from_the_cache(client):
    prompt = quick(client, seed=12)
    client.run(prompt)
    again = client.run(prompt)
    assert again.executed == [] or set(again.executed) <= set(nodes_of(prompt, "SaveImage"))


def cancel_in(client: Client, prompt: Json, kind: str) -> None:
    """Run a prompt and cancel it when a node of this type has shown some progress."""
    (node,) = nodes_of(prompt, kind)

    def on_event(event: Event) -> None:
        if event.type == "progress" and event.node == node and event.data["value"] >= 2:
            client.interrupt()

    with pytest.raises(Interrupted) as interrupted:
        client.run(prompt, on_event)
    assert interrupted.value.node_id == node


@pytest.mark.parametrize(
    "kind, seed", [("BlendedLatentKSampler", 13), ("DecoderFinetuneReconstruct", 14)], ids=["in mid-sampling", "in mid-fine-tune"]
)
def test_after_cancel_the_next_run_is_clean(client, kind, seed):
    prompt = quick(client, seed)
    (save,), (sampler,) = nodes_of(prompt, "SaveImage"), nodes_of(prompt, "BlendedLatentKSampler")
    before = pixels(client, client.run(prompt), save)
    cancel_in(client, quick(client, seed, steps=60), kind)
    client.post("/free", {"unload_models": True, "free_memory": True})  # else the run would come from the cache
    # The server may take the prompt before it frees: then the second run is the one that is carried out.
    run = next(run for run in (client.run(prompt), client.run(prompt)) if sampler in run.executed)
    assert np.array_equal(pixels(client, run, save), before)


def test_two_prompts_queued_are_both_carried_out(client):
    prompts = [quick(client, seed=15), quick(client, seed=16)]
    runs = [client.wait(prompt_id) for prompt_id in [client.queue(prompt) for prompt in prompts]]
    (save,) = nodes_of(prompts[0], "SaveImage")
    one, other = (pixels(client, run, save) for run in runs)
    assert not np.array_equal(one, other)


def test_a_wrong_input_reaches_the_user_as_one_sentence(client):
    prompt = quick(client, seed=17)
    (rank,) = nodes_of(prompt, "ClipRankBatch")
    prompt[rank]["inputs"]["prompt"] = " "
    with pytest.raises(ExecutionFailed, match="prompt is empty: describe what you want to see inside the mask"):
        client.run(prompt)


def described(info: Json) -> Json:
    """What shared workflows and other packs rely on: ids, types, defaults, limits and the order of inputs and outputs."""

    def entry(spec: list[Any]) -> Json:
        options = {key: value for key, value in (spec[1] if len(spec) > 1 else {}).items() if key not in ("tooltip", "multiselect")}
        if isinstance(options.get("options"), list):
            options["options"] = [
                {"key": option["key"], "inputs": groups(option["inputs"])} if isinstance(option, dict) else option for option in options["options"]
            ]
        return {"type": spec[0], **options}

    def groups(inputs: Json) -> Json:
        return {group: {name: entry(spec) for name, spec in specs.items()} for group, specs in inputs.items() if group != "hidden"}

    result = {"inputs": groups(copy.deepcopy(info["input"])), "outputs": list(map(list, zip(info["output_name"], info["output"], strict=True)))}
    for name in ("sampler_name", "scheduler", "clip_name"):  # the host's and the user's own lists
        if name in result["inputs"]["required"]:
            del result["inputs"]["required"][name]["options"]
    return result


def our_nodes(client: Client) -> Json:
    return {name: info for name, info in client.object_info().items() if info["python_module"] == "custom_nodes.comfyui-blended-latent-diffusion"}


def test_the_public_interface_is_as_recorded(client, pytestconfig):
    """Shared workflows name it. `python run.py test --update-interface` records an intended change."""
    now = {name: described(info) for name, info in sorted(our_nodes(client).items())}
    if pytestconfig.getoption("--update-interface"):
        INTERFACE.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    assert now == json.loads(INTERFACE.read_text(encoding="utf-8"))


def test_every_input_and_output_says_what_it_is(client):
    for name, info in our_nodes(client).items():
        assert info["description"] and info["category"] == "Blended Latent Diffusion", name
        inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        nested = [sub for spec in inputs.values() if isinstance((spec[1] or {}).get("options"), list) for sub in spec[1]["options"] if isinstance(sub, dict)]
        for option in nested:
            inputs |= {f"{option['key']}.{key}": spec for key, spec in option["inputs"].get("required", {}).items()}
        silent = [key for key, spec in inputs.items() if not spec[1].get("tooltip")]
        assert not silent and all(info["output_tooltips"]), f"{name}: {silent}"
        assert (ROOT / "js" / "docs" / f"{name}.md").read_text(encoding="utf-8").strip(), f"{name} has no help page"
