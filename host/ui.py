"""The real user interface, driven as a person drives it."""
from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from host.server import LOCAL, PACK

Json = dict[str, Any]
# ComfyUI's own page looks for files that a user may have made and for help in the user's language, and touches its graph too early;
# that of 0.16.3 can't list a job that shows a text.
ITS_OWN = ("/userdata", "/user.css", "/en.md", "/favicon.ico", "graph accessed before initialization", "[Jobs API] Error fetching jobs")

SETTINGS = {"Comfy.VueNodes.Enabled": False, "Comfy.ColorPalette": "dark", "Comfy.Execution.PreviewMethod": "default",
            "Comfy.RightSidePanel.IsOpen": False}  # fmt: skip
# Counts the live previews of the coming run, and notes what each node sends to its display: an older server doesn't keep it.
WATCH = """() => {
    if (window.previews === undefined) {
        const { api } = window.comfyAPI.api
        api.addEventListener('b_preview', () => window.previews++)
        api.addEventListener('executed', ({ detail: { node, output } }) => { if (output) window.outputs[node] = output })
        for (const end of ['success', 'error', 'interrupted']) api.addEventListener(`execution_${end}`, ({ detail }) => { window.ended = detail.prompt_id })
    }
    Object.assign(window, { previews: 0, outputs: {} })
}"""
# Does what the Templates list does. To load the page takes ten times as long.
OPEN = """async ({name, path, settings}) => {
    const {setting, command} = app.extensionManager
    for (const [key, value] of Object.entries(settings)) if (setting.get(key) !== value) await setting.set(key, value)
    if (!path) return await command.execute('Comfy.NewBlankWorkflow')
    const file = await window.comfyAPI.api.api.fetchApi(path)
    await app.loadGraphData(await file.json(), true, true, name)
}"""

# The nodes of the open graph that cover each other, titles included, as pairs of names.
OVERLAPS = """() => {
    const nodes = app.canvas.graph.nodes.map(n => [`${n.title} (${n.id})`, ...n.boundingRect])
    const apart = (a, b, i) => a[i] + a[i + 2] <= b[i] || b[i] + b[i + 2] <= a[i]
    return nodes.flatMap((a, i) => nodes.slice(i + 1).filter(b => !apart(a, b, 1) && !apart(a, b, 2)).map(b => [a[0], b[0]]))
}"""
# The wires that run behind nodes at neither of their ends, as pairs of names. All wires are drawn at once in each node's box, and alone only
# where one shows.
BEHIND = """() => {
    const graph = app.canvas.graph, scale = 0.25, margin = 6
    const title = id => graph.getNodeById(id)?.title ?? 'the subgraph'
    const wires = [...graph.links.values()].flatMap(link => {
        const paths = [link.path]
        for (let id = link.parentId; id != null; id = graph.reroutes.get(id).parentId) paths.push(graph.reroutes.get(id).path)
        const name = `${link.type} from ${title(link.origin_id)} to ${title(link.target_id)}`
        return paths.map(path => ({path, name, ends: [link.origin_id, link.target_id].map(String)}))
    })
    const drawn = wires.filter(wire => wire.path)
    const show = ([x, y, width, height], wires) => {
        const sides = [width, height].map(side => Math.max(1, Math.round((side - 2 * margin) * scale)))
        const context = new OffscreenCanvas(...sides).getContext('2d', {willReadFrequently: true})
        context.setTransform(scale, 0, 0, scale, -(x + margin) * scale, -(y + margin) * scale)
        context.lineWidth = 4
        for (const {path} of wires) context.stroke(path)
        return context.getImageData(0, 0, ...sides).data.some(value => value)
    }
    const behind = graph.nodes.flatMap(node => {
        const box = [...node.boundingRect], others = drawn.filter(({ends}) => !ends.includes(String(node.id)))
        const found = show(box, others) ? others.filter(wire => show(box, [wire])) : []
        return found.map(({name}) => `${name} runs behind ${node.title}`)
    })
    return [...new Set([...wires.filter(wire => !wire.path).map(({name}) => `${name} was not drawn`), ...behind])]
}"""
# Resolves when nothing has moved, appeared or loaded for a while, counted in frames: on a busy machine these take longer.
CALM = """async () => {
    const shown = () => JSON.stringify([app.canvas.graph.nodes.map(n => [...n.boundingRect, n.imgs?.length]), [...document.images].map(i => i.complete)])
    for (let before = '', calm = 0; calm < 10; calm++) {
        await new Promise(requestAnimationFrame)
        const now = shown()
        if (now !== before) calm = 0
        before = now
    }
}"""
# The page stores a changed workflow 512 ms after the change. In one page, the timer that is due first runs first.
UNTIL_STORED = "() => new Promise(done => setTimeout(done, 600))"
FIRST = "smallest_graph"  # of the pack's examples, opened where none is asked for
FOUND = "[data-testid=result-item], .p-autocomplete-option"  # in the node search, and in that of an older page
RESULTS = f"[...document.querySelectorAll('{FOUND}')].map(item => item.innerText).join()"


