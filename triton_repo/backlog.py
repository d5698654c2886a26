"""Small work that may wait: done a little later, in order, by a thread of its own."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable


class Backlog:
    """`put` never waits. Anyone may call anything, from any thread; one piece of work is done at a time.

    pause_s  seconds between the first piece that comes and the moment at which all that have come are done
    failed   is told what a piece of work raised; the others are done nevertheless
    """

    def __init__(self, pause_s: float, failed: Callable[[Exception], None]) -> None:
        self._pause_s = pause_s
        self._failed = failed
        self._waiting: deque[Callable[[], object]] = deque()
        self._has_work = threading.Event()
        self._one_at_a_time = threading.Lock()
        threading.Thread(target=self._run, name="backlog", daemon=True).start()

    def put(self, work: Callable[[], object]) -> None:
        """Have it done soon."""
        self._waiting.append(work)
        if not self._has_work.is_set():
            self._has_work.set()

    def clear(self) -> None:
        """Do now what waits; return when it is done, and all that was put before."""
        with self._one_at_a_time:
            while self._waiting:
                try:
                    self._waiting.popleft()()
                except Exception as error:
                    self._failed(error)

    def _run(self) -> None:
        while self._has_work.wait():
            time.sleep(self._pause_s)
            self._has_work.clear()
            self.clear()
