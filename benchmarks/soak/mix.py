"""The long mix: 70 % good requests, 10 % bad ones, 10 % given up, 5 % without time, 5 % from callers who die; then the books."""

from __future__ import annotations

import threading
import time

import numpy as np

from benchmarks.soak.ledger import OK
from benchmarks.soak.scenario import Finding, Plan, audited
from benchmarks.soak.traffic import Traffic, known
from benchmarks.soak.watch import Watch, growth, leaks

SHARES = {"good": 0.70, "bad": 0.10, "cancel": 0.10, "deadline": 0.05, "killed": 0.05}


def run(plan: Plan) -> Finding:
    """`plan.callers` threads, each with a random stream of its own, for `plan.minutes`."""
    finding = Finding("mix")
    good = known(plan.bundle, plan.steps)
    with audited(plan, finding) as (service, ledger):
        traffic = Traffic(service.url, ledger, good)
        with Watch(service, interval_s=max(0.2, min(5.0, plan.minutes * 60 / 100))) as watch:
            finding.facts["seconds"] = round(drive(traffic, plan), 1)
    done = [record.seconds for record in ledger.records.values() if record.outcome == OK]
    finding.facts |= {
        "kinds": {kind: sum(record.kind == kind for record in ledger.records.values()) for kind in SHARES},
        "good_median_s": round(float(np.median(done)), 3) if done else None,
        "good_max_s": round(max(done, default=0.0), 3),
    }
    if len(watch.samples) < 10:
        finding.problems.append(f"{len(watch.samples)} looks at the processes; growth needs at least 10: run it longer")
        return finding
    figures = sorted({name for sample in watch.samples for name in sample.values if "bytes" in name})
    finding.facts["second_half_mb"] = {
        figure: [round(value / 2**20, 1) for value in growth(watch.samples, figure)] for figure in figures
    }
    finding.problems += leaks(watch.samples)
    return finding


def drive(traffic: Traffic, plan: Plan) -> float:
    """Let the callers loose until the time is over and their last requests have ended; seconds that took."""
    start = time.monotonic()
    calls, kinds = traffic.kinds(), list(SHARES)

    def work(caller: int) -> None:
        rng = np.random.default_rng([plan.seed, caller])
        while time.monotonic() - start < plan.minutes * 60:
            calls[kinds[rng.choice(len(kinds), p=list(SHARES.values()))]](rng)

    threads = [threading.Thread(target=work, args=(caller,), daemon=True) for caller in range(plan.callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - start
