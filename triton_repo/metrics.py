"""The server's own Prometheus metrics: how requests end, how long jobs wait and steps take, what the cache saves.

Triton's own counters know models, not requests: they miss refusals, and an image is several of their requests. Units are seconds
and rows; every series exists from the start, at zero. A family has the same name and type in every process that uses it, and
Triton adds them up.

**One call at a time.** Two threads of one process that touch metrics together abort the whole server (Triton 2.51:
`boost::interprocess::lock_exception`), so every call here takes the process's lock.

**Not on the way of a picture.** A call goes to tritonserver and back and holds Python's lock meanwhile, 0.1 ms on two cores (measured; 12 ms
of 50 steps). So steps are written a little later, some at a time and most likely while the UNet computes, which needs no Python; before a
picture's answer leaves, all of them are written.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import triton_python_backend_utils as pb_utils

from runtime.wire import LIVE_REQUESTS, OUTCOME_BY_CODE, STEP_SECONDS
from triton_repo.backlog import Backlog

LONG_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)
STEP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
ROW_BUCKETS = (1, 2, 4, 8, 16)

_ONE_AT_A_TIME = threading.Lock()
LATER_S = 0.03  # waking the writer disturbs the loop as well, so it serves some steps at a time


class RequestMetrics:
    """Requests of one public model: `clipfacefusion_requests_total{model, outcome, code}`, and those not yet answered.

    Whoever takes a request calls `take`, whoever answers it calls `answer`, in whatever process. `answer` comes before the answer
    is sent, so a caller who has its answer finds itself counted.
    """

    def __init__(self, model: str) -> None:
        ended = _Family("clipfacefusion_requests_total", "requests answered, by outcome and gRPC status", "COUNTER")
        self._ended = {
            code: ended.series(model=model, outcome=outcome, code=code) for code, outcome in OUTCOME_BY_CODE.items()
        }
        self._live = _Family(LIVE_REQUESTS, "requests taken and not yet answered", "GAUGE").series()

    def take(self) -> int:
        """One more request is live; how many are now, over all public models."""
        self._live.add(1)
        return int(self._live.value())

    def answer(self, code: str) -> None:
        """A live request is about to be answered with this gRPC status; "OK" is a picture."""
        self._ended[code if code in self._ended else "INTERNAL"].add(1)
        self._live.add(-1)


class SamplingMetrics:
    """Jobs and steps of the sampler: seconds waiting for a place in the batch, seconds and rows per UNet call, seconds per image."""

    def __init__(self) -> None:
        self._queue = _histogram("clipfacefusion_queue_seconds", "from submission to the first step", LONG_BUCKETS_S)
        self._step = _histogram(STEP_SECONDS, "one UNet call, shared by all live jobs", STEP_BUCKETS_S)
        self._rows = _histogram("clipfacefusion_batch_rows", "rows of a UNet call, padding left out", ROW_BUCKETS)
        self._backlog = Backlog(LATER_S, _not_written)
        self._image = _histogram("clipfacefusion_image_seconds", "from submission to the decoded image", LONG_BUCKETS_S)

    def waited(self, seconds: float) -> None:
        """A job has been admitted to the batch."""
        self._backlog.put(partial(self._queue.observe, seconds))

    def stepped(self, seconds: float, rows: int) -> None:
        """The UNet has been called for `rows` rows of jobs."""
        self._backlog.put(partial(self._step.observe, seconds))
        self._backlog.put(partial(self._rows.observe, rows))

    def finished(self, seconds: float) -> None:
        """An image is decoded. Returns when it is counted, and with it all that was told before."""
        self._image.observe(seconds)
        self._backlog.clear()


class CacheMetrics:
    """Look-ups in the cache of encoder results: `clipfacefusion_cache_lookups_total{encoder, result}`."""

    def __init__(self, encoders: Sequence[str]) -> None:
        lookups = _Family("clipfacefusion_cache_lookups_total", "look-ups of encoder results, by result", "COUNTER")
        self._hits = {encoder: lookups.series(encoder=encoder, result="hit") for encoder in encoders}
        self._misses = {encoder: lookups.series(encoder=encoder, result="miss") for encoder in encoders}

    def hit(self, encoder: str) -> None:
        """The encoder need not run."""
        self._hits[encoder].add(1)

    def miss(self, encoder: str) -> None:
        """The encoder runs, and its result is kept."""
        self._misses[encoder].add(1)


def publish_bundle(name: str, sha256: str) -> Any:
    """Say which bundle is served, as `clipfacefusion_bundle_info{name, sha256} 1`. Keep what is returned: it ends with it."""
    series = _Family("clipfacefusion_bundle_info", "the bundle that is served; always 1", "GAUGE").series(
        name=name, sha256=sha256
    )
    series.set(1)
    return series


class Gauge:
    """A value of one process that goes up and down, under a name of its own."""

    def __init__(self, name: str, description: str) -> None:
        self._series = _Family(name, description, "GAUGE").series()

    def set(self, value: float) -> None:
        """From now on it is this."""
        self._series.set(value)


class _Family:
    """A metric family; keeps its series' owner alive, since a family that is collected takes its series along."""

    def __init__(self, name: str, description: str, kind: str) -> None:
        with _ONE_AT_A_TIME:
            kinds = pb_utils.MetricFamily
            self._family = kinds(name=name, description=description, kind=getattr(kinds, kind))

    def series(self, buckets: Sequence[float] = (), **labels: str) -> _Series:
        with _ONE_AT_A_TIME:
            options: Mapping[str, Any] = {"buckets": list(buckets)} if buckets else {}
            return _Series(self, self._family.Metric(labels=labels, **options))


class _Series:
    """One time series. All threads of a process take turns."""

    def __init__(self, family: _Family, metric: Any) -> None:
        self._family = family
        self._metric = metric

    def add(self, amount: float) -> None:
        with _ONE_AT_A_TIME:
            self._metric.increment(amount)

    def set(self, value: float) -> None:
        with _ONE_AT_A_TIME:
            self._metric.set(value)

    def value(self) -> float:
        with _ONE_AT_A_TIME:
            return self._metric.value()

    def observe(self, value: float) -> None:
        with _ONE_AT_A_TIME:
            self._metric.observe(value)


def _histogram(name: str, description: str, buckets: Sequence[float]) -> _Series:
    return _Family(name, description, "HISTOGRAM").series(buckets)


def _not_written(error: Exception) -> None:
    pb_utils.Logger.log_error(f"a metric was not written: {error!r}")
