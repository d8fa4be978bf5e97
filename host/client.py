"""Talk to a ComfyUI server over HTTP and its websocket, as the browser does. Needs aiohttp, which ComfyUI brings."""
from __future__ import annotations

import asyncio
import json
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import aiohttp

from host import HostError
from host.server import LOCAL
from host.workflow import to_prompt

Json = dict[str, Any]


class PromptRefused(HostError):
    """The server refused a prompt. `error` and `node_errors` are as it sent them."""

    def __init__(self, error: Json, node_errors: Json, prompt: Json) -> None:
        self.error = error
        self.node_errors = node_errors
        lines = [f"ComfyUI refused the workflow: {_sentence(error)}.", *_node_lines(node_errors, prompt)]
        super().__init__("\n".join(lines))


class ExecutionFailed(HostError):
    """A node raised. `node_id`, `node_type`, `exception_type`, `message` and `traceback` are the server's."""

    def __init__(self, data: Json) -> None:
        self.node_id: str = str(data.get("node_id"))
        self.node_type: str = data.get("node_type", "?")
        self.exception_type: str = data.get("exception_type", "?")
        self.message: str = data.get("exception_message", "").strip()
        self.traceback: str = "".join(data.get("traceback") or [])
        super().__init__(f"Node {self.node_id} ({self.node_type}) failed with {self.exception_type}: {self.message}\n"
                         f"{self.traceback}".rstrip())


class ConnectionLost(HostError):
    """The server does not answer any more."""


class Answered(HostError):
    """The server answered a request with an error: its code and what it sent."""

    def __init__(self, path: str, error: urllib.error.HTTPError) -> None:
        self.code, self.body = error.code, error.read()
        super().__init__(f"ComfyUI answered {error.code} to {path.partition('?')[0]}: {error.reason}.")


class Interrupted(HostError):
    """The run was cancelled, in the node `node_id`."""

    def __init__(self, data: Json) -> None:
        self.node_id: str = str(data.get("node_id"))
        self.node_type: str = data.get("node_type", "?")
        super().__init__(f"The run was cancelled in node {self.node_id} ({self.node_type}).")


@dataclass(frozen=True)
class Event:
    """One message of the server about a prompt; `node` is the node it is about, if any."""

    type: str
    data: Json

    @property
    def node(self) -> str | None:
        """The id of the node, as in the prompt."""
        node = self.data.get("node", self.data.get("node_id"))
        return None if node is None else str(node)


@dataclass
class Run:
    """A prompt that was carried out: what ran, what came from the cache, and what the output nodes gave."""

    prompt_id: str
    seconds: float
    executed: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    outputs: dict[str, Json] = field(default_factory=dict)


