"""The gallery of CLIP Rank Batch in the real frontend, in both renderers."""

from __future__ import annotations

import json
import re

import pytest

from conftest import after_a_reload
from host.demo import INPUTS

# Few steps, since only what happens around the pictures matters; always the same, so that the server draws them once.
QUICK = {"steps": 2, "candidates": 6, "seed": 5}
SHORTEN = """sampler => {
    const after = ["DecoderFinetuneReconstruct", "LatentFromBatch", "ImageStitch", "SaveImage", "PreviewAny", "PreviewImage", "MarkdownNote"]
    for (const node of [...app.graph.nodes]) if (after.includes(node.type)) app.graph.remove(node)
    const node = kind => app.graph.nodes.find(n => n.type === kind)
    const set = (kind, values) => { for (const w of node(kind).widgets) if (w.name in values) w.value = values[w.name] }
    set("BlendedLatentKSampler", sampler)
    const view = LiteGraph.createNode("PreviewImage")
    app.graph.add(view)
    const [x, y] = node("ClipRankBatch").pos
    view.pos = [x + 600, y]
    node("ClipRankBatch").connect(0, view, 0)
    node("ClipRankBatch").setSize([520, 640])
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [120 - x, 100 - y]
    app.canvas.setDirty(true, true)
}"""


@pytest.fixture(params=[False, True], ids=["classic", "nodes2"])
def vue(request: pytest.FixtureRequest) -> bool:
    """Each of the two renderers."""
    return request.param


def open_and_run(ui, vue: bool) -> list[dict]:
    """Open the main example up to the ranking, with quick settings, and run it; returns the candidates as the server describes them."""
    ui.open("blended_latent_edit")
    ui.show_renderer(vue)
    ui.page.evaluate(SHORTEN, QUICK)
    return ranked(ui.run())


def ranked(record: dict) -> list[dict]:
    assert record["status"]["status_str"] == "success"
    (shown,) = [output["gallery"] for output in record["outputs"].values() if "gallery" in output]
    return shown


def ran(record: dict) -> set[str]:
    """The kinds of the nodes that ran and did not come from the server's cache."""
    cached = next(data["nodes"] for kind, data in record["status"]["messages"] if kind == "execution_cached")
    return {node["class_type"] for node_id, node in record["prompt"][2].items() if node_id not in cached}


def tiles(ui):
    return ui.page.locator(".bld-gallery-tile")


WIDGET = "app.graph.nodes.find(n => n.type === kind).widgets.find(w => w.name === name).value"


def widget(ui, kind: str, name: str):
    return ui.page.evaluate(f"([kind, name]) => {WIDGET}", [kind, name])


def set_widget(ui, kind: str, name: str, value: object) -> None:
    ui.page.evaluate(f"([kind, name, value]) => {{ {WIDGET} = value }}", [kind, name, value])


def badges(ui) -> list[str]:
    return ui.page.locator(".bld-gallery-badge").all_text_contents()


def wait_for_pictures(ui, count: int) -> None:
    """Wait until so many tiles show their pictures."""
    ui.page.wait_for_function(
        "count => { const all = [...document.querySelectorAll('.bld-gallery-tile img')];"
        " return all.length === count && all.every(i => i.complete && i.naturalWidth) }",
        arg=count,
    )


def test_the_gallery_shows_what_the_server_computed(ui, vue):
    scores = [candidate["score"] for candidate in open_and_run(ui, vue)]
    set_widget(ui, "ClipRankBatch", "min_score", sum(scores[2:4]) / 2)
    candidates = ranked(ui.run())
    wait_for_pictures(ui, 6)
    labels = ui.page.locator(".bld-gallery-label").all_inner_texts()
    told = [[str(rank), f"{candidate['score']:.4f}", candidate["seed"]] for rank, candidate in enumerate(candidates, 1)]
    assert [label.split() for label in labels] == told
    out = [bool(candidate["out"]) for candidate in candidates]
    assert tiles(ui).evaluate_all("all => all.map(tile => tile.classList.contains('bld-out'))") == out == [False] * 3 + [True] * 3
    assert badges(ui) == ["★", "", "", "", "", ""]
    for place in (0, 5):
        tiles(ui).nth(place).hover()
        details = ui.page.locator(".bld-card").inner_text()
        candidate = candidates[place]
        for part in candidate["parts"]:
            assert part["name"] in details and f"{part['value']:.4f}" in details
        assert f"candidate {candidate['index']}" in details and candidate["out"] in details
    assert ui.complaints == []


