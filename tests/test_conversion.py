"""Our conversion of a workflow is the browser's own: both are given the same graph of stock nodes."""
from __future__ import annotations

import json
from typing import Any

from conftest import ROOT
from host.workflow import to_prompt

BUILD = """async () => {
    app.graph.clear();
    const node = (type, pos) => {
        const made = LiteGraph.createNode(type); made.pos = [300 * pos, 100]; app.graph.add(made); return made };
    const set = (made, values) => { for (const w of made.widgets) if (w.name in values) w.value = values[w.name] };
    const [checkpoint, text, empty, sampler, decode, preview] = ['CheckpointLoaderSimple', 'CLIPTextEncode',
        'EmptyLatentImage', 'KSampler', 'VAEDecode', 'PreviewImage'].map(node);
    const resize = node('ResizeImageMaskNode', 6), compare = node('ImageCompare', 7), reroute = node('Reroute', 8);
    const invert = node('ImageInvert', 9), muted = node('ImageInvert', 10), number = node('PrimitiveInt', 11);
    const crop = node('ImageCrop', 12), noise = node('RandomNoise', 13), note = node('Note', 14);
    set(text, {text: 'a fox, (red:1.2) "quoted"'});
    set(sampler, {seed: 123456789, steps: 7, cfg: 5.5, sampler_name: 'heun', scheduler: 'karras', denoise: 0.75});
    set(resize, {resize_type: 'scale by multiplier'});
    set(resize, {'resize_type.multiplier': 2.5, scale_method: 'bicubic'});
    set(noise, {noise_seed: 99, control_after_generate: 'fixed'});
    set(number, {value: 320});
    checkpoint.connect(0, sampler, 0); checkpoint.connect(1, text, 0); checkpoint.connect(2, decode, 1);
    text.connect(0, sampler, 1); text.connect(0, sampler, 2); empty.connect(0, sampler, 3);
    sampler.connect(0, decode, 0); decode.connect(0, reroute, 0); reroute.connect(0, invert, 0);
    invert.connect(0, resize, 0); resize.connect(0, compare, 0); decode.connect(0, muted, 0);
    muted.connect(0, compare, 1); resize.connect(0, crop, 0); crop.connect(0, preview, 0);
    number.connect(0, crop, crop.inputs.findIndex(i => i.name === 'width'));
    invert.mode = 4; muted.mode = 2; preview.title = 'What came out';
}"""


def meant(prompt: dict, info: dict) -> dict:
    """A prompt without titles, and without what the server doesn't ask for: an older frontend sends the widgets that a node of the host makes for itself."""
    asked = {kind: {name for group in ("required", "optional") for name in one["input"].get(group, {})} for kind, one in info.items()}
    return {key: {"class_type": node["class_type"],
                  "inputs": {name: value for name, value in node["inputs"].items() if name.partition(".")[0] in asked[node["class_type"]]}}
            for key, node in prompt.items()}


def same(ours: Any, theirs: Any) -> bool:
    """Whether two prompts are equal as JSON, and 7 the same as 7.0 as in the browser."""
    return json.loads(json.dumps(ours)) == theirs


def test_a_workflow_of_ours_from_before_inputs_were_added(ui):
    saved = json.loads((ROOT / "tests" / "old_workflow.json").read_text(encoding="utf-8"))
    ui.open()
    ui.load(saved)
    theirs, info = ui.prompt(), ui.object_info()
    assert same(meant(to_prompt(saved, info), info), meant(theirs, info))


def test_stock_nodes_of_every_kind(ui):
    ui.open()
    ui.page.evaluate(BUILD)
    workflow = ui.page.evaluate("async () => (await app.graphToPrompt()).workflow")
    theirs = ui.prompt()
    assert len(theirs) == 11 and theirs["7"]["inputs"]["resize_type.multiplier"] == 2.5, "the browser built what was asked"
    info = ui.object_info()
    assert same(meant(to_prompt(workflow, info), info), meant(theirs, info))
