"""Edit many pictures with one workflow; what is done stays done, so that you can stop and go on."""
from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from host import HostError, exit_status, printable
from host.client import Client, ExecutionFailed, PromptRefused, Run
from host.demo import INPUTS
from host.edit.graph import Workflow, read_workflow
from host.edit.inputs import Places, as_type, find_places
from host.edit.jobs import Job, find_jobs
from host.edit.line import carry_out
from host.edit.pictures import FOLDER, MaskUpload, Upload
from host.edit.results import Results, spare_sources
from host.edit.sheet import write_sheet
from host.edit.table import write_table
from host.edit.taps import Taps
from host.files import DiskFull
from host.provision import Host
from host.server import Server, log_tail

Json = dict[str, Any]

TABLE, SHEET = "figures.csv", "contact_sheet.html"


def main() -> int:
    """Edit; returns the exit status, 0 only where every picture is done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--overlay", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--server")
    parser.add_argument("--workflow", required=True)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("source", type=Path)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    return exit_status(edit, options)


def edit(options: argparse.Namespace) -> int:
    """Edit what the options name; returns the exit status. Raises HostError for what stops all of it."""
    source = options.source.resolve()
    if options.out.resolve() == (source if source.is_dir() else source.parent):
        raise HostError(f"--out is the folder of the sources, {options.out}: name another, so that no result takes the place of a picture.")
    jobs, content = find_jobs(options.source), read_workflow(options.workflow)
    spare_sources(options.out, jobs)
    with connected(options) as client:
        edits = Edits(client, Workflow(content, client.object_info()), jobs, options.set, Results(options.out))
        failed = edits.carry_out()
    write_sheet(options.out / SHEET, source.name, jobs, edits.results, failed)
    print(f"{len(jobs) - len(failed)} of {len(jobs)} done. Look at {options.out / SHEET}; the figures are in {TABLE} beside it.")
    for name, message in failed.items():
        print(printable(f"  failed: {name}: {message.splitlines()[0]}"), file=sys.stderr)
    write_table(options.out / TABLE, jobs, edits.results, failed)  # last, since it may be open in a spreadsheet, which locks it
    return 1 if failed else 0


@contextmanager
def connected(options: argparse.Namespace) -> Iterator[Client]:
    """A client of the server that the options name, or of one that lives as long. It asks, and listens to nothing."""
    if options.server:
        yield Client(options.server)
        return
    print("Starting ComfyUI ...", flush=True)
    with Server(Host(Path(sys.executable), options.comfyui, options.overlay), inputs=[INPUTS]) as server:
        yield Client(server.url, diagnose=lambda: log_tail(server.log()))


class Edits:
    """The jobs, and what it takes to carry them out. Raises HostError where the workflow has no clear place for a column."""

    def __init__(self, client: Client, workflow: Workflow, jobs: list[Job], settings: list[str], results: Results) -> None:
        self.client = client
        self.workflow = workflow
        self.jobs = jobs
        self.results = results
        columns = {column for job in jobs for column in job.row} | ({"mask"} if any(job.mask for job in jobs) else set())
        self.places: Places = find_places(workflow, columns, settings)
        self._texts: dict[str, tuple[Taps, Json]] = {}  # of the jobs in the queue

    def carry_out(self) -> dict[str, str]:
        """Do what is not done yet, and tell of it; returns the messages of those that failed, by name. Raises DiskFull."""
        todo = [job for job in self.jobs if not self._is_done(job)]
        if len(todo) < len(self.jobs):
            print(f"{len(self.jobs) - len(todo)} of {len(self.jobs)} are done already.", flush=True)
        failed: dict[str, str] = {}
        start = time.monotonic()
        with closing(carry_out(self.client, todo, self._send)) as outcomes:
            for number, (job, outcome) in enumerate(outcomes, 1):
                told = self._finish(job, outcome, failed)
                left = (time.monotonic() - start) / number * (len(todo) - number)
                print(printable(f"  {number}/{len(todo)}  {job.name}  {told}  {_duration(left)} left"), flush=True)
        return failed

    def _finish(self, job: Job, outcome: Run | HostError, failed: dict[str, str]) -> str:
        """Write a job's result, or keep its error; returns what to tell of it."""
        sent = self._texts.pop(job.name, None)
        try:
            if isinstance(outcome, HostError):
                raise outcome
            taps, texts = sent
            pictures = taps.told(outcome)
            record = texts["edit"] | {"seconds": round(outcome.seconds, 2)}
            self.results.write(job.name, self.client, pictures, texts | {"edit": record})
            self.client.forget(outcome.prompt_id)
        except DiskFull:
            raise
        except HostError as error:
            failed[job.name] = _message(error)
            return f"failed: {failed[job.name].splitlines()[0]}"
        _, known = pictures[0]
        return f"{outcome.seconds:.1f} s" + (f", score {known['score']:.3f}" if "score" in known else "")

    def _is_done(self, job: Job) -> bool:
        try:
            return self.results.is_done(job.name, self._filled(job)[0])
        except HostError:
            return False  # it will fail, and be told of, in its turn

    def _send(self, job: Job) -> str:
        """Queue a job, or find it where an earlier run has left it; returns its prompt's id. Raises HostError."""
        prompt, workflow, uploads = self._filled(job)
        taps = Taps(prompt, self.workflow.info)
        texts = {"prompt": prompt} | ({"workflow": workflow} if workflow else {})
        self._texts[job.name] = taps, texts | {"edit": job.row | self.places.values(prompt) | {"image": job.image.name}}
        prompt_id = str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([job.name, taps.prompt], sort_keys=True)))
        if self._is_there(prompt_id):
            return prompt_id
        for upload in uploads:
            self.client.upload(upload.name, upload.data(), FOLDER)
        return self.client.queue(taps.prompt, workflow, prompt_id)

    def _is_there(self, prompt_id: str) -> bool:
        """Whether the server has carried out this prompt, or is about to. One that failed there is forgotten, and tried again."""
        try:
            return self.client.finished(prompt_id) is not None or self.client.is_queued(prompt_id)
        except HostError:
            self.client.forget(prompt_id)
            return False

    def _filled(self, job: Job) -> tuple[Json, Json | None, list[Upload]]:
        """The prompt, the workflow and the pictures of a job."""
        values: dict[tuple[str, str], Any] = {}
        uploads: list[Upload] = []
        for column, addresses in self.places.columns.items():
            for address in addresses:
                spec = self.workflow.spec(address)
                if len(spec) > 1 and spec[1].get("image_upload"):
                    upload = self._upload(job, column, address)
                    if upload is not None:
                        uploads.append(upload)
                        values[address] = f"{FOLDER}/{upload.name}"
                elif column in job.row:
                    values[address] = as_type(job.row[column], spec, column)
        return *self.workflow.filled(values), uploads

    def _upload(self, job: Job, column: str, address: tuple[str, str]) -> Upload | None:
        """The picture that a column names, for a loader."""
        if column == "image":
            return Upload(job.image, job.mask, True) if self.places.mask_in_alpha else Upload(job.image)
        if column == "mask":
            if job.mask is None:
                raise HostError(f"{job.image.name} has no mask: put a black and white {job.image.stem}_mask.png beside it.")
            return MaskUpload(job.mask)
        return Upload(job.beside(column)) if column in job.row else None


def _message(error: HostError) -> str:
    """An error in a sentence or two, without its traceback."""
    if isinstance(error, ExecutionFailed):
        return f"{error.node_type}: {error.message}"
    return " ".join(str(error).split()) if isinstance(error, PromptRefused) else str(error)


def _duration(seconds: float) -> str:
    """Seconds in words: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


if __name__ == "__main__":
    sys.exit(main())