def test_a_click_picks_and_the_next_run_costs_only_what_comes_after(ui, vue):
    candidates = open_and_run(ui, vue)
    tiles(ui).nth(2).click()
    assert widget(ui, "ClipRankBatch", "pick") == str(candidates[2]["index"])
    tiles(ui).nth(1).click(modifiers=["Control"])
    tiles(ui).nth(4).click(modifiers=["Control"])
    tiles(ui).nth(1).click(modifiers=["Control"])
    picks = [candidates[2]["index"], candidates[4]["index"]]
    assert widget(ui, "ClipRankBatch", "pick") == ",".join(map(str, picks))
    assert badges(ui) == ["", "", "1", "", "2", ""]
    record = ui.run(press=ui.page.locator(".bld-gallery-run"))
    assert ran(record) == {"ClipRankBatch", "PreviewImage"}, "all before the ranking comes from the cache"
    assert [candidate["index"] for candidate in sorted(ranked(record), key=lambda one: (one["picked"] is None, one["picked"]))][:2] == picks
    (view,) = [output["images"] for output in record["outputs"].values() if "images" in output and len(output["images"]) == 2]
    assert len(view) == 2
    assert ui.page.locator(".bld-gallery-run").count() == 0, "nothing waits for a run"

    after_a_reload()
    ui.reload()
    wait_for_pictures(ui, 6)
    assert badges(ui) == ["", "", "1", "", "2", ""]
    ui.page.locator(".bld-gallery-picks button").click()
    assert widget(ui, "ClipRankBatch", "pick") == "" and badges(ui) == ["★", "", "", "", "", ""]
    saved = ui.page.evaluate("app.graph.serialize().nodes.find(n => n.type === 'ClipRankBatch').widgets_values")
    assert saved[-2:] == ["", 1] and "gallery" not in str(ui.prompt()), "the display is neither saved nor sent"
    assert ui.complaints == []


def test_the_keys_move_pick_and_enlarge(ui, vue):
    candidates = open_and_run(ui, vue)
    press = ui.page.keyboard.press
    tiles(ui).nth(0).click()
    press("ArrowRight")
    press("ArrowRight")
    press("Enter")
    assert widget(ui, "ClipRankBatch", "pick") == str(candidates[2]["index"])
    press("End")
    press("Shift+Enter")
    assert widget(ui, "ClipRankBatch", "pick") == f"{candidates[2]['index']},{candidates[5]['index']}"

    large = ui.page.locator(".bld-large")
    tiles(ui).nth(1).dblclick()
    assert large.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 128
    assert f"candidate {candidates[1]['index']}" in large.inner_text()
    assert widget(ui, "ClipRankBatch", "pick") == f"{candidates[2]['index']},{candidates[5]['index']}", "a double click picks nothing"
    press("ArrowRight")
    press("Enter")
    press("ArrowRight")
    press("Enter")
    assert widget(ui, "ClipRankBatch", "pick") == f"{candidates[5]['index']},{candidates[3]['index']}"
    press("Escape")
    large.wait_for(state="detached")
    assert ui.page.evaluate("app.graph.nodes.filter(n => n.type === 'ClipRankBatch').length") == 1
    assert ui.complaints == []


