"""No space left: on the disk of the log, and in /dev/shm. Each is a small file system of the server's own, in its own mount namespace."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak.faults import CODED, OK, PROBE, Ledger, Service
from runtime.client import Client
from runtime.pipeline import Pipeline
from runtime.request import GenerateRequest
from runtime.retry import Retry
from runtime.serving.memory import SHARED_MEMORY
from runtime.serving.supervisor import ExitStatus

PRIVATE = ("unshare", "--mount", "--propagation", "private")
MOUNTS = (
    shutil.which("unshare") is not None
    and subprocess.run([*PRIVATE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
)
pytestmark = pytest.mark.skipif(not MOUNTS, reason="needs the right to mount in a namespace of its own")
LOG_KILOBYTES = 32
LARGE = GenerateRequest(reference=random.Random(0).randbytes(9_900_000))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("disk") / "log"


@pytest.fixture(scope="module")
def service(micro_bundle: Path, log: Path) -> Iterator[Service]:
    prefix = [*_mounted(log.parent, f"{LOG_KILOBYTES}k"), *_mounted(SHARED_MEMORY, "160m")]
    with Service(micro_bundle, "--log-file", str(log), prefix=prefix) as service:
        yield service.wait_until_ready()


@pytest.fixture(scope="module")
def expected(pipeline: Pipeline) -> np.ndarray:
    return pipeline(PROBE).image


def test_a_full_disk_costs_the_log_and_no_request(service, expected, log):
    ledger = Ledger()
    with Client(service.url, 120, Retry(tries=1)) as client:
        while _free_bytes(_seen_by(service, log.parent)) > 0:
            assert ledger.send(client, PROBE, expected) == OK, ledger.texts
        for _ in range(20):  # a line is 400 bytes, and up to a page of 4 KB may still have room
            assert ledger.send(client, PROBE, expected) == OK, ledger.texts
    assert ledger.wrong_images == 0
    assert service.is_ready() and len(service.events) == 2


def test_shared_memory_that_runs_out_costs_the_request_that_needs_more(service, expected):
    """Whether Triton refuses it, or the kernel ends what touches memory that is not there: a code, and service afterwards."""
    ledger, memory = Ledger(), _seen_by(service, SHARED_MEMORY)
    with Client(service.url, 120, Retry(tries=1)) as client:
        assert ledger.send(client, PROBE, expected) == OK
        with (memory / "full").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _free_bytes(memory) - 4096)
        assert ledger.send(client, LARGE) in CODED - {OK}
        (memory / "full").unlink()
    with Client(service.url, 120) as client:
        assert ledger.send(client, PROBE, expected) == OK
        assert ledger.send(client, LARGE) == "INVALID_ARGUMENT"  # it is no photo; now it arrives
    assert ledger.wrong_images == 0


def test_too_little_shared_memory_is_refused_before_anything_starts(micro_bundle):
    with Service(micro_bundle, prefix=_mounted(SHARED_MEMORY, "64m")) as service:
        assert service.process.wait(60) == ExitStatus.OVER_MEMORY
        assert "/dev/shm has 64 MiB free" in service.error_text()


def _mounted(folder: Path, size: str) -> list[str]:
    """The beginning of a command that sees a new file system of that size at the folder."""
    return [*PRIVATE, "sh", "-c", f'mount -t tmpfs -o size={size} none "$0" && exec "$@"', str(folder)]


def _seen_by(service: Service, folder: Path) -> Path:
    """What is at `folder` in the service's mount namespace."""
    return Path(f"/proc/{service.pid}/root{folder}")


def _free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
