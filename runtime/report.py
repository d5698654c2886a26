"""How the parts of a report, each written by the stage that knows it, become the report of a result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

TIMINGS = "timings_ms"


def join_reports(conditioned: Mapping[str, Any], sampled: Mapping[str, Any]) -> dict[str, Any]:
    """What preprocessing and conditioning found, and what sampling used, in one report.

    `timings_ms` are joined and get `total`, the sum of the stages; waiting between the stages of a server is not in it.
    """
    timings = {**conditioned[TIMINGS], **sampled[TIMINGS]}
    return {**sampled, **conditioned, TIMINGS: {**timings, "total": round(sum(timings.values()), 3)}}


def elapsed_ms(start_s: float, end_s: float) -> float:
    """A duration between two `time.perf_counter` readings, in ms, to the microsecond."""
    return round((end_s - start_s) * 1e3, 3)
