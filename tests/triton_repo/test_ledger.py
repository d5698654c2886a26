"""The server's counters and its ledger against a stand-in of Triton's metrics, which, as Triton's, bears no two threads at once."""

from __future__ import annotations

import importlib
import json
import re
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from runtime.errors import QueueFullError

OURS = ("triton_repo.metrics", "triton_repo.ledger")
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Metric:
    """As in Triton, who asks for the same name and labels gets the same series."""

    values: ClassVar[dict] = defaultdict(float)
    observed: ClassVar[dict] = defaultdict(list)
    inside = 0

    def __init__(self, name, labels, buckets=None):
        self.key = (name, *sorted(labels.items()))
        self.buckets = buckets
        Metric.values[self.key] += 0

    def _alone(self):
        assert Metric.inside == 0, "two threads at once abort the server"
        Metric.inside += 1
        time.sleep(1e-5)
        Metric.inside -= 1

    def increment(self, amount):
        self._alone()
        Metric.values[self.key] += amount

    def set(self, value):
        self._alone()
        Metric.values[self.key] = value

    def observe(self, value):
        self._alone()
        assert self.buckets == sorted(self.buckets)
        Metric.observed[self.key].append(value)

    def value(self):
        self._alone()
        return Metric.values[self.key]


class MetricFamily:
    COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

    def __init__(self, name, description, kind):
        self.name = name

    def Metric(self, labels, buckets=None):  # noqa: N802  # Triton's name
        return Metric(self.name, labels, buckets)


@pytest.fixture
def load(monkeypatch):
    """Import one of our modules with the stand-in in Triton's place."""
    Metric.values.clear()
    Metric.observed.clear()
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", SimpleNamespace(MetricFamily=MetricFamily))
    for name in OURS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield importlib.import_module
    for name in OURS:
        sys.modules.pop(name, None)


@pytest.fixture
def ledger(load):
    return load("triton_repo.ledger").Ledger("faces", inner_key="k3y")


def request(request_id="", **parameters):
    return SimpleNamespace(request_id=lambda: request_id, parameters=lambda: json.dumps(parameters))


def counted(model="faces"):
    """What has been counted for a model, as {code: number}."""
    return {
        dict(key[1:])["code"]: value
        for key, value in Metric.values.items()
        if key[0] == "clipfacefusion_requests_total" and dict(key[1:])["model"] == model and value
    }


def live():
    return Metric.values[("clipfacefusion_live_requests",)]


def test_every_series_of_requests_exists_from_the_start(ledger):
    outcomes = {dict(key[1:])["outcome"] for key in Metric.values if key[0] == "clipfacefusion_requests_total"}
    assert outcomes == {"ok", "refused", "cancelled", "failed"}


def test_a_request_is_live_until_it_is_answered_and_counted_once(ledger, capfd):
    entry = ledger.taken(request())
    assert (entry.live, live(), counted()) == (1, 1, {})
    entry.answered("OK")
    entry.answered("CANCELLED", "too late")
    assert (live(), counted()) == (0, {"OK": 1})


def test_a_process_behind_the_first_answers_without_taking_again(ledger):
    ledger.taken(request())
    entry = ledger.passed_on(request())
    assert (entry.live, live()) == (0, 1)
    entry.answered("INTERNAL", "generation failed, id=7")
    assert (live(), counted()) == (0, {"INTERNAL": 1})


def test_a_failure_in_the_block_answers_with_its_status_and_goes_on(ledger, capfd):
    for error in (QueueFullError("queue full"), ZeroDivisionError("secret")):
        with pytest.raises(type(error)), ledger.taken(request()).answered_on_failure():
            raise error
    assert (live(), counted()) == (0, {"UNAVAILABLE": 1, "INTERNAL": 1})
    assert "secret" not in capfd.readouterr().err


