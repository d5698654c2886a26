"""The life of `python -m runtime serve`: ready means answering, SIGTERM loses nothing, and nothing stays behind."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from runtime.client import Client
from runtime.errors import BundleError, UnavailableError
from runtime.repository import LIVE_JOBS
from runtime.request import GenerateRequest
from runtime.server import Server

# One less than can be live, so that a short request still finds its way in beside them.
LONG = [GenerateRequest(age=20 + seed, seed=seed, num_inference_steps=200) for seed in range(LIVE_JOBS - 1)]
SHORT = GenerateRequest(age=1, num_inference_steps=1)


def test_sigterm_answers_what_runs_refuses_what_comes_and_leaves_nothing(micro_bundle, pipeline):
    command = [sys.executable, "-m", "runtime", "serve", str(micro_bundle), "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving, ThreadPoolExecutor(9) as pool:
        try:
            line = serving.stdout.readline()
            url = re.search(r"ready: gRPC (\S+),", line)[1]
            with Client(url, timeout_s=120) as client:
                running = [pool.submit(client, request) for request in LONG]
                client(SHORT)  # came after them, so they have all begun
                assert not any(future.done() for future in running)
                serving.send_signal(signal.SIGTERM)
                time.sleep(0.5)
                with pytest.raises(UnavailableError):
                    client(SHORT)
                results = [future.result() for future in running]
            assert serving.wait(60) == 0
        finally:
            serving.kill()
    for request, result in zip(LONG, results, strict=True):
        np.testing.assert_array_equal(result.image, pipeline(request).image)
    assert _left_behind(serving.pid) == []


def test_a_damaged_bundle_is_refused_before_anything_starts(micro_bundle, tmp_path):
    damaged = tmp_path / "bundle"
    damaged.mkdir()
    (damaged / "manifest.json").write_bytes((micro_bundle / "manifest.json").read_bytes())
    with pytest.raises(BundleError):
        Server(damaged)


def _left_behind(pid: int) -> list[str]:
    """Shared memory and processes of the server that process `pid` started; both carry its prefix."""
    prefix = f"clipfacefusion_{pid}_"
    left = [str(region) for region in Path("/dev/shm").glob(prefix + "*")]
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if prefix.encode() in command.read_bytes():
                left.append(str(command))
        except OSError:
            continue  # ended meanwhile
    return left