class Client:
    """A client of one server: a context manager that holds a websocket open.

    `diagnose` gives lines to add to an error when the connection breaks, such as the end of the server's log.
    Several prompts may be queued at once; the events of each are kept apart.
    """

    def __init__(self, url: str, diagnose: Callable[[], str] = str) -> None:
        self.url = url.rstrip("/")
        self.id = uuid.uuid4().hex
        self._diagnose = diagnose
        self._events: dict[str, queue.Queue[Event | None]] = defaultdict(queue.Queue)
        self._lock = threading.Lock()
        self._lost = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._thread: threading.Thread | None = None
        self._object_info: Json | None = None

    def __enter__(self) -> Client:
        opened = threading.Event()
        # The thread keeps its event loop out of the caller's, which may have one running (Playwright does).
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen(opened)), daemon=True)
        self._thread.start()
        if not opened.wait(30) or self._lost.is_set():
            raise self._connection_error()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if self._loop and self._closing and self._thread and not self._lost.is_set():
            self._loop.call_soon_threadsafe(self._closing.set)
            self._thread.join(10)

    # -- prompts ------------------------------------------------------------------------------------------------

    def prompt(self, workflow: Json) -> Json:
        """The API prompt for a workflow as the browser saves it. Raises HostError."""
        return to_prompt(workflow, self.object_info())

    def queue(self, prompt: Json, workflow: Json | None = None, prompt_id: str | None = None) -> str:
        """Queue a prompt and return its id; `workflow` is embedded in saved pictures, `prompt_id` a UUID of yours. Raises PromptRefused."""
        body: Json = {"prompt": prompt, "client_id": self.id}
        if workflow is not None:
            body["extra_data"] = {"extra_pnginfo": {"workflow": workflow}}
        if prompt_id is not None:
            body["prompt_id"] = prompt_id
        try:
            answer = self.post("/prompt", body)
        except Answered as error:
            refusal = _json(error.body) if error.code == 400 else {}
            if "error" not in refusal:
                raise
            raise PromptRefused(refusal["error"], refusal.get("node_errors") or {}, prompt) from error
        if answer.get("node_errors"):
            # The server takes a prompt of which one output is sound and drops the rest; a caller wants all of it.
            self.cancel(answer["prompt_id"])
            raise PromptRefused({"message": "some outputs cannot be made"}, answer["node_errors"], prompt)
        return answer["prompt_id"]

    def events(self, prompt_id: str, timeout: float = 600) -> Iterator[Event]:
        """The events of a queued prompt until it ends. Raises HostError when the server is lost or `timeout` s pass."""
        deadline = time.monotonic() + timeout
        with self._lock:
            inbox = self._events[prompt_id]
        while True:
            try:
                event = inbox.get(timeout=min(1.0, max(0.01, deadline - time.monotonic())))
            except queue.Empty:
                event = None
            if event is None:
                if self._lost.is_set() and inbox.empty():
                    raise self._connection_error()
                if time.monotonic() > deadline:
                    raise HostError(f"The workflow was not done in {timeout:.0f} s.{self._lines()}")
                continue
            yield event
            if event.type == "executing" and event.node is None:  # sent when the history has the outputs
                return

    def wait(self, prompt_id: str, on_event: Callable[[Event], None] | None = None, timeout: float = 600) -> Run:
        """Follow a queued prompt to its end. Raises ExecutionFailed, Interrupted or HostError."""
        start = time.monotonic()
        run = Run(prompt_id, 0.0)
        failure: HostError | None = None
        for event in self.events(prompt_id, timeout):
            if on_event is not None:
                on_event(event)
            if event.type == "execution_cached":
                run.cached = [str(node) for node in event.data.get("nodes", [])]
            elif event.type == "executing" and event.node is not None and event.node not in run.executed:
                run.executed.append(event.node)
            elif event.type == "execution_error":
                failure = ExecutionFailed(event.data)
            elif event.type == "execution_interrupted":
                failure = Interrupted(event.data)
        if failure is not None:
            raise failure
        run.seconds = time.monotonic() - start
        run.outputs = self.history(prompt_id).get("outputs", {})
        return run

    def run(self, prompt: Json, on_event: Callable[[Event], None] | None = None, timeout: float = 600) -> Run:
        """Queue a prompt and follow it to its end. Raises PromptRefused, ExecutionFailed, Interrupted or HostError."""
        return self.wait(self.queue(prompt), on_event, timeout)

    def interrupt(self) -> None:
        """Cancel what is running."""
        self.post("/interrupt", {})

    def cancel(self, prompt_id: str) -> None:
        """Cancel one prompt, running or queued."""
        self.post("/queue", {"delete": [prompt_id]})
        self.post("/interrupt", {"prompt_id": prompt_id})

    def queued(self) -> tuple[list[str], list[str]]:
        """The ids of the running and of the waiting prompts."""
        state = self.get("/queue")
        return [item[1] for item in state["queue_running"]], [item[1] for item in state["queue_pending"]]

    def is_queued(self, prompt_id: str) -> bool:
        """Whether a prompt is running or waiting."""
        return any(prompt_id in ids for ids in self.queued())

    def history(self, prompt_id: str) -> Json:
        """What the server keeps of a finished prompt: outputs, status, messages."""
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def finished(self, prompt_id: str) -> Run | None:
        """A prompt that was carried out, whoever queued it; None while it is not. Raises ExecutionFailed or Interrupted."""
        entry = self.history(prompt_id)
        if not entry:
            return None
        messages = dict(entry["status"]["messages"])
        if "execution_error" in messages:
            raise ExecutionFailed(messages["execution_error"])
        if "execution_interrupted" in messages:
            raise Interrupted(messages["execution_interrupted"])
        seconds = (messages["execution_success"]["timestamp"] - messages["execution_start"]["timestamp"]) / 1000
        return Run(prompt_id, seconds, cached=messages["execution_cached"]["nodes"], outputs=entry["outputs"])

    def forget(self, prompt_id: str) -> None:
        """Take a finished prompt out of the server's history."""
        self.post("/history", {"delete": [prompt_id]})

    # -- files and facts ----------------------------------------------------------------------------------------

    def object_info(self) -> Json:
        """The server's description of all its nodes; fetched once."""
        if self._object_info is None:
            self._object_info = self.get("/object_info")
        return self._object_info

    def images(self, run: Run, node: str | int) -> list[bytes]:
        """The files of the pictures that a node saved or previewed, in order."""
        return [self.view(item) for item in run.outputs.get(str(node), {}).get("images", [])]

    def view(self, item: Json) -> bytes:
        """The bytes of a file that an output names: filename, subfolder, type."""
        names = {name: item.get(name, "") for name in ("filename", "subfolder", "type")}
        return self._read("/view?" + urllib.parse.urlencode(names))

    def upload(self, name: str, data: bytes, folder: str = "") -> str:
        """Put a picture into a folder of the input folder, over another of the same name; returns what LoadImage calls it.

        The same picture stays as it is: a run that reads it just then would find it half-written.
        """
        if self._has(name, data, folder):
            return "/".join(filter(None, (folder, name)))
        boundary = uuid.uuid4().hex
        body = (f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
                f'--{boundary}\r\nContent-Disposition: form-data; name="subfolder"\r\n\r\n{folder}\r\n'
                f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n").encode() + data + f"\r\n--{boundary}--\r\n".encode()
        answer = _json(self._read("/upload/image", body, f"multipart/form-data; boundary={boundary}"))
        return "/".join(part for part in (answer.get("subfolder"), answer["name"]) if part)

    def _has(self, name: str, data: bytes, folder: str) -> bool:
        try:
            return self.view({"filename": name, "subfolder": folder, "type": "input"}) == data
        except Answered:
            return False

    def get(self, path: str) -> Any:
        """The JSON that the server has under a path."""
        return _json(self._read(path))

    def post(self, path: str, body: Json) -> Any:
        """Send JSON; returns the JSON of the answer, {} if it has none."""
        return _json(self._read(path, json.dumps(body).encode(), "application/json"))

    def _read(self, path: str, body: bytes | None = None, content_type: str | None = None) -> bytes:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": content_type} if content_type else {})
        try:
            with LOCAL.open(request, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise Answered(path, error) from error
        except OSError as error:
            raise self._connection_error() from error

    # -- the websocket ------------------------------------------------------------------------------------------

    async def _listen(self, opened: threading.Event) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        try:
            address = f"{self.url}/ws?clientId={self.id}"
            async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
                opened.set()
                tasks = [asyncio.create_task(self._receive(socket)), asyncio.create_task(self._closing.wait())]
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    task.cancel()
        except (aiohttp.ClientError, OSError):
            pass
        finally:
            self._lost.set()
            opened.set()

    async def _receive(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        running = None
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue  # previews come as binary frames
            event = json.loads(message.data)
            data = event.get("data") or {}
            running = data.get("prompt_id", running)
            # What this pack's nodes tell their displays names the node alone: it belongs to the prompt that runs.
            if running is not None and ("prompt_id" in data or "node" in data):
                with self._lock:
                    self._events[running].put(Event(event["type"], data))

    def _connection_error(self) -> ConnectionLost:
        return ConnectionLost(f"The connection to ComfyUI at {self.url} is lost.{self._lines()}")

    def _lines(self) -> str:
        lines = self._diagnose()
        return f" The end of its log:\n{lines}" if lines else ""


def _json(data: bytes) -> Any:
    return json.loads(data) if data.strip() else {}


def _sentence(error: Json) -> str:
    message, details = str(error.get("message", "")).strip(), str(error.get("details", "")).strip()
    return f"{message.rstrip('.')} ({details})" if details and details != message else message


def _node_lines(node_errors: Json, prompt: Json) -> list[str]:
    lines = []
    for node_id, entry in node_errors.items():
        title = prompt.get(node_id, {}).get("_meta", {}).get("title", "")
        kind = entry.get("class_type", "?")
        name = f"{kind} “{title}”" if title and title != kind else kind
        lines += [f"    node {node_id} ({name}): {_sentence(error)}" for error in entry.get("errors", [])]
    return lines
