"""Whether one more request is taken: asked before anything is decoded, so that a refusal is quick whatever the others do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from runtime.errors import QueueFullError, UnavailableError
from runtime.wire import MAX_LIVE_REQUESTS, MAX_WAITING, RETRY_AFTER_S, STOPPING


class Admission:
    """The gate of a model that takes requests from callers; made in `initialize` from its arguments."""

    def __init__(self, arguments: Mapping[str, str]) -> None:
        self._stopping = Path(arguments["model_repository"]).parent / STOPPING

    def check(self, live: int) -> None:
        """Raise UnavailableError when the server is stopping, QueueFullError when more than enough are live.

        live  requests of the whole server that are not answered yet, this one included; 0: another model has taken this one
        """
        if live == 0:
            return
        if self._stopping.exists():
            raise UnavailableError("the server is stopping; try again later or elsewhere")
        if live > MAX_LIVE_REQUESTS:
            raise QueueFullError(f"queue full: {MAX_WAITING} waiting, retry after {RETRY_AFTER_S} s")
