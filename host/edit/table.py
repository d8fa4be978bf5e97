"""The table of figures: a line for each job."""
from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from host.edit.jobs import Job
from host.edit.results import Results
from host.edit.taps import FIGURES
from host.files import whole

COLUMNS = ("name", "status", "image", "prompt", "seed", "candidate_seed", "score", *FIGURES, "seconds", "error")


def write_table(path: Path, jobs: Sequence[Job], results: Results, failed: Mapping[str, str]) -> None:
    """Write the figures of all jobs as CSV; further columns of the user's own table follow. `failed`: messages by the job's name. Raises HostError."""
    own = list(dict.fromkeys(column for job in jobs for column in job.row if column not in COLUMNS))
    with whole(path) as part, part.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.DictWriter(file, [*COLUMNS, *own], extrasaction="ignore")
        writer.writeheader()
        for job in jobs:
            record = None if job.name in failed else results.record(job.name)
            status = "failed" if job.name in failed else "done" if record else "not done"
            writer.writerow(job.row | (record or {}) | {"name": job.name, "status": status, "image": str(job.image), "error": failed.get(job.name, "")})
