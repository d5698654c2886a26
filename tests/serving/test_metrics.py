"""The server's own counters and log, held against what its callers saw: exactly, request by request."""

from __future__ import annotations

import io
import json
import re
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.soak.ledger import CANCELLED, OK, REFUSED, Ledger, gained, never_answered, server_counts
from benchmarks.soak.traffic import GONE_WRONG, ONCE, Known, Traffic
from runtime.access import Access
from runtime.client import Client
from runtime.errors import DeadlineExceededError
from runtime.request import GenerateRequest

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
QUICK = GenerateRequest(age=30, seed=4, num_inference_steps=2)


@pytest.fixture(scope="module")
def log(server_log: Path) -> Callable[[], list[str]]:
    """The lines of the server's log so far."""
    return lambda: server_log.read_text(errors="replace").splitlines()


@pytest.fixture(scope="module")
def traffic(server, pipeline) -> Traffic:
    return Traffic(server.url, Ledger(), [Known(QUICK, pipeline(QUICK).image)])


def metrics_of(server) -> str:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(server.metrics_url) as answer:
        return answer.read().decode()


def value(text: str, series: str) -> float:
    found = re.search(rf"^{re.escape(series)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_counters_and_log_agree_with_the_callers_after_a_mix_of_all_they_can_do(server, traffic, log):
    """Nobody here gives up when the answer is on its way, so each count is exact, and so is the sum."""
    before = server_counts(server.metrics_url)
    calls = [traffic.ask] * 12 + [traffic.ask_wrongly] * 6 + [traffic.give_up] * 4 + [traffic.have_no_time] * 4
    rng = np.random.default_rng(0)
    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(calls[k], np.random.default_rng(k)) for k in rng.permutation(len(calls))]:
            future.result()
    ledger = traffic.ledger
    assert ledger.problems() == []
    assert ledger.counts() == {OK: 12, REFUSED: 6, CANCELLED: 8}
    # A caller who closes a stream does not wait for the server to hear of it.
    assert never_answered(server.metrics_url) == 0
    assert gained(before, server_counts(server.metrics_url)) == ledger.counts()
    assert ledger.against_log(log()) == []


@pytest.mark.parametrize("name", GONE_WRONG)
def test_every_wrong_request_is_counted_as_refused_whoever_takes_it(server, name):
    before, ledger = server_counts(server.metrics_url), Ledger()
    for share in (0.1, 0.9):  # draws the ensemble, and the stream
        Traffic(server.url, ledger, []).ask_wrongly(_Drawn(list(GONE_WRONG).index(name), share))
    assert ledger.problems() == [] and ledger.counts() == {REFUSED: 2}
    assert gained(before, server_counts(server.metrics_url)) == {REFUSED: 2}


def test_requests_of_the_supervisor_and_probes_are_counted_apart(server, client):
    before, probes = server_counts(server.metrics_url), _canaries(server)
    assert client.ready()
    assert server_counts(server.metrics_url) == before
    assert _canaries(server) == probes + 1


def test_what_the_batcher_does_is_in_the_histograms(server, client):
    before = metrics_of(server)
    client(GenerateRequest(age=30, seed=4, num_inference_steps=5, guidance_scale=3.0))
    after = metrics_of(server)
    rise = {
        name: value(after, f"clipfacefusion_{name}") - value(before, f"clipfacefusion_{name}")
        for name in (
            "step_seconds_count",
            "batch_rows_count",
            "batch_rows_sum",
            "queue_seconds_count",
            "image_seconds_count",
        )
    }
    assert rise == {
        "step_seconds_count": 5,
        "batch_rows_count": 5,
        "batch_rows_sum": 10,  # a guided request has two rows
        "queue_seconds_count": 1,
        "image_seconds_count": 1,
    }
    assert value(after, "clipfacefusion_image_seconds_sum") > value(before, "clipfacefusion_image_seconds_sum")


def test_the_cache_says_what_it_saved(server, client):
    series = 'clipfacefusion_cache_lookups_total{encoder="image_encoder",result="%s"}'
    before = metrics_of(server)
    photo = io.BytesIO()  # one that no other test has sent
    Image.fromarray(np.random.default_rng(11).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(photo, "PNG")
    for age in (11, 12):
        client(GenerateRequest(reference=photo.getvalue(), age=age, emotion="happy", num_inference_steps=1))
    after = metrics_of(server)
    assert [value(after, series % result) - value(before, series % result) for result in ("miss", "hit")] == [1, 1]


def test_the_bundle_that_is_served_is_in_the_metrics(server):
    assert (
        value(
            metrics_of(server),
            f'clipfacefusion_bundle_info{{name="{server.bundle.manifest.name}",sha256="{server.bundle.hash}"}}',
        )
        == 1
    )


def test_trace_and_tenant_reach_the_log_through_the_ensemble_and_through_the_stream(server, log):
    with Client(server.url, access=Access(tenant="acme"), retry=ONCE) as client:
        client(QUICK, request_id="traced-unary", traceparent=TRACEPARENT)
        list(client.stream(QUICK, request_id="traced-stream", traceparent=TRACEPARENT))
    facts = [json.loads(line) for line in log() if line.startswith("{")]
    lines = {each["request_id"]: each for each in facts if "request_id" in each}  # a lost decoder has a line as well
    for name in ("traced-unary", "traced-stream"):
        told = lines[name]
        assert (told["trace_id"], told["tenant"], told["outcome"]) == ("0af7651916cd43dd8448eb211c80319c", "acme", "ok")
        assert told["seed"] == 4 and set(told["timings_ms"]) >= {"preprocess", "condition", "sample", "decode", "total"}


def test_a_deadline_is_a_deadline_to_the_caller_and_cancelled_to_the_counters(server, client, log):
    with pytest.raises(DeadlineExceededError):
        client(GenerateRequest(age=30, num_inference_steps=1000, options={"deadline_ms": 50}), request_id="out-of-time")
    told = [json.loads(line) for line in log() if '"out-of-time"' in line and line.startswith("{")]
    assert [(each["outcome"], each["code"]) for each in told] == [("cancelled", "DEADLINE_EXCEEDED")]


def test_what_somebody_said_is_not_in_the_log(server, client, log, jpeg, wav):
    client(GenerateRequest(text="a secret wish", reference=jpeg, audio=wav, num_inference_steps=1))
    assert "secret wish" not in "\n".join(log())


class _Drawn:
    """A random generator whose draws are known."""

    def __init__(self, number: int, share: float) -> None:
        self._number, self._share = number, share

    def integers(self, *_: int) -> int:
        return self._number

    def random(self) -> float:
        return self._share


def _canaries(server) -> int:
    found = re.findall(r'^clipfacefusion_requests_total\{.*model="canary".*\} (\S+)$', metrics_of(server), re.MULTILINE)
    return sum(int(float(each)) for each in found)
