"""Judges a running server by what it does, since Triton calls a model ready whose process is dead.

Three signs: its processes live; canaries come back with a face; and while one waits, because the server is busy, other work gets
done. This module sends nothing and reads no clock of its own: both are given, so that it can be tested by arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from runtime.errors import ClipFaceFusionError, DeadlineExceededError, UnavailableError

READ_EVERY_S = 1.0  # metrics
RETRY_S = 1.0  # a canary that was not taken, because the queue is full, is sent again after this
ERRORS_IN_A_ROW = 2  # one may be chance
# A wait without any progress, in multiples of the time that the first canary took: then requests are better sent elsewhere, and
# then the server is given up. A UNet call of sixteen rows takes eight times as long as the canary's of two.
SLOW, SLOW_AT_LEAST_S = 8.0, 2.0
HUNG, HUNG_AT_LEAST_S = 24.0, 30.0  # a minute of speech may keep an encoder busy for long


@dataclass(frozen=True)
class Health:
    """What probes are told. `reason`: why it is not ready, for people; holds no path, host or shared-memory name.

    is_ready   requests are taken, and faces come out
    has_failed it will not recover by itself
    """

    is_ready: bool
    reason: str = ""
    has_failed: bool = False


class Flight(Protocol):
    """A canary on its way (`runtime/serving/canary.py`)."""

    error: ClipFaceFusionError | None

    @property
    def has_landed(self) -> bool: ...


class Patient(Protocol):
    """What is asked of a server (`runtime/serving/server.py`)."""

    def problem(self) -> str | None:
        """Which of its processes has died."""

    def progress(self) -> float | None:
        """A number that changes with each piece of work that is done; None when the server does not tell."""


class Examination:
    """To be called often: the health of one server from its first canary on, which took `first_flight_s`.

    `interval_s` is the time between two canaries, `send` sends one, `clock` counts seconds. Not thread-safe.
    """

    def __init__(
        self,
        patient: Patient,
        send: Callable[[], Flight],
        clock: Callable[[], float],
        interval_s: float,
        first_flight_s: float,
    ) -> None:
        self._patient, self._send, self._clock, self._interval_s = patient, send, clock, interval_s
        self._slow_s = max(SLOW_AT_LEAST_S, SLOW * first_flight_s)
        self._hung_s = max(HUNG_AT_LEAST_S, HUNG * first_flight_s)
        now = clock()
        self._send_at = now + interval_s
        self._read_at = now
        self._flight: Flight | None = None
        self._waiting_since: float | None = None  # for a face, or for progress after that
        self._progress: float | None = None
        self._errors = 0
        self._last_error = ""

    def __call__(self) -> Health:
        problem = self._patient.problem()
        if problem:
            return Health(False, problem, has_failed=True)
        now = self._clock()
        self._read_progress(now)
        self._follow_canary(now)
        waited_s = 0.0 if self._waiting_since is None else now - self._waiting_since
        has_failed = self._errors >= ERRORS_IN_A_ROW or waited_s > self._hung_s
        if self._errors:
            return Health(False, f"a canary failed: {self._last_error}", has_failed)
        if waited_s > self._slow_s:
            return Health(False, f"no face and no progress for {waited_s:.0f} s", has_failed)
        return Health(True)

    def _read_progress(self, now: float) -> None:
        if now < self._read_at:
            return
        self._read_at = now + READ_EVERY_S
        progress = self._patient.progress()
        if progress is not None and progress != self._progress:
            self._progress = progress
            if self._waiting_since is not None:
                self._waiting_since = now

    def _follow_canary(self, now: float) -> None:
        if self._flight is None:
            if now >= self._send_at:
                self._flight = self._send()
                if self._waiting_since is None:
                    self._waiting_since = now
            return
        if not self._flight.has_landed:
            return
        error, self._flight = self._flight.error, None
        if error is None:
            self._waiting_since, self._errors, self._send_at = None, 0, now + self._interval_s
        elif isinstance(error, (UnavailableError, DeadlineExceededError)):
            self._send_at = now + RETRY_S  # busy, perhaps; the wait goes on
        else:
            self._errors += 1
            self._last_error, self._send_at = str(error), now
