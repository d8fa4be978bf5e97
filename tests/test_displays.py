"""Before and after, the curve of a fit, the stages of a schedule and the steps of a run in the real frontend, in both renderers."""

from __future__ import annotations

import inspect

import pytest

from bench._nodes import settings
from blended_latent_diffusion.bld.schedule import INSET_ENDS, shrinking, split, stage_shares
from blended_latent_diffusion.nodes.progressive_mask_dilate import ProgressiveMaskDilate
from conftest import after_a_reload, needs_math
from host.examples import BLUEPRINT

ITERATIONS = 4
RENDERERS = pytest.mark.parametrize("vue", [False, True], ids=["classic", "nodes2"])
# The smallest example with few steps, with a copy of its reconstruction that fits longer and has no feather, and an Edit Report behind it.
QUICK = """iterations => {
    const node = kind => app.graph.nodes.find(n => n.type === kind)
    const set = (node, name, value) => { node.widgets.find(w => w.name === name).value = value }
    const add = (node, pos, ...sources) => {
        app.graph.add(node)
        node.pos = pos
        for (const [slot, [source, output]] of sources.entries()) source.connect(output, node, slot)
        return node
    }
    const [picture, restore] = [node("LoadImage"), node("DecoderFinetuneReconstruct")]
    set(node("BlendedLatentKSampler"), "steps", 4)
    set(restore, "method.iterations", iterations)
    const sources = restore.inputs.filter(input => input.link != null).map(input => {
        const { origin_id, origin_slot } = app.graph.getLink(input.link)
        return [app.graph.getNodeById(origin_id), origin_slot]
    })
    const copy = restore.clone()
    copy.id = -1 // a clone has none, which the graph takes for one
    add(copy, [1500, 1500], ...sources)
    set(copy, "method.iterations", 2 * iterations)
    set(copy, "method.feather", 0)
    add(LiteGraph.createNode("PreviewImage"), [2000, 1500], [copy, 0])
    const report = add(LiteGraph.createNode("EditReport"), [1500, 600], [picture, 0], [restore, 0], [picture, 1])
    add(LiteGraph.createNode("PreviewAny"), [2000, 600], [report, 4])
}"""
# Brings a node into view, and marks its display with its id.
SHOW = """id => {
    const node = app.canvas.graph.getNodeById(id)
    node.widgets.find(w => w.name.startsWith("bld_")).element.dataset.ofNode = id
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [100 - node.pos[0], 80 - node.pos[1]]
    app.canvas.setDirty(true, true)
}"""
FIND = "kind => app.canvas.graph.nodes.filter(n => n.type === kind).map(n => n.id)"


def open_and_run(ui, vue: bool) -> dict[str, dict[str, dict]]:
    """Runs the edit; returns what the server gave to the displays, by kind and id of node."""
    ui.open("smallest_graph")
    ui.show_renderer(vue)
    ui.page.evaluate(QUICK, ITERATIONS)
    record = ui.run()
    assert record["status"]["status_str"] == "success"
    given: dict[str, dict[str, dict]] = {}
    for node, output in record["outputs"].items():
        if "comparison" in output:
            given.setdefault(record["prompt"][2][node]["class_type"], {})[node] = output["comparison"][0]
    return given


def display(ui, node: str):
    """The display of a node of the open graph, with the node in view."""
    ui.page.evaluate(SHOW, node)
    ui.settle()
    return ui.page.locator(f"[data-of-node='{node}']")


def the(ui, kind: str):
    """The display of the only node of this kind."""
    (node,) = ui.page.evaluate(FIND, kind)
    return display(ui, node)


def figures(shown) -> dict[str, dict[str, str | None]]:
    """What the table says: the unrounded values by column and figure."""
    cells = shown.locator("td[data-of]").evaluate_all("all => all.map(td => [td.dataset.of, td.parentElement.dataset.figure, td.dataset.value])")
    found: dict[str, dict[str, float | None]] = {}
    for column, figure, value in cells:
        found.setdefault(column, {})[figure] = None if value == "null" else float(value)
    return found


