"""The gauge of live requests: one number that all models of a server share. A stopping server waits until it is zero.

Triton has no such number: what it calls pending leaves out what is executing, and its counters leave out refusals.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import triton_python_backend_utils as pb_utils

from runtime.wire import LIVE_REQUESTS


class LiveRequests:
    """Made in `initialize`. `preprocess` lets a request enter; whoever answers it lets it leave."""

    def __init__(self) -> None:
        self._family = pb_utils.MetricFamily(
            name=LIVE_REQUESTS, description="requests taken and not yet answered", kind=pb_utils.MetricFamily.GAUGE
        )
        self._gauge = self._family.Metric(labels={})

    def enter(self) -> None:
        """One more request."""
        self._gauge.increment(1)

    def leave(self) -> None:
        """One request has its answer."""
        self._gauge.increment(-1)

    def count(self) -> int:
        """How many are live now."""
        return int(self._gauge.value())

    @contextmanager
    def left_on_failure(self) -> Iterator[None]:
        """The request leaves if the block raises, because no later model will see it."""
        try:
            yield
        except BaseException:
            self.leave()
            raise