class Ui:
    """One tab. `complaints` are the errors that its console has shown since it opened; `shots` is where pictures of the screen are kept, if anywhere."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.shots: Path | None = None
        self.complaints: list[str] = []
        self._loaded = False
        self._language = "en"
        page.set_default_timeout(120_000)  # a busy machine takes long to load the page
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _listen(self, message: Any) -> None:
        text = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and not any(part in text for part in ITS_OWN):
            self.complaints.append(text)

    def open(self, example: str | None = None) -> None:
        """Open one of the pack's examples, as the Templates list does, or an empty graph: in a page of a new user, or in the one that is there."""
        if self._loaded:
            path = f"/workflow_templates/{PACK}/{example}.json" if example else None
            self.page.evaluate(OPEN, {"name": example, "path": path, "settings": SETTINGS})
        else:
            self._be_new()
            self._load(example)
            self._loaded = True

    def renew(self, language: str = "en") -> None:
        """Let the next open() load the page again, for a new user who reads this language, since it would not put right what was changed."""
        self._loaded = False
        self._language = language

    def _load(self, example: str | None) -> None:
        # To a new user the page shows its list of templates, unless it is told which one to open.
        self.page.goto(f"{self.url}/?template={example or FIRST}&source={PACK}")
        self._wait()
        self.page.wait_for_function("() => app.graph.nodes.length > 0")
        if not example:
            self.page.evaluate("() => app.extensionManager.command.execute('Comfy.NewBlankWorkflow')")

    def _wait(self) -> None:
        self.page.wait_for_function("() => window.app?.vueAppReady && window.app.extensionManager")
        # What pulses or turns during a run would have the whole page drawn again and again.
        self.page.add_style_tag(content="*, ::before, ::after { animation-iteration-count: 1 !important }")

    def _be_new(self) -> None:
        # The page would go on with what it did last.
        self.page.goto(f"{self.url}/system_stats")
        self.page.evaluate("() => { localStorage.clear(); sessionStorage.clear() }")
        # To a known user the page opens a stock workflow first, and asks for the models of that one.
        self._post("/settings", {"Comfy.TutorialCompleted": False, "Comfy.Locale": self._language, **SETTINGS})

    def show_renderer(self, vue: bool) -> None:
        """Draw nodes as HTML (Nodes 2.0) or, else, on the canvas."""
        self.set("Comfy.VueNodes.Enabled", vue)

    def set(self, setting: str, value: Any) -> None:
        """Change a setting of the user's."""
        self.page.evaluate("([setting, value]) => app.extensionManager.setting.set(setting, value)", [setting, value])

    def reload(self) -> None:
        """Load the page again, once it has stored the workflow as it is now."""
        self.page.evaluate(UNTIL_STORED)
        self.page.reload()
        self._wait()

    def enter(self, title: str) -> None:
        """Open the subgraph of the node with this title."""
        self.page.evaluate("title => { const node = app.graph.nodes.find(n => n.title === title); app.canvas.openSubgraph(node.subgraph, node) }", title)

    def leave(self) -> None:
        """Show the whole workflow again, from wherever in its subgraphs."""
        self.page.evaluate("() => app.canvas.setGraph(app.rootGraph)")

    def titles(self) -> list[str]:
        """The titles of the nodes of the open graph."""
        return self.page.evaluate("() => app.canvas.graph.nodes.map(n => n.title)")

    def load(self, workflow: Json) -> None:
        """Open a workflow, as if its file were dropped on the page."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)

    def prompt(self) -> Json:
        """What the page would send to run the workflow that is open."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def forget_results(self) -> None:
        """Let the next run compute every node anew."""
        self._post("/free", {"free_memory": True})

    def object_info(self) -> Json:
        """The server's description of all its nodes."""
        return self._get("/object_info")

    def missing_nodes(self) -> list[str]:
        """The types of the nodes that are drawn red because the server does not know them."""
        return self.page.evaluate("() => app.graph.nodes.filter(n => n.has_errors).map(n => n.type)")

    def press_run(self) -> None:
        """Press the Run button."""
        self.page.get_by_test_id("queue-button").first.click()

    def run(self, timeout: float = 300, press: Any = None, during: Callable[[], None] | None = None) -> Json:
        """Press Run, or the button `press`, and wait for the end; returns the server's record of the run. Raises TimeoutError.

        during: called once the run has sent a live preview, so it must send some.
        """
        self.page.evaluate(WATCH)
        with self.page.expect_response(lambda answer: answer.request.method == "POST" and answer.url.endswith("/prompt")) as sent:
            press.click() if press else self.press_run()
        prompt_id = sent.value.json()["prompt_id"]
        if during:
            self.page.wait_for_function("() => window.previews > 0")
            during()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            done = self._get(f"/history/{prompt_id}")
            if done:
                self.page.wait_for_function("id => window.ended === id", arg=prompt_id)
                self.settle()
                record = done[prompt_id]
                return record | {"outputs": self.page.evaluate("() => window.outputs") | record["outputs"]}
            self.page.wait_for_timeout(100)
        raise TimeoutError(f"the run was not done in {timeout:.0f} s")

    def settle(self) -> None:
        """Wait until everything is drawn and in its place."""
        self.page.evaluate(CALM)

    def keep(self, state: str = "") -> None:
        """Keep a picture of the screen as it is now, for a person to look at."""
        if self.shots:
            self.page.screenshot(path=f"{self.shots}{state and ', '}{state}.png")

    def overlaps(self) -> list[list[str]]:
        """The pairs of nodes that cover each other."""
        self._show_all()
        return self.page.evaluate(OVERLAPS)

    def wires_behind_nodes(self) -> list[str]:
        """The wires that run behind a node at neither of their ends."""
        self._show_all()
        return self.page.evaluate(BEHIND)

    def _show_all(self) -> None:
        """Bring the whole graph into view and draw it: what is out of sight has no wires and old boxes."""
        self.page.evaluate("""() => {
            const nodes = app.canvas.graph.nodes
            const low = i => Math.min(...nodes.map(n => n.pos[i])) - 400, high = i => Math.max(...nodes.map(n => n.pos[i] + n.size[i])) + 400
            const {width, height} = app.canvas.canvas.getBoundingClientRect()
            app.canvas.ds.scale = Math.min(width / (high(0) - low(0)), height / (high(1) - low(1)))
            app.canvas.ds.offset = [-low(0), -low(1)]
            app.canvas.setDirty(true, true)
        }""")
        self.settle()

    def search(self, words: str) -> list[list[str]]:
        """What the node search finds, best first: the lines of each entry, first the title, then the pack that it is from."""
        self._search(words)
        found = self.page.locator(FOUND).all_inner_texts()
        self.page.keyboard.press("Escape")
        return [[line.strip() for line in text.splitlines()] for text in found]

    def add(self, title: str) -> None:
        """Add the first node that the search finds, in the middle of the screen."""
        self._search(title)
        self.page.locator(FOUND).first.click()
        self.page.mouse.click(800, 500)
        self.page.wait_for_function("title => app.graph.nodes.some(n => n.title === title)", arg=title)

    def _search(self, words: str) -> None:
        self.page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        field = self.page.get_by_role("combobox").first
        field.wait_for()
        before = self.page.evaluate(RESULTS)
        field.fill(words)
        # The box searches some time after the last key, lists nothing at first, and then in steps.
        self.page.wait_for_function(f"before => ![before, ''].includes({RESULTS})", arg=before)
        found = None
        while found != (found := self.page.evaluate(RESULTS)):
            self.page.wait_for_timeout(1000)
        self.settle()

    def pictures(self) -> dict[str, int]:
        """How many loaded pictures each node shows, by node id. Nodes 2.0 draws them as elements of its own."""
        return self.page.evaluate("""() => {
            const loaded = images => [...images ?? []].filter(i => i.complete && i.naturalWidth).length
            const drawn = n => document.querySelectorAll(`[data-node-id="${n.id}"] img`)
            return Object.fromEntries(app.graph.nodes.map(n => [n.id, Math.max(loaded(n.imgs), loaded(drawn(n)))]).filter(e => e[1]))
        }""")

    def help_pictures(self, kind: str) -> dict[str, int]:
        """Open the help page of a new node of this kind; returns the address and the width in pixels of each picture on it."""
        self.page.evaluate("""kind => {
            app.graph.clear()
            const node = LiteGraph.createNode(kind)
            app.graph.add(node)
            app.canvas.ds.offset = [400, 200]
            app.canvas.selectNode(node)
        }""", kind)
        self.page.get_by_test_id("info-button").click()
        pictures = self.page.locator(f".node-help-content img[src*='/{kind}']")
        pictures.last.wait_for()
        self.page.wait_for_function("() => [...document.querySelectorAll('.node-help-content img')].every(i => i.complete)")
        return dict(pictures.evaluate_all("images => images.map(i => [i.src, i.naturalWidth])"))

    def _get(self, path: str) -> Json:
        with LOCAL.open(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def _post(self, path: str, body: Json) -> None:
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        LOCAL.open(request, timeout=10).close()