def expected(comparison: dict) -> dict[str, dict[str, float | None]]:
    names = ("background_psnr", "worst_block", "seam", "colour_shift")
    return {column: {name: measured[name] for name in names} for column, measured in comparison["pictures"][0]["figures"].items()}


def loaded(shown) -> list[int]:
    """The widths of the two pictures, as the files have them."""
    return shown.locator("img").evaluate_all("images => Promise.all(images.map(i => i.decode().then(() => i.naturalWidth)))")


LAYERS = {"DecoderFinetuneReconstruct": ["source", "decode", "error", "seam"], "EditReport": ["source", "error", "seam"]}


@RENDERERS
def test_each_comparison_shows_what_the_server_computed_also_after_a_reload(ui, vue):
    given = open_and_run(ui, vue)
    assert {kind: len(nodes) for kind, nodes in given.items()} == {"DecoderFinetuneReconstruct": 2, "EditReport": 1}
    one, other = given["DecoderFinetuneReconstruct"].values()
    assert expected(one)["result"] != expected(other)["result"], "the copies have different settings"

    def show_what_was_given() -> None:
        for kind, nodes in given.items():
            for node, comparison in nodes.items():
                shown = display(ui, node)
                shown.locator("td[data-of]").first.wait_for(state="attached")
                assert figures(shown) == expected(comparison) and loaded(shown) == [128, 128]
                assert shown.locator("[data-layer]").evaluate_all("all => all.map(b => b.dataset.layer)") == LAYERS[kind]

    show_what_was_given()
    shown = display(ui, next(iter(given["DecoderFinetuneReconstruct"])))
    for layer in ("seam", "error", "decode", "source"):
        shown.locator(f"[data-layer={layer}]").click()
        assert one["pictures"][0]["files"][layer]["filename"] in shown.locator(".bld-before").get_attribute("src")
        assert loaded(shown) == [128, 128]
    assert "comparison" not in str(ui.prompt()), "a display is not sent"

    after_a_reload()
    ui.reload()
    ui.page.locator(".bld-figures td[data-of]").first.wait_for(state="attached")
    show_what_was_given()
    assert ui.complaints == []


@RENDERERS
def test_the_slider_follows_the_mouse_and_the_keys_and_the_node_stays(ui, vue):
    given = open_and_run(ui, vue)
    shown = display(ui, next(iter(given["DecoderFinetuneReconstruct"])))
    places = "Object.fromEntries(app.graph.nodes.map(n => [n.id, [...n.pos]]))"
    before, frame = ui.page.evaluate(places), shown.locator(".bld-frame").bounding_box()
    assert min(frame["width"], frame["height"]) >= 150, "large enough to see something"

    def at() -> float:
        """How much of the picture is the layer's, 0..1."""
        line = shown.locator(".bld-line").bounding_box()
        return (line["x"] + line["width"] / 2 - frame["x"]) / frame["width"]

    assert at() == pytest.approx(0.5, abs=0.02)
    mouse, middle = ui.page.mouse, frame["y"] + frame["height"] / 3
    mouse.move(frame["x"] + frame["width"] / 2, middle)
    mouse.down()
    mouse.move(frame["x"] + frame["width"] / 4, middle, steps=4)
    mouse.up()
    assert at() == pytest.approx(0.25, abs=0.06)
    assert shown.locator(".bld-before").evaluate("image => getComputedStyle(image).clipPath").startswith("inset(")
    moved = at()
    for _ in range(20):
        ui.page.keyboard.press("ArrowRight")
    assert at() == pytest.approx(moved + 0.1, abs=0.02)
    assert ui.page.evaluate(places) == before
    assert ui.complaints == []