def test_an_undo_takes_back_one_pick_and_the_gallery_stays(ui, vue):
    candidates = open_and_run(ui, vue)
    picks = [str(candidate["index"]) for candidate in candidates]

    def undo(keys: str, pick: str, badge: list[str]) -> None:
        """Press Ctrl+Z, or what redoes it, and wait for its pick."""
        ui.page.keyboard.press(keys)
        ui.page.wait_for_function(f"([kind, name, pick]) => {WIDGET} === pick", arg=["ClipRankBatch", "pick", pick])
        wait_for_pictures(ui, 6)
        assert badges(ui) == badge

    tiles(ui).nth(2).click()
    tiles(ui).nth(1).click(modifiers=["Control"])
    undo("Control+z", picks[2], ["", "", "1", "", "", ""])
    undo("Control+z", "", ["★", "", "", "", "", ""])
    undo("Control+y", picks[2], ["", "", "1", "", "", ""])
    tiles(ui).nth(1).dblclick()
    ui.page.locator(".bld-large").get_by_role("button", name="Pick").click()
    undo("Control+z", picks[2], ["", "", "1", "", "", ""])
    assert ui.page.locator(".bld-large, .bld-card").count() == 0, "they belong to a node that is gone"
    assert ui.complaints == []


# So many pictures of this size, each with noise of its own, ranked.
MANY = """async ([count, width, height]) => {
    app.graph.clear()
    const add = (kind, pos, values = {}) => {
        const node = LiteGraph.createNode(kind)
        app.graph.add(node)
        node.pos = pos
        for (const w of node.widgets ?? []) if (w.name in values) w.value = values[w.name]
        return node
    }
    const picture = add("LoadImage", [0, 0], { image: "bld_demo_edit.png" })
    const sized = add("ImageScale", [300, -300], { width, height })
    const many = add("RepeatImageBatch", [300, 0], { amount: count })
    const noisy = add("ImageAddNoise", [700, -300], { seed: 1, strength: 0.1 })
    const clip = add("OpenClipLoader", [300, 200], { clip_name: "bld_demo_clip.safetensors" })
    const mask = add("SolidMask", [300, 400], { width, height })
    const rank = add("ClipRankBatch", [700, 0], { prompt: "a fox" })
    const view = add("PreviewAny", [1300, 0])
    picture.connect(0, sized, 0)
    sized.connect(0, many, 0)
    many.connect(0, noisy, 0)
    noisy.connect(0, rank, 0)
    clip.connect(0, rank, 1)
    mask.connect(0, rank, rank.findInputSlot("mask"))
    rank.connect(4, view, 0)
    rank.setSize([400, 600])
    await app.loadGraphData(app.graph.serialize())
    app.canvas.ds.scale = 0.8
    app.canvas.ds.offset = [100, 150]
    app.canvas.setDirty(true, true)
}"""


# Keeps the longest time between two frames, in seconds, until it is asked for.
WATCH_FRAMES = """() => {
    window.longest = 0
    let before = performance.now()
    const look = now => {
        window.longest = Math.max(window.longest, (now - before) / 1000)
        before = now
        window.watching = requestAnimationFrame(look)
    }
    look(before)
}"""
LONGEST = "() => { cancelAnimationFrame(window.watching); return window.longest }"
LOADED = "all => all.filter(image => image.naturalWidth > 0).length"


def test_256_candidates_scroll_inside_the_node(ui):
    """One run is shown in both renderers: to rank so many takes long."""
    ui.open()
    ui.page.evaluate(MANY, [256, 64, 64])
    set_widget(ui, "ClipRankBatch", "scope", "whole")
    shown = ranked(ui.run())
    assert len({one["tile"]["filename"] for one in shown}) == len(shown) == tiles(ui).count() == 256
    assert len(json.dumps(shown)) < 256 * 1000, "pictures are files, not part of the message"
    assert 0 < tiles(ui).locator("img").evaluate_all(LOADED) < 128, "those far out of sight are not loaded"
    show_that_the_wheel_scrolls(ui)
    ui.show_renderer(vue=True)
    ui.settle()
    show_that_the_wheel_scrolls(ui)
    assert ui.complaints == []


