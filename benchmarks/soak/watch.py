"""Looks at every process of a service while it works: memory, open files, threads, and shared memory of all. Linux only.

Growth is judged on the second half, when caches are full and every path has been walked: its last fifth against its first.
"""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.faults import Service

GROWTH_LIMIT = 0.02
SMALL_BYTES = 5 * 2**20  # growth below this is no leak that 30 minutes could show
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Sample:
    """One look: figure -> value, such as "sampler rss_bytes" or "shm files"; processes of one name are added up."""

    at_s: float
    values: dict[str, int]


@dataclass
class Watch:
    """Samples a service every `interval_s` from a thread of its own. A context manager."""

    service: Service
    interval_s: float = 2.0
    samples: list[Sample] = field(default_factory=list)

    def __enter__(self) -> Watch:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        start = time.monotonic()
        while not self._is_over.wait(self.interval_s):
            self.samples.append(Sample(time.monotonic() - start, look(self.service.pid)))


def look(service_pid: int) -> dict[str, int]:
    """The figures of a `serve` command, of its server's processes and of their shared memory, now."""
    values: dict[str, int] = {}
    for pid, name in processes(service_pid):
        with contextlib.suppress(OSError):  # ended meanwhile
            status = Path(f"/proc/{pid}/statm").read_text().split()
            threads = len(os.listdir(f"/proc/{pid}/task"))
            for figure, value in (
                # Shared pages are the tensors between processes, which are counted once, below.
                ("private_bytes", (int(status[1]) - int(status[2])) * PAGE_BYTES),
                ("files", len(os.listdir(f"/proc/{pid}/fd"))),
                ("threads", threads),
            ):
                values[f"{name} {figure}"] = values.get(f"{name} {figure}", 0) + value
    regions = [region.stat().st_blocks * 512 for region in Path("/dev/shm").glob(f"clipfacefusion_{service_pid}_*")]
    return {**values, "shm files": len(regions), "shm bytes": sum(regions)}


def processes(service_pid: int) -> list[tuple[int, str]]:
    """The service's process and all below it, each with the model that it runs, or what it is."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(stat.read_text().rpartition(") ")[2].split()[1]), []).append(int(stat.parent.name))
    found, waiting = [], [service_pid]
    while waiting:
        pid = waiting.pop()
        waiting += parents.get(pid, [])
        with contextlib.suppress(OSError):
            found.append((pid, _name(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " "))))
    return found


def growth(samples: Sequence[Sample], figure: str) -> tuple[float, float]:
    """Medians of a figure over the first and the last fifth of the second half; 0 where it was absent. ValueError for < 10 samples."""
    if len(samples) < 10:
        raise ValueError(f"watch: {len(samples)} samples; growth needs at least 10")
    second = [sample.values.get(figure, 0) for sample in samples[len(samples) // 2 :]]
    fifth = max(1, len(second) // 5)
    return statistics.median(second[:fifth]), statistics.median(second[-fifth:])


def leaks(samples: Sequence[Sample]) -> list[str]:
    """Figures that grew in the second half: bytes by more than `GROWTH_LIMIT` and `SMALL_BYTES`, anything else at all by that share."""
    found = []
    for figure in sorted({name for sample in samples for name in sample.values}):
        first, last = growth(samples, figure)
        limit = max(first * GROWTH_LIMIT, SMALL_BYTES if figure.endswith("bytes") else 1)
        if last - first > limit:
            found.append(f"{figure}: {first:.0f} → {last:.0f} in the second half")
    return found


def _name(command: str) -> str:
    model = re.search(r"([^/]+)/1/model\.py", command)
    if model:
        return model[1]
    kinds = {"bin/tritonserver": "tritonserver", " serve ": "supervisor", "decoding_worker": "decoder"}
    return next((name for text, name in kinds.items() if text in command), "other")