@RENDERERS
def test_a_fit_draws_its_curve_and_its_picture_while_it_runs(ui, vue):
    ui.open("smallest_graph")
    ui.show_renderer(vue)
    ui.page.evaluate("""settings => { for (const node of app.graph.nodes) for (const widget of node.widgets ?? [])
        if (widget.name in settings) widget.value = settings[widget.name] }""", {"steps": 2, "method.iterations": 400, "method.background_target": 200})
    shown = the(ui, "DecoderFinetuneReconstruct")
    before = shown.get_attribute("data-state")
    ui.press_run()
    fitting = ui.page.locator(".bld-compare[data-state=fitting]")
    fitting.wait_for(timeout=120_000)
    ui.page.wait_for_function("() => document.querySelector('polyline.bld-fit-background')?.points.length >= 4")
    assert fitting.locator(".bld-after").evaluate("image => image.decode().then(() => image.naturalWidth)") >= 16
    text = fitting.locator(".bld-fit-text").inner_text()
    assert "of 400" in text and "dB" in text and "loss" in text
    points = fitting.locator("polyline.bld-fit-background").evaluate("line => [...line.points].map(p => p.x)")
    assert points == sorted(points) and points[-1] < 200
    ui.page.evaluate("() => app.extensionManager.command.execute('Comfy.Interrupt')")
    fitting.wait_for(state="detached", timeout=60_000)
    assert shown.get_attribute("data-state") == before, "a cancelled fit leaves nothing behind"


ADD = """() => {
    const node = LiteGraph.createNode("ProgressiveMaskDilate")
    app.graph.add(node)
    node.pos = [200, 200]
    app.canvas.ds.scale = 1
    app.canvas.ds.offset = [0, 0]
}"""
HELD = """() => Object.fromEntries(app.graph.nodes.find(n => n.type === "ProgressiveMaskDilate").widgets.map(widget => [widget.name, widget.value]))"""
SET = """settings => {
    const node = app.graph.nodes.find(n => n.type === "ProgressiveMaskDilate")
    for (const widget of node.widgets) if (widget.name in settings) { widget.value = settings[widget.name]; widget.callback?.(widget.value) }
}"""


def timeline_of_a_new_node(ui, vue):
    """The display of a Progressive Mask Dilate that has just been added."""
    ui.open()
    ui.show_renderer(vue)
    ui.page.evaluate(ADD)
    timeline = ui.page.locator(".bld-schedule")
    timeline.locator(".bld-stages > div").first.wait_for()
    return timeline


@RENDERERS
def test_the_stages_follow_the_widgets_before_anything_runs(ui, vue):
    stages = timeline_of_a_new_node(ui, vue).locator(".bld-stages > div")
    for count, takeover, spacing, growth in ((3, 0.78, "equal", 1), (0, 0.78, "equal", 1), (2, 0.6, "eased", 2), (8, 0.95, "eased", 1)):
        ui.page.evaluate(SET, {"stages": count, "takeover": takeover, "spacing": spacing, "growth": growth, "where": "everywhere"})
        shares = stages.evaluate_all("all => all.map(stage => Number(stage.dataset.share))")
        assert shares == pytest.approx(stage_shares(count, takeover, spacing))
        widths = stages.evaluate_all("all => all.map(stage => stage.getBoundingClientRect().width)")
        assert [width / sum(widths) for width in widths] == pytest.approx(shares, abs=0.01)
        assert stages.all_text_contents() == [*(f"+{growth * stage}" for stage in range(count, 0, -1)), "mask"]
    ui.page.evaluate(SET, {"where": "thin parts", "inset": 0})
    assert stages.first.text_content() == "≤8", "only what is thin grows by so much"
    assert stages.first.get_attribute("title").startswith("At most 8 latent pixels beyond the thin parts")
    for count, takeover, inset in ((8, 0.95, 0.2), (1, 0.95, 0.2), (0, 0.95, 0.5), (2, 0.6, 0.2)):
        ui.page.evaluate(SET, {"stages": count, "takeover": takeover, "inset": inset})
        pieces = split(stage_shares(count, takeover, "eased"), INSET_ENDS)
        assert stages.evaluate_all("all => all.map(stage => Number(stage.dataset.share))") == pytest.approx([share for *_, share in pieces])
        beyond = [f"≤{count - stage}" if stage < count else "" for stage, *_ in pieces]
        labels = [f"{'' if late else 'inset'} {reach}".strip() for (_, late, _), reach in zip(pieces, beyond, strict=True)]
        assert stages.all_text_contents() == [*labels[:-1], "mask"]
    assert "Inside the edge where your mask is broad: 0% to" in stages.first.get_attribute("title")
    assert ui.complaints == []


