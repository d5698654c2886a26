"""A progress bar on a terminal. Elsewhere, in a log or a pipe, it writes nothing."""

from __future__ import annotations

import threading
from typing import TextIO

WIDTH = 30  # characters of the bar


class ProgressBar:
    """Counts calls, up to a known number of what `noun` names. What it is called with does not matter, so it is a sampler's `on_step` too."""

    def __init__(self, total: int, noun: str, stream: TextIO) -> None:
        self._total, self._done, self._noun = total, 0, noun
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, *_: object) -> None:
        with self._lock:
            self._done += 1
            if self._stream.isatty():
                bar = ("#" * (WIDTH * self._done // self._total)).ljust(WIDTH, ".")
                end = "\n" if self._done == self._total else ""
                self._stream.write(f"\r[{bar}] {self._noun} {self._done}/{self._total}{end}")
                self._stream.flush()
