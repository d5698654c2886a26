"""Every process of the server killed, idle and under load, until twenty times are full: coded errors, back again, nothing left behind.

Then the server itself once more, under callers who try again: each of them gets its face.
"""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle as round_and_round
from itertools import islice

import numpy as np

from benchmarks.soak.faults import CODED, FAULTS, PROBE, TRITONSERVER, Service, cycle
from benchmarks.soak.ledger import OK, Ledger
from benchmarks.soak.scenario import Finding, Plan
from benchmarks.soak.traffic import ANSWER_LIMIT_S
from runtime.client import Client
from runtime.pipeline import Pipeline

CYCLES = 20
CALLERS = 4


def run(plan: Plan) -> Finding:
    """One service that is restarted each time; its limit of restarts is lifted, since here they are asked for."""
    finding = Finding("breakdowns")
    with Pipeline.open(plan.bundle) as pipeline:
        expected = pipeline(PROBE).image
    cycles = []
    with Service(plan.bundle, "--max-restarts", "1000").wait_until_ready() as service:
        for number, fault in enumerate(islice(round_and_round(FAULTS), plan.sized(CYCLES))):
            cycles.append(cycle(service, fault, number, expected))
        survivors = survive(service, expected)
        service.wait_until_ready(len(cycles) + 1)
    left = service.left_behind()
    for each in cycles:
        finding.problems += [f"{each.fault}: {status}" for status in each.statuses if status not in CODED]
        finding.problems += [f"{each.fault}: left {thing}" for thing in each.left_behind]
        if not each.ledger.is_complete:
            finding.problems.append(f"{each.fault}: a request was never answered")
        if each.ledger.wrong_images:
            finding.problems.append(f"{each.fault}: {each.ledger.wrong_images} wrong pictures")
    finding.problems += survivors.problems()
    finding.problems += [f"left behind at the end: {thing}" for thing in left]
    finding.facts |= {
        "cycles": len(cycles),
        "survivors": survivors.counts(),
        "survivors_max_s": round(max(record.seconds for record in survivors.records.values()), 2),
        "silence_max_s": round(max(each.silence_s for each in cycles), 2),
        "unready_max_s": round(max(each.unready_s for each in cycles), 2),
        "serving_max_s": round(max(each.serving_s for each in cycles), 2),
        "faults": {each.fault: each.statuses for each in cycles},
    }
    return finding


def survive(service: Service, expected: np.ndarray, each: int = 10) -> Ledger:
    """The books of callers as our client is by default, of `each` requests each, in whose middle tritonserver is killed."""
    ledger, is_begun = Ledger(), threading.Event()
    with Client(service.url, ANSWER_LIMIT_S) as client, ThreadPoolExecutor(CALLERS) as pool:

        def ask() -> None:
            ledger.book("survivor", lambda request_id: client(PROBE, request_id=request_id).image, expected, OK)
            is_begun.set()

        for _ in range(each * CALLERS):
            pool.submit(ask)
        is_begun.wait()
        service.kill(TRITONSERVER, signal.SIGKILL)
    return ledger
