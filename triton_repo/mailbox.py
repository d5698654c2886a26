"""What a job has to say to its reader, who fetches it part by part: nobody waits here, and what nobody has fetched yet is kept."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from runtime.errors import RequestError
from runtime.wire import NEXT
from triton_repo.responder import Arrays, Reply


class Mailbox:
    """The parts of one job, in order. Filled like a `Reply`, from any thread, and emptied by one reader's `fetch` after the other.

    is_news  whether a part is worth keeping once another one has come after it: of those that are not, the last waits alone
    emptied  called once, when the last part is on its way
    """

    def __init__(self, is_news: Callable[[Arrays], bool], emptied: Callable[[], object]) -> None:
        self._is_news = is_news
        self._emptied = emptied
        self._lock = threading.Lock()
        self._parts: deque[tuple[Arrays | Exception, bool]] = deque()
        self._reader: Reply | None = None

    def send(self, arrays: Arrays) -> None:
        """One part; more follow."""
        self._put(arrays, False)

    def finish(self, arrays: Arrays) -> None:
        """The last part."""
        self._put(arrays, True)

    def fail(self, error: Exception) -> None:
        """The end, with an exception instead of arrays."""
        self._put(error, True)

    def fetch(self, reply: Reply) -> None:
        """Answer with the next part, now or when it comes. Raises RequestError while an earlier reader waits."""
        with self._lock:
            if self._reader is not None:
                raise RequestError(NEXT, "somebody waits for this job already")
            self._reader = reply
            is_over = self._deliver()
        if is_over:
            self._emptied()

    def _put(self, part: Arrays | Exception, is_final: bool) -> None:
        with self._lock:
            if self._parts and not self._parts[-1][1] and not self._is_news(self._parts[-1][0]):  # type: ignore[arg-type]
                self._parts.pop()
            self._parts.append((part, is_final))
            is_over = self._deliver()
        if is_over:
            self._emptied()

    def _deliver(self) -> bool:
        """Hand the oldest part to the reader, if there are both; whether it was the last one."""
        if self._reader is None or not self._parts:
            return False
        reply, self._reader = self._reader, None
        part, is_final = self._parts.popleft()
        if isinstance(part, Exception):
            reply.fail(part)
        else:
            reply.finish(part)
        return is_final
