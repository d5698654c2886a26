"""Requests given up at their first, a middle and their last step, again and again: neighbours keep their bits, nothing grows."""

from __future__ import annotations

import threading
from functools import partial

import numpy as np

from benchmarks.soak.ledger import CANCELLED, OK
from benchmarks.soak.scenario import Finding, Plan, audited
from benchmarks.soak.traffic import ANSWER_LIMIT_S, ONCE, Traffic, known
from benchmarks.soak.watch import Watch, leaks
from runtime.client import Client
from runtime.request import GenerateRequest, GenerateResult

CYCLES = 100
STEPS = 12
POINTS = {"first": 1, "middle": STEPS // 2, "last": STEPS - 1}  # previews seen before giving up


def run(plan: Plan) -> Finding:
    """`CYCLES` cancels at each point, beside one caller who always asks for faces that are known."""
    finding = Finding("cancels")
    good = known(plan.bundle, plan.steps)
    with audited(plan, finding) as (service, ledger):
        traffic, is_over = Traffic(service.url, ledger, good), threading.Event()

        def neighbour() -> None:
            rng = np.random.default_rng(plan.seed)
            while not is_over.is_set():
                traffic.ask(rng)

        thread = threading.Thread(target=neighbour, daemon=True)
        thread.start()
        with Watch(service, interval_s=0.5) as watch:
            for number in range(plan.sized(CYCLES)):
                for previews in POINTS.values():
                    call = partial(_give_up, service.url, number, previews)
                    ledger.book("cancel", call, None, CANCELLED, OK)
        is_over.set()
        thread.join()
    if len(watch.samples) >= 10:
        finding.problems += leaks(watch.samples)
    return finding


def _give_up(url: str, seed: int, previews: int, request_id: str) -> np.ndarray | None:
    """None once the stream is closed; the face if it came first."""
    request = GenerateRequest(age=40, seed=seed, num_inference_steps=STEPS, preview_every=1)
    with Client(url, ANSWER_LIMIT_S, ONCE) as client:
        parts = client.stream(request, inactivity_s=ANSWER_LIMIT_S, request_id=request_id)
        for _ in range(previews):
            if isinstance(part := next(parts), GenerateResult):
                return part.image
        parts.close()  # type: ignore[attr-defined]
    return None
