"""Twenty thousand damaged requests: each is answered or refused as wrong, nothing hangs, and the server is as before."""

from __future__ import annotations

from benchmarks.soak.faults import Service
from benchmarks.soak.fuzz import check_served
from benchmarks.soak.ledger import OK, Ledger, never_answered
from benchmarks.soak.scenario import Finding, Plan, restarts
from benchmarks.soak.traffic import ANSWER_LIMIT_S, ONCE, known
from benchmarks.soak.watch import look
from runtime.client import Client
from runtime.wire import MODEL, STREAM_MODEL

CASES = 20_000
GROWTH_BYTES = 20 * 2**20


def run(plan: Plan) -> Finding:
    """Half of the cases to each public model; memory may not grow in the second half. Damaged messages are refused by Triton itself, so its books cannot be compared."""
    finding = Finding("fuzzing")
    (asked, *_) = known(plan.bundle, plan.steps)
    with Service(plan.bundle).wait_until_ready() as service:
        found, looks = [], []
        for model in (MODEL, STREAM_MODEL):  # the same cases twice, so that the second half finds all caches filled
            found.append(check_served(service.url, plan.seed, plan.sized(CASES // 2), model))
            looks.append(look(service.pid))
        before, after = looks
        ledger = Ledger()
        with Client(service.url, ANSWER_LIMIT_S, ONCE) as client:
            ledger.book("after", lambda name: client(asked.request, request_id=name).image, asked.picture, OK)
        if live := never_answered(service.metrics_url):
            finding.problems.append(f"{live} requests were taken by the server and never answered")
        failures = restarts(service)
    grown = {
        figure: value - before.get(figure, 0)
        for figure, value in after.items()
        if figure.endswith("private_bytes") and "decoder" not in figure
    }
    finding.facts |= {
        "answered": sum(each.answered for each in found),
        "refused": sum(each.refused for each in found),
        "slowest_s": round(max(each.slowest_s for each in found), 3),
        "restarts": len(failures),
        "grown_mb": {figure: round(value / 2**20, 1) for figure, value in grown.items()},
    }
    finding.problems += [problem for each in found for problem in each.problems] + ledger.problems()
    finding.problems += [f"{figure} grew by {value} bytes" for figure, value in grown.items() if value > GROWTH_BYTES]
    finding.problems += failures
    return finding
