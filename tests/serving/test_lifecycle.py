"""The end of `python -m runtime serve`, and starts that are refused: nothing is lost in silence, and nothing stays behind."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak.faults import Ledger, Service, streamed
from runtime.client import Client
from runtime.errors import BundleError, UnavailableError
from runtime.request import GenerateRequest
from runtime.retry import Retry
from runtime.serving.server import Server
from runtime.serving.supervisor import ExitStatus
from runtime.wire import LIVE_JOBS, LIVE_REQUESTS

# Half of them run at once, the other half waits.
LONG = [GenerateRequest(age=20 + seed, seed=seed, num_inference_steps=100) for seed in range(2 * LIVE_JOBS)]
ENDLESS = GenerateRequest(age=50, num_inference_steps=1000)
SHORT = GenerateRequest(age=1, num_inference_steps=1)
ONCE = Retry(tries=1)


def test_sigterm_answers_what_runs_and_waits_refuses_what_comes_and_leaves_nothing(micro_bundle, pipeline):
    with Service(micro_bundle).wait_until_ready() as service, ThreadPoolExecutor(len(LONG)) as pool:
        with Client(service.url, 120, ONCE) as client:
            calls = [streamed(client) if request.seed % 4 == 0 else client for request in LONG]
            taken = [pool.submit(call, request) for call, request in zip(calls, LONG, strict=True)]
            while _live_requests(service) < len(LONG):
                assert not any(future.done() for future in taken)
            service.process.send_signal(signal.SIGTERM)
            while service.is_ready():
                assert service.process.poll() is None
            assert service.ask("/ready")[1]["reason"] == "stopping"
            time.sleep(0.5)
            for call in (client, streamed(client)):
                with pytest.raises(UnavailableError, match="the server is stopping"):
                    call(SHORT)
            results = [future.result() for future in taken]
        assert service.process.wait(60) == ExitStatus.STOPPED
        assert service.left_behind() == []
    for result, expected in zip(results, pipeline.batch(LONG), strict=True):
        np.testing.assert_array_equal(result.image, expected.image)


def test_what_takes_longer_than_the_drain_is_cut_off_with_a_code_and_the_status_says_so(micro_bundle):
    with Service(micro_bundle, "--drain-seconds", "0.5").wait_until_ready() as service:
        with ThreadPoolExecutor(2) as pool, Client(service.url, 120, ONCE) as client:
            ledger = Ledger()
            endings = [pool.submit(ledger.send, call, ENDLESS) for call in (client, streamed(client))]
            while _live_requests(service) < 2:
                assert not any(ending.done() for ending in endings)
            service.process.send_signal(signal.SIGTERM)
            assert [ending.result() for ending in endings] == ["UNAVAILABLE"] * 2
        assert service.process.wait(60) == ExitStatus.CUT_OFF
        assert service.left_behind() == []


def test_a_failure_ends_the_command_if_it_is_told_so_and_its_status_and_words_say_why(micro_bundle):
    with Service(micro_bundle, "--on-failure", "exit").wait_until_ready() as service:
        service.kill("sampler")
        assert service.process.wait(60) == ExitStatus.SERVER_FAILED
        assert service.events[-1] == {"event": "failed", "reason": "the process of model sampler died"}
        assert service.error_text().startswith("clipfacefusion: the process of model sampler died; the log says:")
        assert service.left_behind() == []


def test_a_truncated_network_is_refused_before_anything_starts_in_one_line_that_names_it(micro_bundle, tmp_path):
    bundle = _copy(micro_bundle, tmp_path / "bundle")
    network = bundle / "onnx" / "unet.onnx"
    network.write_bytes(network.read_bytes()[:-100])
    with Service(bundle) as service:
        assert service.process.wait(60) == ExitStatus.BUNDLE_REFUSED
        (line,) = service.error_text().splitlines()
        assert "onnx/unet.onnx" in line and str(tmp_path) not in line
        assert [event["event"] for event in service.events] == ["starting"]
        assert service.left_behind() == []
    with pytest.raises(BundleError, match=r"onnx/unet\.onnx"):
        Server(bundle)


def test_a_bundle_over_the_memory_limit_is_refused_before_anything_starts(micro_bundle):
    with Service(micro_bundle, "--memory-limit", "64M") as service:
        assert service.process.wait(60) == ExitStatus.OVER_MEMORY
        (line,) = service.error_text().splitlines()
        assert "needs about" in line and "--memory-limit allows 64 MiB" in line
        assert [event["event"] for event in service.events] == ["starting"]


def test_a_log_that_cannot_be_written_is_no_start_and_is_named_in_one_line(micro_bundle, tmp_path):
    with Service(micro_bundle, "--log-file", str(tmp_path / "missing" / "log")) as service:
        assert service.process.wait(60) == ExitStatus.NOT_STARTED
        (line,) = service.error_text().splitlines()
        assert "tritonserver cannot be started" in line and "missing/log" in line


def test_a_taken_port_is_no_start_and_is_named_in_one_line(micro_bundle):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Service(micro_bundle, "--grpc-port", str(port)) as service:
            assert service.process.wait(60) == ExitStatus.NOT_STARTED
            (line,) = service.error_text().splitlines()
            assert f"port {port} of 127.0.0.1" in line and "choose another, or 0" in line


def _copy(bundle: Path, to: Path) -> Path:
    for name in [*json.loads((bundle / "manifest.json").read_bytes())["files"], "manifest.json"]:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        (to / name).write_bytes((bundle / name).read_bytes())
    return to


def _live_requests(service: Service) -> int:
    with urllib.request.urlopen(service.metrics_url) as answer:
        lines = answer.read().decode().splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(LIVE_REQUESTS))