@RENDERERS
def test_one_click_sets_the_papers_settings_one_the_defaults_and_an_undo_takes_it_back(ui, vue):
    timeline = timeline_of_a_new_node(ui, vue)
    paper = {name: given.default for name, given in inspect.signature(shrinking).parameters.items() if name not in ("mask", "thin")}
    ours = settings(ProgressiveMaskDilate)
    assert paper["stages"] != ours["stages"]
    for button, expected in (("Paper", paper), ("Defaults", ours), ("Paper", paper)):
        timeline.get_by_role("button", name=button).click()
        held = ui.page.evaluate(HELD)
        assert {name: held[name] for name in expected} == expected
        assert timeline.locator(".bld-stages > div").count() == expected["stages"] + 1 + (expected["inset"] > 0)
    ui.page.keyboard.press("Control+z")
    ui.page.wait_for_function(f"() => ({HELD})().stages === {ours['stages']}")
    assert ui.complaints == []


# An Edit Report on three pictures, as a list and as a batch, and the display of each.
PAGES = """() => {
    app.graph.clear()
    const add = (kind, pos, values, ...sources) => {
        const node = LiteGraph.createNode(kind)
        app.graph.add(node)
        node.pos = pos
        for (const widget of node.widgets ?? []) if (widget.name in values) widget.value = values[widget.name]
        for (const [slot, [source, output]] of sources.entries()) source.connect(output, node, slot)
        return node
    }
    const picture = add("LoadImage", [0, 0], { image: "bld_demo_edit.png" })
    const three = add("RepeatImageBatch", [400, 0], { amount: 3 }, [picture, 0])
    const list = add("RebatchImages", [400, 200], { batch_size: 1 }, [three, 0])
    for (const [row, source] of [list, three].entries()) {
        const report = add("EditReport", [800, 700 * row], {}, [source, 0], [source, 0], [picture, 1])
        add("PreviewAny", [1300, 700 * row], {}, [report, 4])
    }
}"""


@RENDERERS
def test_the_pictures_of_a_list_and_of_a_batch_are_counted_through(ui, vue):
    ui.open()
    ui.show_renderer(vue)
    ui.page.evaluate(PAGES)
    assert ui.run()["status"]["status_str"] == "success"
    reports = ui.page.evaluate(FIND, "EditReport")
    assert len(reports) == 2
    for node in reports:
        pager = display(ui, node).locator(".bld-pager")
        seen = []
        for _ in range(3):
            seen.append(pager.inner_text().split("\n")[1])
            pager.get_by_label("Next picture").click(force=True)
        assert seen == ["1 of 3", "2 of 3", "3 of 3"]
    assert ui.complaints == []


