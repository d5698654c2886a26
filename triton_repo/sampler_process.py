"""Whether the process of the model `sampler` still lives, as its callers see it.

Triton starts no process again that has died, and leaves the requests that it held without any answer. So who
waits for the sampler watches its process: the kernel tells a death at once, whatever caused it.
"""

from __future__ import annotations

import os
import select
from pathlib import Path

from runtime.errors import UnavailableError

_STUB = b"/sampler/1/model.py"  # on the command line of the process that runs the model


class SamplerProcess:
    """The process, looked up among the siblings of this one when it is first asked about: by then every model is loaded."""

    def __init__(self) -> None:
        self._handle: int | None = None

    def problem(self) -> UnavailableError | None:
        """What to answer everybody who waits for the sampler; None while it lives."""
        if self._handle is None:
            self._handle = _process_handle()
        if self._handle is not None and not select.select([self._handle], [], [], 0)[0]:
            return None
        return UnavailableError(
            "the sampler's process has ended, and the server must be started again; try again later"
        )


def _process_handle() -> int | None:
    """A file descriptor that is readable once the process has ended; None if there is no such process."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(") ")[2].split()[1]
            if int(parent) == os.getppid() and _STUB in (folder / "cmdline").read_bytes():
                return os.pidfd_open(int(folder.name))
        except OSError:  # ended meanwhile
            continue
    return None
