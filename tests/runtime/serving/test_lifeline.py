"""A process group ends with the process that made it, even one that is killed; and only then."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.serving.lifeline import Lifeline

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /dev/shm and process groups")

# Starts a group of two and a lifeline for it, says their ids, and sleeps.
MAKER = """
import subprocess, sys, time
from runtime.serving.lifeline import Lifeline
group = subprocess.Popen(["/bin/sh", "-c", "sleep 600 & echo $!; wait"], start_new_session=True, stdout=subprocess.PIPE, text=True)
print(group.pid, group.stdout.readline().strip(), flush=True)
lifeline = Lifeline(group.pid, sys.argv[1])
print("held", flush=True)
if sys.argv[2] == "cut":
    lifeline.cut()
    lifeline.cut()
    print("cut", flush=True)
time.sleep(600)
"""


@pytest.fixture
def region() -> Iterator[Path]:
    path = Path("/dev/shm", f"clipfacefusion_test_{secrets.token_hex(4)}_1")
    path.write_bytes(b"region")
    yield path
    path.unlink(missing_ok=True)


def test_the_death_of_the_maker_ends_the_group_and_removes_its_memory(region):
    pids = _kill_maker(region, "hold")
    _wait_until(lambda: not any(map(_lives, pids)) and not region.exists())


def test_a_lifeline_that_was_cut_ends_nothing(region):
    pids = _kill_maker(region, "cut")
    try:
        time.sleep(0.5)
        assert all(map(_lives, pids)) and region.exists()
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def test_cutting_ends_the_watcher():
    lifeline = Lifeline(2**22, "clipfacefusion_nothing_")
    lifeline.cut()
    assert lifeline._watcher.poll() == 0


def _kill_maker(region: Path, how: str) -> list[int]:
    prefix = region.name.removesuffix("1")
    with subprocess.Popen([sys.executable, "-c", MAKER, prefix, how], stdout=subprocess.PIPE, text=True) as maker:
        pids = list(map(int, maker.stdout.readline().split()))
        for _ in range(2 if how == "cut" else 1):
            maker.stdout.readline()
        maker.kill()
    return pids


def _lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    return False


def _wait_until(is_true) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