# The main example up to the sampler, quick. What the display shows at each event is kept.
SAMPLER = """steps => {
    const after = ["VAEDecode", "ClipRankBatch", "OpenClipLoader", "DecoderFinetuneReconstruct", "LatentFromBatch", "ImageStitch", "SaveImage", "PreviewAny",
        "PreviewImage", "MarkdownNote"]
    for (const node of [...app.graph.nodes]) if (after.includes(node.type)) app.graph.remove(node)
    const node = kind => app.graph.nodes.find(n => n.type === kind)
    for (const w of node("BlendedLatentKSampler").widgets) if (w.name === "steps") w.value = steps
    for (const w of node("BlendedLatentKSampler").widgets) if (w.name === "candidates") w.value = 2
    const view = LiteGraph.createNode("SaveLatent")
    app.graph.add(view)
    node("BlendedLatentKSampler").connect(0, view, 0)
    if (!window.seen) window.comfyAPI.api.api.addEventListener("blended_latent.sampling", ({ detail }) => {
        const marks = [...document.querySelectorAll(".bld-mark")].filter(mark => !mark.hidden)
        window.seen.push([detail.step ?? null, marks.map(mark => parseFloat(mark.style.left) / 100)])
    })
    window.seen = []
}"""
CHANGE = """([name, value]) => {
    const widget = app.graph.nodes.find(n => n.type === "BlendedLatentKSampler").widgets.find(w => w.name === name)
    widget.value = value
    widget.callback?.(value)
}"""


@RENDERERS
def test_the_sampler_shows_its_steps_after_a_run_and_where_it_is_during_one(ui, vue):
    ui.open("blended_latent_edit")
    ui.show_renderer(vue)
    steps = 9 if vue else 11  # or the last run of the other renderer, or of another test, would come back
    ui.page.evaluate(SAMPLER, steps)
    bar = the(ui, "BlendedLatentKSampler")
    bar.filter(has_text="Run to see the steps.").wait_for()
    shares = bar.locator(".bld-stages > div").evaluate_all("all => all.map(stage => Number(stage.dataset.share))")
    assert shares == pytest.approx([share for *_, share in split(stage_shares(1, 0.95), INSET_ENDS)]), "the schedule is known before the steps are"
    record = ui.run()
    (shown,) = [output["steps"][0] for output in record["outputs"].values() if "steps" in output]
    assert bar.locator(".bld-stages > div").all_text_contents() == [str(shown["stages"].count(stage)) for stage in range(3)]
    ticks = bar.locator(".bld-steps > i").evaluate_all("all => all.map(tick => [parseFloat(tick.style.left) / 100, Number(tick.dataset.stage)])")
    assert [start for start, _ in ticks] == pytest.approx(shown["starts"], abs=1e-3) and [stage for _, stage in ticks] == shown["stages"]
    seen = ui.page.evaluate("window.seen")
    assert seen[0][0] is None and [step for step, _ in seen[1:]] == list(range(len(shown["starts"])))
    assert [mark for _, (mark,) in seen[1:]] == pytest.approx(shown["starts"], abs=1e-3)
    assert ui.page.locator(".bld-mark:visible").count() == 0, "the run is over"

    ui.page.evaluate(CHANGE, ["steps", steps + 2])
    bar.filter(has_text="Run to see the steps.").wait_for()
    assert bar.locator(".bld-steps > i").count() == 0
    ui.page.evaluate(CHANGE, ["steps", steps])
    assert bar.locator(".bld-steps > i").count() == len(shown["starts"])

    ui.page.evaluate(SET, {"stages": 2})
    bar.filter(has_text="Run to see the steps.").wait_for()
    assert bar.locator(".bld-stages > div").count() == 4, "it follows the schedule before it"
    ui.page.evaluate(SET, {"stages": 1})
    assert bar.locator(".bld-steps > i").count() == len(shown["starts"])
    ui.page.evaluate("""() => {
        const sampler = app.graph.nodes.find(n => n.type === "BlendedLatentKSampler")
        sampler.disconnectInput(sampler.inputs.findIndex(input => input.name === "mask_schedule"))
    }""")
    bar.filter(has_text="Run to see the steps.").wait_for()
    assert bar.locator(".bld-stages > div").count() == 1, "without a schedule there is one stage"
    assert "shares" not in str(ui.prompt()) and ui.complaints == []