def show_that_the_wheel_scrolls(ui) -> None:
    """From the first of 256 tiles to the last, and the page goes on drawing."""
    grid = ui.page.locator(".bld-gallery-grid")
    assert grid.evaluate("grid => grid.scrollHeight > 3 * grid.clientHeight && grid.clientHeight < 400")
    tiles(ui).nth(0).focus()
    ui.page.keyboard.press("Home")
    scale = ui.page.evaluate("app.canvas.ds.scale")
    grid.hover()
    ui.page.evaluate(WATCH_FRAMES)
    for _ in range(grid.evaluate("grid => 10 + grid.scrollHeight / 300 | 0")):
        ui.page.mouse.wheel(0, 300)
    ui.page.wait_for_function("() => { const g = document.querySelector('.bld-gallery-grid'); return g.scrollTop + g.clientHeight > g.scrollHeight - 2 }")
    assert ui.page.evaluate(LONGEST) < 1
    assert ui.page.evaluate("app.canvas.ds.scale") == scale, "the wheel scrolls the gallery and does not zoom the graph"
    ui.page.keyboard.press("Home")
    ui.page.keyboard.press("End")
    ui.page.wait_for_function("() => [...document.querySelectorAll('.bld-gallery-tile img')].at(-1).naturalWidth > 0")
    box, last = grid.bounding_box(), tiles(ui).nth(255).bounding_box()
    assert box["y"] <= last["y"] and last["y"] + last["height"] <= box["y"] + box["height"] + 1


SIZES = "image => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"


def test_a_tile_is_a_small_file_and_the_large_view_shows_the_whole_picture(ui, vue):
    ui.open()
    ui.show_renderer(vue)
    ui.page.evaluate(MANY, [2, 1024, 768])
    ranked(ui.run())
    wait_for_pictures(ui, 2)
    small = tiles(ui).first.locator("img")
    assert small.evaluate(SIZES) == [384, 288]
    assert small.evaluate("async image => (await (await fetch(image.src)).blob()).size") < 60_000
    tiles(ui).first.dblclick()
    large = ui.page.locator(".bld-large img")
    assert large.evaluate(SIZES) == [1024, 768]
    assert large.bounding_box()["height"] > ui.page.viewport_size["height"] / 2
    ui.page.keyboard.press("Escape")
    assert ui.complaints == []


WITH_SOURCE = """() => {
    const node = kind => app.graph.nodes.find(n => n.type === kind)
    const rank = node("ClipRankBatch")
    const scope = rank.widgets.find(w => w.name === "scope")
    scope.value = "mix"
    scope.callback?.("mix")
    node("LoadImage").connect(0, rank, rank.findInputSlot("source"))
}"""
# Of each row of the card: its texts, the bar's share of the longest, and its color.
ROWS = """rows => rows.map(row => {
    const [name, , share, parts] = [...row.cells].map(cell => cell.textContent), bar = row.querySelector("i")
    return [name, share, parts, parseFloat(bar.style.width) / 100, getComputedStyle(bar).backgroundColor]
})"""


def signed(value: float) -> str:
    return f"{'−' if value < 0 else '+'}{abs(value):.4f}"


def test_the_card_shows_each_part_of_the_score_whether_it_raises_or_lowers_it_and_the_seed(ui, vue):
    open_and_run(ui, vue)
    ui.page.evaluate(WITH_SOURCE)
    candidates = ranked(ui.run())
    wait_for_pictures(ui, 6)
    for place in (0, 5):
        candidate = candidates[place]
        tiles(ui).nth(place).hover()
        card = ui.page.locator(".bld-card")
        card.get_by_text(f"candidate {candidate['index']}", exact=True).wait_for()
        rows = card.locator("tr").evaluate_all(ROWS)
        parts = candidate["parts"]
        shares = [part["value"] * part["weight"] for part in parts]
        assert [part["name"] for part in parts] == ["close-up", "box", "whole", "background", "seam"]
        texts = [[part["name"], signed(share), f"{part['value']:.4f} × {round(part['weight'], 2):g}"] for part, share in zip(parts, shares, strict=True)]
        assert [row[:3] for row in rows] == texts
        assert sum(shares) == pytest.approx(candidate["score"], abs=1e-4)
        longest = max(map(abs, shares))
        assert [row[3] for row in rows] == pytest.approx([abs(share) / longest for share in shares], abs=1e-4)
        raises, lowers = ({row[4] for row, share in zip(rows, shares, strict=True) if (share < 0) == down} for down in (False, True))
        assert len(raises) == len(lowers) == 1 and raises != lowers, "a color for each direction"
        assert card.get_by_text(f"seed {candidate['seed']}", exact=True).is_visible()
    assert ui.complaints == []


