"""Files that are whole or not there at all, whatever ends the run. Standard library only."""
from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from host import HostError

PART = ".bld-part"  # no file of the user's ends so
# What a full or locked disk, or a limit on the user, answers to every file.
FULL = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


class DiskFull(HostError):
    """A file could not be written, and no other can be."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write a file that gets its name only when it is whole. Raises HostError, or DiskFull, and leaves no part of it then."""
    part = path.with_name(path.name + PART)
    try:
        path.parent.mkdir(exist_ok=True)
        yield part
        os.replace(part, path)
    except OSError as error:
        kind = DiskFull if error.errno in FULL else HostError
        raise kind(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            part.unlink()
