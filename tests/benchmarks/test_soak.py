"""The soak's books and its watch on made-up callers, logs and processes: what must be found is found, and nothing else."""

from __future__ import annotations

import argparse
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak import SCENARIOS, add_arguments, run
from benchmarks.soak.ledger import CANCELLED, FAILED, KILLED, OK, REFUSED, Ledger, gained, server_counts
from benchmarks.soak.mix import SHARES, drive
from benchmarks.soak.record import record
from benchmarks.soak.scenario import Finding, Plan
from benchmarks.soak.watch import GROWTH_LIMIT, Sample, leaks, look, processes
from runtime.errors import DeadlineExceededError, EngineError, QueueFullError, RequestCancelledError, RequestError

FACE = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
MB = 2**20


def raising(error: Exception):
    def call(request_id: str):
        raise error

    return call


@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        (lambda _: FACE, OK),
        (lambda _: None, CANCELLED),
        (raising(RequestError("age", "got 130")), REFUSED),
        (raising(QueueFullError("queue full")), REFUSED),
        (raising(RequestCancelledError("gave up")), CANCELLED),
        (raising(DeadlineExceededError("late")), CANCELLED),
        (raising(EngineError("generation failed")), FAILED),
        (raising(ZeroDivisionError("the generator's own")), FAILED),
    ],
)
def test_every_end_of_a_call_is_one_outcome(call, outcome):
    ledger = Ledger()
    assert ledger.book("kind", call, FACE, outcome).outcome == outcome
    assert ledger.problems() == [] and ledger.counts() == {outcome: 1}


def test_an_outcome_that_was_not_allowed_a_wrong_picture_and_a_request_without_an_end_are_problems():
    ledger = Ledger()
    ledger.book("good", raising(EngineError("generation failed")), FACE, OK)
    ledger.book("good", lambda _: FACE + 1, FACE, OK)
    ledger.opened("good", OK)
    failed, wrong, never = ledger.problems()
    assert "failed, allowed ok: generation failed" in failed
    assert "another picture than alone" in wrong
    assert "never ended" in never


def test_a_request_that_ends_twice_is_a_problem():
    ledger = Ledger()
    request_id = ledger.opened("good", OK)
    ledger.ended(request_id, OK)
    ledger.ended(request_id, OK)
    assert ledger.problems() == [f"{request_id}: ended as ok and again as ok"]