def test_copies_of_the_node_and_one_in_a_subgraph_show_their_own(ui, vue):
    ui.renew()  # a page that has many workflows open does not reopen each of them
    ui.open()
    ui.show_renderer(vue)
    ui.page.evaluate(MANY, [3, 64, 64])
    ui.page.evaluate(
        """() => {
            const find = kind => app.graph.nodes.find(n => n.type === kind)
            const rank = find("ClipRankBatch")
            const copy = LiteGraph.createNode("ClipRankBatch")
            app.graph.add(copy)
            copy.pos = [700, 700]
            for (const [slot, input] of rank.inputs.entries()) if (input.link != null) {
                const { origin_id, origin_slot } = app.graph.getLink(input.link)
                app.graph.getNodeById(origin_id).connect(origin_slot, copy, slot)
            }
            copy.widgets.find(w => w.name === "prompt").value = "<img src=x onerror=document.title=1>"
            const view = LiteGraph.createNode("PreviewAny")
            app.graph.add(view)
            view.pos = [1300, 700]
            copy.connect(4, view, 0)
            app.graph.convertToSubgraph(new Set([copy]))
        }"""
    )
    record = ui.run()
    (outer,) = [output["gallery"] for node, output in record["outputs"].items() if "gallery" in output and ":" not in node]
    (inner,) = [output["gallery"] for node, output in record["outputs"].items() if "gallery" in output and ":" in node]
    assert outer[0]["score"] != inner[0]["score"]

    def wait_for(shown: list[dict]) -> None:
        ui.page.wait_for_function(
            """scores => {
                app.canvas.setDirty(true, true)
                const labels = [...document.querySelectorAll(".bld-gallery-label span")].filter(label => label.checkVisibility())
                return labels.map(label => label.textContent).join() === scores
            }""",
            arg=",".join(f"{one['score']:.4f}" for one in shown),
        )

    wait_for(outer)
    ui.enter("New Subgraph")
    wait_for(inner)
    ui.leave()  # a page that loads again opens the subgraph only sometimes
    wait_for(outer)
    after_a_reload()
    ui.reload()
    wait_for(outer)
    ui.enter("New Subgraph")
    wait_for(inner)
    assert ui.page.title() != "1" and ui.complaints == []


def test_keep_this_seed_draws_the_candidate_alone(ui, vue):
    candidates = open_and_run(ui, vue)
    sampler = "BlendedLatentKSampler"
    set_widget(ui, sampler, "control_after_generate", "randomize")
    # The sampler stands in a subgraph that shows its seed outside.
    ui.page.evaluate(
        """() => {
            const sampler = app.graph.nodes.find(n => n.type === "BlendedLatentKSampler")
            const { subgraph } = app.graph.convertToSubgraph(new Set([sampler]))
            const inner = subgraph.nodes[0]
            const slot = inner.inputs.find(input => input.widget?.name === "seed")
            subgraph.addInput("seed", "INT").connect(slot, inner)
        }"""
    )
    tiles(ui).nth(3).dblclick()
    ui.page.get_by_role("button", name="Keep this seed").click()
    ui.page.get_by_text("Seed kept").wait_for()
    record = ui.run()
    (alone,) = ranked(record)
    assert alone["seed"] == candidates[3]["seed"] and abs(alone["score"] - candidates[3]["score"]) < 0.01
    (inputs,) = [node["inputs"] for node in record["prompt"][2].values() if node["class_type"] == sampler]
    assert (str(inputs["seed"]), inputs["candidates"]) == (candidates[3]["seed"], 1)
    assert widget(ui, "ClipRankBatch", "pick") == ""
    assert str(ui.page.evaluate("app.graph.nodes.find(n => n.subgraph).widgets.find(w => w.name === 'seed').value")) == candidates[3]["seed"], "it stays"
    assert ui.complaints == []