def test_a_log_that_takes_no_more_costs_its_line_and_nothing_else(ledger, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        ledger.taken(request()).answered("OK")
        with pytest.raises(QueueFullError), ledger.taken(request()).answered_on_failure():
            raise QueueFullError("queue full")
    assert (live(), counted()) == (0, {"OK": 1, "UNAVAILABLE": 1})


def test_a_block_that_ends_well_leaves_the_request_to_the_next_model(ledger):
    with ledger.taken(request()).answered_on_failure():
        pass
    assert (live(), counted()) == (1, {})


@pytest.mark.parametrize(("key", "expected"), [("k3y", {}), ("guessed", {"OK": 1}), (None, {"OK": 1})])
def test_only_a_call_with_the_key_is_left_to_the_model_that_makes_it(ledger, key, expected):
    entry = ledger.taken(request(**({"inner": key} if key else {})))
    entry.answered("OK")
    assert (counted(), live()) == (expected, 0)
    assert entry.live == (0 if key == "k3y" else 1)


def test_without_a_key_nobody_has_it(load):
    ledger = load("triton_repo.ledger").Ledger("faces")
    ledger.taken(SimpleNamespace(request_id=lambda: "", parameters=lambda: '{"inner": null}')).answered("OK")
    assert counted() == {"OK": 1}


def test_the_supervisor_s_own_requests_are_counted_apart(ledger):
    ledger.taken(request("canary")).answered("OK")
    assert (counted(), counted("canary"), live()) == ({}, {"OK": 1}, 0)


def test_a_status_that_nobody_foresaw_is_a_failure(ledger):
    ledger.taken(request()).answered("DATA_LOSS", "what")
    assert counted() == {"INTERNAL": 1}


def test_the_log_has_one_line_of_json_per_answer(ledger, capfd):
    asked = request("r1", traceparent=TRACEPARENT, **{"x-tenant": "acme"})
    report = {"seed": 7, "num_inference_steps": 50, "timings_ms": {"total": 1.5}, "inferred": {"text": "words"}}
    ledger.taken(asked).answered("OK", report=report)
    ledger.taken(request()).answered("INVALID_ARGUMENT", "age: got 130, allowed 0..120")
    first, second = map(json.loads, capfd.readouterr().err.splitlines())
    assert first.pop("time").endswith("+00:00")
    assert first == {
        "model": "faces",
        "request_id": "r1",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "tenant": "acme",
        "outcome": "ok",
        "code": "OK",
        "seed": 7,
        "steps": 50,
        "timings_ms": {"total": 1.5},
    }
    assert (second["outcome"], second["text"]) == ("refused", "age: got 130, allowed 0..120")


def test_what_a_caller_sent_cannot_forge_a_line_or_fill_the_log(ledger, capfd):
    forged = 'x\n{"outcome": "ok"}\x1b[2J'
    ledger.taken(request(forged + "y" * 100_000, traceparent="00-" + "z" * 9999, **{"x-tenant": "\n" * 9999})).answered(
        "INVALID_ARGUMENT", "w" * 100_000
    )
    (line,) = capfd.readouterr().err.splitlines()
    assert len(line) < 2000 and "\x1b" not in line
    read = json.loads(line)
    assert read["request_id"].startswith(forged) and "trace_id" not in read


def test_threads_of_a_process_take_turns_at_the_metrics(load):
    metrics = load("triton_repo.metrics")
    requests, sampling = metrics.RequestMetrics("faces"), metrics.SamplingMetrics()
    failures = []

    def work():
        try:
            for _ in range(50):
                requests.take()
                sampling.stepped(0.02, rows=4)
                requests.answer("OK")
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sampling.finished(1.0)  # returns when all is written
    assert failures == [] and counted() == {"OK": 200} and live() == 0
    assert len(Metric.observed[("clipfacefusion_step_seconds",)]) == 200


def test_what_the_sampler_and_the_cache_tell_lands_in_its_series(load):
    metrics = load("triton_repo.metrics")
    sampling, cache = metrics.SamplingMetrics(), metrics.CacheMetrics(["image_encoder"])
    sampling.waited(0.5)
    sampling.stepped(0.02, rows=4)
    cache.miss("image_encoder")
    cache.hit("image_encoder")
    cache.hit("image_encoder")
    sampling.finished(1.5)
    kept = metrics.publish_bundle("demo", "ab" * 32)
    assert {key[0]: values for key, values in Metric.observed.items()} == {
        "clipfacefusion_queue_seconds": [0.5],
        "clipfacefusion_step_seconds": [0.02],
        "clipfacefusion_batch_rows": [4],
        "clipfacefusion_image_seconds": [1.5],
    }
    lookups = {
        dict(k[1:])["result"]: v for k, v in Metric.values.items() if k[0] == "clipfacefusion_cache_lookups_total"
    }
    assert lookups == {"hit": 2, "miss": 1}
    assert kept and Metric.values[("clipfacefusion_bundle_info", ("name", "demo"), ("sha256", "ab" * 32))] == 1


def test_the_page_lists_every_series_with_its_labels(load):
    metrics = load("triton_repo.metrics")
    metrics.RequestMetrics("faces"), metrics.SamplingMetrics(), metrics.CacheMetrics(["image_encoder"])
    metrics.publish_bundle("demo", "ab" * 32)
    made = {key[0]: sorted(name for name, _ in key[1:]) for key in Metric.values}
    page = (Path(__file__).parents[2] / "docs" / "observability.md").read_text()
    rows = re.findall(r"^\| `(clipfacefusion_\w+)` \|([^|]*)\|", page, re.MULTILINE)
    assert {name: sorted(re.findall(r"`(\w+)`", labels)) for name, labels in rows} == made
