"""Ends the process of the sampler when one call of the UNet never returns, because nothing else can end such a call.

Its callers see the death and answer everybody who waits; whoever runs the server sees it too, and starts the server again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

EXIT_STATUS = 70  # sysexits.h: internal software error


class Watchdog:
    """A thread that watches from construction on.

    stalled_s  for how many seconds the present call has run; 0 when there is none
    limit_s    how many are too many, > 0
    """

    def __init__(self, stalled_s: Callable[[], float], limit_s: float) -> None:
        if not limit_s > 0:
            raise ValueError(f"stall_limit_s is {limit_s}; it must be above 0 seconds")
        self._stalled_s = stalled_s
        self._limit_s = limit_s
        self._closed = threading.Event()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._limit_s / 4)):
            stalled_s = self._stalled_s()
            if stalled_s > self._limit_s:
                # Straight to the log's file: Triton's logger is a thread of this process, which is about to end.
                os.write(2, f"sampler: a call of the UNet has run for {stalled_s:.1f} s; ending the process\n".encode())
                os._exit(EXIT_STATUS)