def test_the_panel_of_a_nodes_inputs_leaves_the_gallery_where_it_is(ui, vue):
    """The panel takes the elements of widgets that don't forbid it, so that a double click was lost."""
    open_and_run(ui, vue)
    panel = ui.page.get_by_test_id("properties-panel")
    ui.set("Comfy.RightSidePanel.IsOpen", True)
    if vue:  # where a click into a display does not select its node
        ui.page.evaluate("app.canvas.selectItems(app.graph.nodes.filter(n => n.type === 'ClipRankBatch'))")
    for _ in range(3):
        tiles(ui).nth(3).dblclick()
        panel.get_by_text("top_k").wait_for()
        ui.page.keyboard.press("Escape")
        ui.page.locator("dialog.bld-large").wait_for(state="detached")
    assert ui.page.locator(".bld-gallery").count() == 1 and panel.locator(".bld-gallery").count() == 0
    assert panel.get_by_text("bld_gallery").count() == 0 and ui.complaints == []


def test_those_that_pruning_dropped_stand_at_the_end_with_the_reason(ui, vue):
    ui.open("pruned_candidates")
    ui.show_renderer(vue)
    for name, value in {"steps": 4, "candidates": 6}.items():
        set_widget(ui, "BlendedLatentKSampler", name, value)
    ui.page.evaluate(
        """() => {
            const rank = app.graph.nodes.find(n => n.type === "ClipRankBatch")
            app.canvas.ds.scale = 1
            app.canvas.ds.offset = [300 - rank.pos[0], 100 - rank.pos[1]]
            app.canvas.setDirty(true, true)
        }"""
    )
    shown = ranked(ui.run())
    dropped = [one for one in shown if one["tile"] is None]
    assert 0 < len(dropped) < 6 == len(shown) and shown[-len(dropped) :] == dropped
    assert tiles(ui).count() == 6 - len(dropped)
    out = ui.page.locator(".bld-gallery-dropped")
    out.first.hover()
    details = ui.page.locator(".bld-card").inner_text()
    assert out.count() == len(dropped) and dropped[0]["out"] in details and dropped[0]["seed"] in details
    assert ui.complaints == []


MARKUP = '<img src=x onerror="window.hacked = 1">'
# With a code for the terminal, which the host takes in no file's name, a turn of the writing direction, and format strings of Python, C and JavaScript.
HOSTILE = MARKUP + "\x1b[31m\u202e\u202c{0.__class__}{seed} %s ${window.hacked = 2}"
HOSTILE_FILE = HOSTILE.replace("\x1b", "") + ".png"
BECOME_HOSTILE = """([text, image]) => {
    const values = { steps: 2, candidates: 2, "method.iterations": 1, value: text, text, negative_prompt: text, image }
    for (const node of app.graph.nodes) {
        if (node.type !== "MarkdownNote") for (const w of node.widgets ?? []) if (w.name in values) w.value = values[w.name]
        node.title = text
    }
    const [x, y] = app.graph.nodes.find(n => n.type === "ClipRankBatch").pos
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [120 - x, 100 - y]
    app.canvas.setDirty(true, true)
}"""


@pytest.mark.promise("texts-stay-texts")
def test_markup_in_prompts_titles_and_file_names_stays_text(ui, client, vue):
    client.upload(HOSTILE_FILE, (INPUTS / "bld_demo_edit.png").read_bytes())
    ui.open("blended_latent_edit")
    ui.show_renderer(vue)
    ui.page.evaluate(BECOME_HOSTILE, [HOSTILE, HOSTILE_FILE])
    candidates = ranked(ui.run())
    tiles(ui).nth(1).hover()
    assert f"candidate {candidates[1]['index']}" in ui.page.locator(".bld-card").inner_text()
    tiles(ui).nth(1).dblclick()
    ui.page.locator(".bld-large").get_by_role("button", name="Keep this seed").click()
    ui.page.get_by_text(f"{HOSTILE} now draws one candidate with seed {candidates[1]['seed']}.").wait_for()
    set_widget(ui, "ClipRankBatch", "pick", HOSTILE)
    failed = ui.run()
    (sentence,) = [told["exception_message"].strip() for kind, told in failed["status"]["messages"] if kind == "execution_error"]
    assert sentence.isprintable() and all(text in sentence for text in (MARKUP, "{0.__class__}{seed} %s ${window.hacked = 2}"))
    ui.page.wait_for_timeout(1000)
    assert ui.page.evaluate("[window.hacked ?? null, document.querySelectorAll('img[src=x]').length]") == [None, 0]
    ui.page.keyboard.press("Escape")  # an older page shows the error in a dialog over all


