"""The life of `python -m runtime serve`: ready means answering, SIGTERM loses nothing, and nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime.client import Client
from runtime.errors import BundleError, EngineError, UnavailableError
from runtime.request import GenerateRequest
from runtime.server import Server
from runtime.wire import LIVE_JOBS, LIVE_REQUESTS

# Half of them run at once, the other half waits.
LONG = [GenerateRequest(age=20 + seed, seed=seed, num_inference_steps=100) for seed in range(2 * LIVE_JOBS)]
ENDLESS = GenerateRequest(age=50, num_inference_steps=1000)
SHORT = GenerateRequest(age=1, num_inference_steps=1)


def test_sigterm_answers_what_runs_and_waits_refuses_what_comes_and_leaves_nothing(micro_bundle, pipeline):
    with _serving(micro_bundle) as (serving, url, metrics_url), ThreadPoolExecutor(len(LONG)) as pool:
        with Client(url, timeout_s=120) as client:
            taken = [pool.submit(client, request) for request in LONG]
            while _live_requests(metrics_url) < len(LONG):
                assert not any(future.done() for future in taken)
            serving.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            with pytest.raises(UnavailableError):
                client(SHORT)
            results = [future.result() for future in taken]
        assert serving.wait(60) == 0
    for result, expected in zip(results, pipeline.batch(LONG), strict=True):
        np.testing.assert_array_equal(result.image, expected.image)
    assert _left_behind(serving.pid) == []


@pytest.mark.parametrize(
    ("victim", "told"),
    [
        ("bin/tritonserver", "tritonserver ended with status -9"),
        ("sampler/1/model.py", "the process of model sampler died"),
        ("ddim/1/model.py", "the process of model ddim died"),
    ],
    ids=["tritonserver", "sampler", "ddim"],
)
def test_a_killed_process_ends_the_service_and_callers_hear_of_it(micro_bundle, victim, told):
    with _serving(micro_bundle) as (serving, url, _), ThreadPoolExecutor(1) as pool:
        with Client(url, timeout_s=120) as client:
            running = pool.submit(client, ENDLESS)
            client(SHORT)
            os.kill(_processes_of(serving.pid, victim)[0], signal.SIGKILL)
            assert serving.wait(60) == 1
            with pytest.raises((UnavailableError, EngineError)):
                running.result(60)
        assert told in serving.stderr.read()
    assert _left_behind(serving.pid) == []


def test_a_damaged_bundle_is_refused_before_anything_starts(micro_bundle, tmp_path):
    damaged = tmp_path / "bundle"
    damaged.mkdir()
    (damaged / "manifest.json").write_bytes((micro_bundle / "manifest.json").read_bytes())
    with pytest.raises(BundleError):
        Server(damaged)


@contextlib.contextmanager
def _serving(bundle: Path) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """A `serve` command that has said ready, its gRPC address and the URL of its metrics."""
    command = [sys.executable, "-m", "runtime", "serve", str(bundle), "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        try:
            ready = re.match(r"ready: gRPC (\S+), metrics (\S+),", serving.stdout.readline())
            yield serving, ready[1], ready[2]
        finally:
            if serving.poll() is None:
                serving.terminate()


def _live_requests(metrics_url: str) -> int:
    with urllib.request.urlopen(metrics_url) as answer:
        return int(re.search(rf"^{LIVE_REQUESTS} (\d+)$", answer.read().decode(), re.MULTILINE)[1])


def _left_behind(pid: int) -> list[str]:
    """Shared memory and processes of the server that process `pid` started."""
    regions = map(str, Path("/dev/shm").glob(f"clipfacefusion_{pid}_*"))
    return [*regions, *map(str, _processes_of(pid))]


def _processes_of(pid: int, holding: str = "") -> list[int]:
    """Tritonserver and its stubs, which have the shared memory's prefix on their command lines, if those hold a text."""
    found = []
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # ended meanwhile
            line = command.read_text()
            if f"clipfacefusion_{pid}_" in line and holding in line:
                found.append(int(command.parent.name))
    return found
