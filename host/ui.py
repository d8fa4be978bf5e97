"""The real user interface, driven as a person drives it."""
from __future__ import annotations

import json
import time
import urllib.request
from typing import Any

from host.server import LOCAL, PACK

Json = dict[str, Any]
# ComfyUI's own page looks for files that a user may have made, and touches its graph too early.
ITS_OWN = ("/userdata", "/user.css", "graph accessed before initialization")


class Ui:
    """One tab. `complaints` are the errors that its console has shown since it opened."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.on("console", self._listen)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _listen(self, message: Any) -> None:
        text = f"{message.text} {message.location.get('url', '')}"
        if message.type == "error" and not any(part in text for part in ITS_OWN):
            self.complaints.append(text)

    def open(self, example: str | None = None) -> None:
        """Open the page with one of the pack's examples, as its Templates list does, or with an empty graph."""
        self._be_new()
        self.page.goto(f"{self.url}/?template={example}&source={PACK}" if example else self.url)
        self.page.wait_for_function("() => window.app?.vueAppReady && window.app.extensionManager")
        if example:
            self.page.wait_for_function("() => app.graph.nodes.length > 0")
        else:
            self.page.get_by_role("dialog").wait_for()
            self.page.keyboard.press("Escape")
            self.page.get_by_role("dialog").wait_for(state="hidden")

    def _be_new(self) -> None:
        # To a known user the page opens a stock workflow first, and asks for the models of that one.
        request = urllib.request.Request(f"{self.url}/settings", b'{"Comfy.TutorialCompleted": false}',
                                         {"Content-Type": "application/json"}, method="POST")
        LOCAL.open(request, timeout=10).close()

    def load(self, workflow: Json) -> None:
        """Open a workflow, as if its file were dropped on the page."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)

    def prompt(self) -> Json:
        """What the page would send to run the workflow that is open."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def object_info(self) -> Json:
        """The server's description of all its nodes."""
        return self._get("/object_info")

    def missing_nodes(self) -> list[str]:
        """The types of the nodes that are drawn red because the server does not know them."""
        return self.page.evaluate("() => app.graph.nodes.filter(n => n.has_errors).map(n => n.type)")

    def press_run(self) -> None:
        """Press the Run button."""
        self.page.get_by_test_id("queue-button").first.click()

    def run(self, timeout: float = 300) -> Json:
        """Press Run and wait for the end; returns the server's record of the run. Raises TimeoutError."""
        before = set(self._get("/history"))
        self.press_run()
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            done = [entry for prompt_id, entry in self._get("/history").items() if prompt_id not in before]
            if done:
                self.page.wait_for_timeout(1000)  # for the pictures to be drawn
                return done[0]
            self.page.wait_for_timeout(300)
        raise TimeoutError(f"the run was not done in {timeout:.0f} s")

    def pictures(self) -> dict[str, int]:
        """How many loaded pictures each node shows, by node id."""
        return self.page.evaluate("""() => Object.fromEntries(app.graph.nodes.map(
            n => [n.id, (n.imgs ?? []).filter(i => i.complete && i.naturalWidth).length]).filter(e => e[1]))""")

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