def test_many_threads_keep_one_set_of_books():
    ledger = Ledger()
    threads = [
        threading.Thread(target=lambda: [ledger.book("good", lambda _: FACE, FACE, OK) for _ in range(100)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.counts() == {OK: 800} and ledger.problems() == []


def said(request_id: str, outcome: str) -> str:
    return json.dumps({"request_id": request_id, "outcome": outcome})


@pytest.mark.parametrize(
    ("seen", "lines", "found"),
    [
        (OK, [OK], None),
        (OK, [], "ok to its caller, unknown to the server"),
        (OK, [CANCELLED], "ok to its caller, cancelled to the server"),
        (OK, [OK, OK], "answered 2 times"),
        (REFUSED, [FAILED], "refused to its caller, failed to the server"),
        (CANCELLED, [CANCELLED], None),
        (CANCELLED, [OK], None),  # given up when the answer was on its way
        (CANCELLED, [], "cancelled to its caller, unknown to the server"),
        (KILLED, [], None),  # dead before it had sent anything
        (KILLED, [CANCELLED], None),
    ],
)
def test_the_server_s_log_is_held_against_the_books_id_by_id(seen, lines, found):
    ledger = Ledger()
    request_id = ledger.opened("kind", seen)
    ledger.ended(request_id, seen)
    log = ["I1121 a line of Triton's", '{"not": "an answer"}', *(said(request_id, line) for line in lines)]
    assert ledger.against_log(log) == ([f"{request_id}: {found}"] if found else [])


def test_the_server_s_counters_are_added_up_by_outcome_without_the_supervisor_s_own():
    page = (
        "# TYPE clipfacefusion_requests_total counter\n"
        'clipfacefusion_requests_total{code="OK",model="clipfacefusion",outcome="ok"} 3\n'
        'clipfacefusion_requests_total{code="OK",model="clipfacefusion_stream",outcome="ok"} 2\n'
        'clipfacefusion_requests_total{code="UNAVAILABLE",model="clipfacefusion",outcome="refused"} 1\n'
        'clipfacefusion_requests_total{code="INVALID_ARGUMENT",model="clipfacefusion",outcome="refused"} 4\n'
        'clipfacefusion_requests_total{code="OK",model="canary",outcome="ok"} 99\n'
        'nv_inference_request_success{model="clipfacefusion"} 7\n'
    )

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        counts = server_counts(f"http://127.0.0.1:{server.server_port}/metrics")
        thread.join()
    assert counts == {"ok": 5, "refused": 5}
    assert gained({"ok": 2, "refused": 5}, counts) == {"ok": 3}


def samples(values: list[float], figure: str = "sampler private_bytes") -> list[Sample]:
    return [Sample(float(k), {figure: int(value)}) for k, value in enumerate(values)]


@pytest.mark.parametrize(
    ("values", "is_leak"),
    [
        ([100 * MB] * 100, False),
        ([20 * MB] * 30 + [100 * MB] * 70, False),  # warming up
        ([100 * MB + k * MB for k in range(100)], True),  # a queue without a bound
        ([100 * MB] * 99 + [900 * MB], False),  # one large request, given back
        ([100 * MB] * 80 + [130 * MB] * 20, True),  # one large request, kept
        ([1000 * MB + k * 0.1 * MB for k in range(100)], False),  # within 2 %
        ([1 * MB + k * 0.02 * MB for k in range(100)], False),  # too little to be told from noise
    ],
    ids=["flat", "warm-up", "leak", "spike", "step", "slow", "small"],
)
def test_growth_is_what_the_second_half_adds(values, is_leak):
    assert bool(leaks(samples(values))) is is_leak
    assert 0 < GROWTH_LIMIT <= 0.02


def test_one_more_thread_is_nothing_and_ten_are_a_leak():
    for more, is_leak in ((1, False), (10, True)):
        assert bool(leaks(samples([50] * 60 + [50 + more] * 40, "sampler threads"))) is is_leak


def test_too_few_looks_are_refused_and_not_called_flat():
    with pytest.raises(ValueError, match="at least 10"):
        leaks(samples([1.0] * 9))


def test_a_look_sees_a_process_and_its_children_and_their_memory():
    code = "import subprocess, sys; x = bytearray(60 << 20); subprocess.run(['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", code]) as parent:
        try:
            while len(found := processes(parent.pid)) < 2:
                assert parent.poll() is None
            assert {name for _, name in found} == {"other"}
            while (values := look(parent.pid))["other private_bytes"] < 60 * MB:
                assert parent.poll() is None
            assert values["other threads"] == 2 and values["other files"] >= 4 and values["shm files"] == 0
        finally:
            for pid, _ in processes(parent.pid):
                os.kill(pid, 9)


def test_the_mix_draws_its_kinds_by_their_shares_and_the_same_ones_for_the_same_seed():
    class Fake:
        def __init__(self):
            self.drawn = dict.fromkeys(SHARES, 0)
            self.order = []

        def kinds(self):
            return {kind: lambda rng, kind=kind: self.count(kind) for kind in SHARES}

        def count(self, kind):
            self.drawn[kind] += 1
            self.order.append(kind)

    first, second = Fake(), Fake()
    for fake in (first, second):
        assert drive(fake, Plan(Path(), minutes=0.005, seed=3, callers=1)) >= 0.3
    shorter = min(len(first.order), len(second.order))
    assert first.order[:shorter] == second.order[:shorter]
    total = len(first.order)
    assert sum(SHARES.values()) == pytest.approx(1)
    for kind, share in SHARES.items():
        assert first.drawn[kind] / total == pytest.approx(share, abs=5 * (share * (1 - share) / total) ** 0.5)


def test_an_entry_of_the_log_has_verdict_facts_and_problems(tmp_path):
    log = tmp_path / "log.md"
    log.write_text("# Log\n")
    findings = [Finding("mix", {"requests": {"ok": 3}}), Finding("load", {}, ["rate 0"])]
    record(log, "python -m benchmarks soak B --seed 1", {"cpu": "a cpu", "cores": 2, "load_1min": 0.5}, findings)
    text = log.read_text()
    assert text.startswith("# Log\n\n## 20") and "soak: mix, load" in text
    assert "`python -m benchmarks soak B --seed 1`, 2 cores of a cpu, load 0.5" in text
    assert '- **mix: passed.** requests {"ok": 3}.' in text
    assert "- **load: FAILED.**" in text and "  - rate 0" in text


def test_a_scenario_that_cannot_run_has_failed_and_the_others_still_run(monkeypatch, tmp_path):
    from runtime.errors import ClipFaceFusionError, UnavailableError

    def cannot(plan):
        raise UnavailableError("no server")

    monkeypatch.setitem(SCENARIOS, "load", cannot)
    monkeypatch.setitem(SCENARIOS, "mix", lambda plan: Finding("mix", {"minutes": plan.minutes}))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    asked = parser.parse_args(["B", "--only", "load", "mix", "--minutes", "2", "--log", str(tmp_path / "log.md")])
    with pytest.raises(ClipFaceFusionError, match="soak: load failed"):
        run(asked)
    text = (tmp_path / "log.md").read_text()
    assert "load: FAILED" in text and "mix: passed" in text and '"minutes"' not in text and "minutes 2.0" in text
