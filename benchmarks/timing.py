"""How everything here is timed: contenders take turns in rounds after a warm-up, and what is reported is a summary of the rounds.

Taking turns gives slow drift of the machine (heat, neighbours) to all contenders alike, and each round starts with another one, so
that nobody always runs after the same predecessor. All times are wall-clock milliseconds. Knows no model.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, ParamSpec, TypeVar

from runtime.engines.cores import usable_cores

Clock = Callable[[], float]
"""Seconds since some moment, as `time.perf_counter`."""
Parts = Mapping[str, float]
"""Named shares of one run, in ms."""

TOTAL = "total"
SETTLE_S = 0.25  # long enough for the spinning threads of OpenMP and of ONNX Runtime to fall asleep
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Summary:
    """Of `count` durations in ms. p95 is the nearest rank: the smallest one that at least 95 % do not exceed."""

    median: float
    p95: float
    min: float
    count: int

    @classmethod
    def of(cls, durations_ms: Sequence[float]) -> Summary:
        """Raises ValueError for no durations."""
        if not durations_ms:
            raise ValueError("summary: no durations; time at least one round")
        ordered = sorted(durations_ms)
        return cls(
            median=round(statistics.median(ordered), 4),
            p95=round(ordered[math.ceil(0.95 * len(ordered)) - 1], 4),
            min=round(ordered[0], 4),
            count=len(ordered),
        )

    def to_dict(self) -> dict[str, float]:
        """JSON form."""
        return asdict(self)


class Meter(Generic[P, R]):
    """A callable that times the callable inside: `ms` and `calls` add up until `reset`. One thread at a time."""

    def __init__(self, timed: Callable[P, R], clock: Clock = time.perf_counter) -> None:
        self._timed = timed
        self._clock = clock
        self.reset()

    def __call__(self, *arguments: P.args, **options: P.kwargs) -> R:
        start = self._clock()
        try:
            return self._timed(*arguments, **options)
        finally:
            self.ms += (self._clock() - start) * 1e3
            self.calls += 1

    def reset(self) -> None:
        self.ms = 0.0
        self.calls = 0


def take_turns(
    contenders: Mapping[str, Callable[[], Parts]],
    rounds: int,
    warm_up: int = 1,
    settle_s: float = 0.0,
    clock: Clock = time.perf_counter,
) -> dict[str, dict[str, Summary]]:
    """Run every contender once per round and summarise what counts: contender -> `TOTAL` and the parts it returns -> Summary.

    The `warm_up` rounds before are run and forgotten. `settle_s` is a pause before each turn: contenders that
    share a machine leave threads behind that spin for more work, see `SETTLE_S`. Raises ValueError for less than one round.
    """
    if rounds < 1 or warm_up < 0:
        raise ValueError(f"timing: rounds={rounds}, warm_up={warm_up}; allowed are at least 1 and at least 0")
    names = list(contenders)
    durations: dict[str, dict[str, list[float]]] = {name: {} for name in names}
    for n in range(warm_up + rounds):
        first = n % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(settle_s)
            start = clock()
            parts = contenders[name]()
            total_ms = (clock() - start) * 1e3
            if n >= warm_up:
                for part, ms in {TOTAL: total_ms, **parts}.items():
                    durations[name].setdefault(part, []).append(ms)
    return {name: {part: Summary.of(values) for part, values in parts.items()} for name, parts in durations.items()}


def machine_facts(packages: Sequence[str]) -> dict[str, Any]:
    """What the numbers depend on: processor, usable cores, system, Python, and the versions of those `packages` that are installed.

    `load_1min` tells how busy the machine has been; ask before measuring, which is a load itself.
    """
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "load_1min": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": _versions(packages),
    }


def table(header: Sequence[str], rows: Sequence[Sequence[str | float]]) -> str:
    """Aligned columns for people: the first to the left, numbers with two digits to the right."""
    cells = [list(header)] + [[c if isinstance(c, str) else f"{c:.2f}" for c in row] for row in rows]
    widths = [max(len(row[k]) for row in cells) for k in range(len(header))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in cells]
    return "\n".join(lines)


def count(text: str) -> int:
    """A command-line value of at least 1; argparse shows the message otherwise."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected a whole number of at least 1")
    return int(text)


def publish(document: Mapping[str, Any], out: Path | None) -> None:
    """Print the document as one line of JSON, which is to be the last one, and write it to `out` if that is given."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document))


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown")