# The main example, quick, with an Edit Report: every kind of display.
ALL_DISPLAYS = """values => {
    const node = kind => app.graph.nodes.find(n => n.type === kind)
    const add = (kind, pos) => {
        const made = LiteGraph.createNode(kind)
        app.graph.add(made)
        made.pos = pos
        return made
    }
    for (const { widgets } of app.graph.nodes) for (const w of widgets ?? []) if (w.name in values) w.value = values[w.name]
    const [picture, restore] = [node("LoadImage"), node("DecoderFinetuneReconstruct")]
    const report = add("EditReport", [0, 2500])
    for (const [slot, [source, output]] of [[picture, 0], [restore, 0], [picture, 1]].entries()) source.connect(output, report, slot)
    report.connect(4, add("PreviewAny", [600, 2500]), 0)
}"""
CHOOSE = """([kind, values]) => {
    const node = app.graph.nodes.find(n => n.type === kind)
    for (const [name, value] of Object.entries(values)) {
        const widget = node.widgets.find(w => w.name === name)
        widget.value = value
        widget.callback?.(value)
    }
}"""
# By kind of node: what its displays are called, and the name and value of every other widget.
WIDGETS = """kinds => Object.fromEntries(app.graph.nodes.filter(n => kinds.includes(n.type)).map(({ type, widgets }) => {
    const isDisplay = w => w.name.startsWith("bld_"), isPreview = w => w.name.startsWith("$$") // of the frontend's own
    return [type, [widgets.filter(isDisplay).map(w => w.name), widgets.filter(w => !isDisplay(w) && !isPreview(w)).map(w => [w.name, w.value])]]
}))"""
DISPLAYS = {
    "ClipRankBatch": "bld_gallery",
    "DecoderFinetuneReconstruct": "bld_comparison",
    "EditReport": "bld_comparison",
    "ProgressiveMaskDilate": "bld_schedule",
    "BlendedLatentKSampler": "bld_steps",
}


def test_no_display_is_saved_and_every_widget_comes_back_with_its_value(ui, vue):
    ui.open("blended_latent_edit")
    ui.show_renderer(vue)
    ui.page.evaluate(ALL_DISPLAYS, {"steps": 2, "candidates": 2, "method.iterations": 1})
    record = ui.run()
    assert record["status"]["status_str"] == "success"
    # What a choice has of its own comes and goes with it, before the display.
    ui.page.evaluate(CHOOSE, ["DecoderFinetuneReconstruct", {"method": "paste", "method.feather": 3}])
    ui.page.evaluate(CHOOSE, ["ClipRankBatch", {"scope": "mix", "scope.context": 1.25, "scope.whole_weight": 3.5}])
    before = ui.page.evaluate(WIDGETS, list(DISPLAYS))
    assert {kind: displays for kind, (displays, _) in before.items()} == {kind: [name] for kind, name in DISPLAYS.items()}
    saved = ui.page.evaluate("app.graph.serialize()")
    for node in saved["nodes"]:
        if node["type"] in DISPLAYS:
            assert node["widgets_values"] == [value for _, value in before[node["type"]][1]], node["type"]
            assert None not in node["widgets_values"]
    text = json.dumps(saved)
    shown = [file for output in record["outputs"].values() for file in re.findall(r"[\w-]+\.jpg", json.dumps(output))]
    assert len(shown) > 10 and [part for part in {*DISPLAYS.values(), *shown} if part in text] == []

    ui.load(saved)
    ui.settle()
    assert ui.page.evaluate(WIDGETS, list(DISPLAYS)) == before
    assert ui.complaints == []