# The texts of the displays that stand out too little from what is behind them, with their contrast; those on pictures have a shade of their own.
PALE = """() => {
    const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true })
    const rgba = color => {
        context.clearRect(0, 0, 1, 1)
        context.fillStyle = color
        context.fillRect(0, 0, 1, 1)
        const [red, green, blue, alpha] = context.getImageData(0, 0, 1, 1).data
        return [red, green, blue, alpha / 255]
    }
    const over = ([red, green, blue, alpha], below) => [red, green, blue].map((value, i) => value * alpha + below[i] * (1 - alpha))
    const chain = element => element ? [element, ...chain(element.parentElement)] : []
    const behind = element => chain(element).map(one => rgba(getComputedStyle(one).backgroundColor))
        .reduceRight((below, color) => over(color, below), rgba(LiteGraph.NODE_DEFAULT_BGCOLOR))
    const light = color => color.slice(0, 3).map(v => v / 255).map(v => v <= 0.04 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0.05)
    const contrast = element => {
        const background = behind(element), [red, green, blue, alpha] = rgba(getComputedStyle(element).color)
        const opacity = chain(element).reduce((product, one) => product * getComputedStyle(one).opacity, alpha)
        const ends = [light(over([red, green, blue, opacity], background)), light(background)]
        return Math.max(...ends) / Math.min(...ends)
    }
    const hasText = element => [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.textContent.trim())
    return [...document.querySelectorAll("[data-of-node], [data-of-node] *, .bld-card *")]
        .filter(one => hasText(one) && one.checkVisibility() && !one.closest(".bld-gallery-tile, .bld-frame, .bld-stages, :disabled"))
        .map(one => [one.textContent, contrast(one)]).filter(([, contrast]) => contrast < 3)
}"""


@RENDERERS
def test_all_displays_inside_a_subgraph_are_right_and_legible_in_both_themes_and_after_a_reload(ui, vue):
    needs_math(ui)
    ui.open("one_node")
    ui.show_renderer(vue)
    ui.page.evaluate("""settings => { for (const node of app.graph.nodes) for (const widget of node.widgets ?? [])
        if (widget.name in settings) widget.value = settings[widget.name] }""", {"quality": "quick", "candidates": 3})
    record = ui.run()
    kinds = {record["prompt"][2][node]["class_type"]: output for node, output in record["outputs"].items()}

    def show_what_was_given() -> None:
        rank = the(ui, "ClipRankBatch")
        scores = [f"{one['score']:.4f}" for one in kinds["ClipRankBatch"]["gallery"]]
        assert rank.locator(".bld-gallery-label span").all_text_contents() == scores
        rank.locator(".bld-gallery-tile").first.hover()
        assert ui.page.evaluate(PALE) == []
        assert figures(the(ui, "DecoderFinetuneReconstruct")) == expected(kinds["DecoderFinetuneReconstruct"]["comparison"][0])
        assert ui.page.evaluate(PALE) == []
        run = kinds["BlendedLatentKSampler"]["steps"][0]
        assert the(ui, "BlendedLatentKSampler").locator(".bld-steps > i").count() == len(run["starts"]) == 12
        assert ui.page.evaluate(PALE) == []
        shares = the(ui, "ProgressiveMaskDilate").locator(".bld-stages > div").evaluate_all("all => all.map(stage => Number(stage.dataset.share))")
        assert shares == pytest.approx(kinds["ProgressiveMaskDilate"]["schedule"][0]["shares"])
        assert ui.page.evaluate(PALE) == []

    ui.enter(BLUEPRINT)
    show_what_was_given()
    ui.set("Comfy.ColorPalette", "light")
    show_what_was_given()
    after_a_reload()
    ui.reload()  # opens the subgraph again
    ui.page.wait_for_function("() => app.canvas.graph?.isRootGraph === false")
    ui.page.locator(".bld-figures td[data-of]").first.wait_for(state="attached")
    show_what_was_given()
    assert ui.complaints == []
