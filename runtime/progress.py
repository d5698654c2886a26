"""A progress bar on a terminal. Elsewhere, in a log or a pipe, it writes nothing."""

from __future__ import annotations

import threading
from typing import TextIO

import numpy as np

WIDTH = 30  # characters of the bar


class StepBar:
    """Counts denoising steps of a known number over all pictures; call it as a sampler's `on_step`."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total, self._done = total, 0
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, step_index: int, num_steps: int, sample: np.ndarray) -> None:
        with self._lock:
            self._done += 1
            if self._stream.isatty():
                bar = ("#" * (WIDTH * self._done // self._total)).ljust(WIDTH, ".")
                end = "\n" if self._done == self._total else ""
                self._stream.write(f"\r[{bar}] step {self._done}/{self._total}{end}")
                self._stream.flush()
