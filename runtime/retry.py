"""When a call is made again: after a refusal that will pass, with growing waits, and never beyond the caller's time limit.

It knows no network. Waits grow exponentially and are half fixed, half random, so that callers refused together do not come back
together (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015: "equal jitter").
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from runtime.errors import DeadlineExceededError, UnavailableError

T = TypeVar("T")


@dataclass(frozen=True)
class Retry:
    """How often a call is tried and how long the waits between are: `first_wait_s`, doubled each time up to `longest_wait_s`.

    The defaults wait 16 to 32 s in all, which outlasts a restart of the server. A server that says how long to wait is waited for at
    least that long. `Retry(tries=1)` never tries again.
    """

    tries: int = 9
    first_wait_s: float = 0.25
    longest_wait_s: float = 8.0

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries is {self.tries}; allowed is at least 1")
        if not 0 < self.first_wait_s <= self.longest_wait_s:
            raise ValueError(
                f"first_wait_s is {self.first_wait_s} and longest_wait_s {self.longest_wait_s}; allowed is 0 < first <= longest"
            )

    def wait_s(self, failures: int, error: UnavailableError, draw: float) -> float:
        """Seconds to wait after so many failures, the last of which was `error`; `draw` in 0..1 is the random half."""
        backoff = min(self.longest_wait_s, self.first_wait_s * 2 ** (failures - 1)) * (1 + draw) / 2
        return max(backoff, (error.retry_after_s or 0.0) * (1 + draw / 2))

    def run(
        self,
        call: Callable[[int, float], T],
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> T:
        """What `call(number of this try from 1, seconds left)` returns, from the first try that is not unavailable.

        Raises what the call raises if that is not UnavailableError; the last UnavailableError when the tries are spent or the next
        wait would not fit into `timeout_s`.
        """
        deadline = clock() + timeout_s
        tried, left = 1, timeout_s
        while True:
            try:
                return call(tried, left)
            except UnavailableError as error:
                wait = self.wait_s(tried, error, random.random())
                if tried == self.tries or clock() + wait >= deadline:
                    raise
            sleep(wait)
            tried, left = tried + 1, deadline - clock()
            if left <= 0:
                raise DeadlineExceededError(f"no answer within {timeout_s:g} s, after {tried - 1} tries")
