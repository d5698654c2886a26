"""More than the server can do: ten times its capacity for a minute, and a thousand requests at once. Some are refused, none is lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from benchmarks.soak.ledger import OK, REFUSED, Ledger
from benchmarks.soak.scenario import Finding, Plan, audited
from benchmarks.soak.traffic import ANSWER_LIMIT_S, ONCE, known
from runtime.client import Client

OVERLOAD, OVERLOAD_S = 10, 60
AT_ONCE, ROUNDS = 8, 3  # how capacity is measured
BURST = 1000
THREADS = BURST  # callers who wait at the same time; the server takes fewer
SHORTER = 2  # steps of the flood's request, so that a minute of it is many requests


def run(plan: Plan) -> Finding:
    """Capacity first, measured; then the overload with Poisson arrivals, then the burst, then one request as if nothing had been."""
    finding = Finding("flood")
    (asked, *_) = known(plan.bundle, SHORTER)
    with audited(plan, finding) as (service, ledger), Client(service.url, ANSWER_LIMIT_S, ONCE) as client:

        def send(kind: str) -> None:
            ledger.book(kind, lambda name: client(asked.request, request_id=name).image, asked.picture, OK, REFUSED)

        capacity = _capacity(partial(send, "capacity"))
        rng = np.random.default_rng(plan.seed)
        seconds = OVERLOAD_S * plan.scale
        gaps = rng.exponential(1 / (OVERLOAD * capacity), round(OVERLOAD * capacity * seconds))
        with ThreadPoolExecutor(THREADS) as pool:
            for gap in gaps:
                time.sleep(gap)
                pool.submit(send, "overload")
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in range(plan.sized(BURST)):
                pool.submit(send, "burst")
        ledger.book("after", lambda name: client(asked.request, request_id=name).image, asked.picture, OK)
    finding.facts["capacity_per_s"] = round(capacity, 2)
    finding.facts |= {kind: _summary(ledger, kind) for kind in ("overload", "burst")}
    return finding


def _capacity(send: Callable[[], None]) -> float:
    """Images per second with `AT_ONCE` callers."""
    start = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in range(ROUNDS * AT_ONCE):
            pool.submit(send)
    return ROUNDS * AT_ONCE / (time.monotonic() - start)


def _summary(ledger: Ledger, kind: str) -> dict[str, float]:
    """What became of the requests of one kind."""
    records = [record for record in ledger.records.values() if record.kind == kind]
    by_outcome = {
        outcome: sorted(record.seconds for record in records if record.outcome == outcome) for outcome in (OK, REFUSED)
    }
    return {
        "sent": len(records),
        **{outcome: len(seconds) for outcome, seconds in by_outcome.items()},
        **{
            f"{outcome}_{name}_s": round(seconds[int(share * (len(seconds) - 1))], 3)
            for outcome, seconds in by_outcome.items()
            if seconds
            for name, share in (("median", 0.5), ("p99", 0.99))
        },
    }
