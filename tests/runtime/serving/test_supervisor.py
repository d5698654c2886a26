"""What `serve` does with a server's failures and an operator's signals: its decisions, with a server that only pretends."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UnavailableError
from runtime.serving import supervisor
from runtime.serving.health import Health
from runtime.serving.supervisor import (
    MEANING,
    RESTART_WINDOW_S,
    ExitStatus,
    ServeSettings,
    Supervisor,
    add_arguments,
    run,
)

ROOT = Path(__file__).resolve().parents[3]
DIED = Health(False, "the process of model sampler died", has_failed=True)


@dataclass
class World:
    """A clock, what the examination will find next, and what was done to the server."""

    now: float = 1000.0
    found: list[Health | Callable[[], Health]] = field(default_factory=list)
    starts_that_fail: int = 0
    live_requests: int = 0
    at_restart: Callable[[], object] = lambda: None
    done: list[str] = field(default_factory=list)

    def examine(self) -> Health:
        found = self.found.pop(0) if self.found else _asked_to_stop()
        return found() if callable(found) else found


class PretendedServer:
    """The server's side of the world."""

    url, metrics_url, first_face_s = "127.0.0.1:1", "http://127.0.0.1:2/metrics", 0.1
    bundle = argparse.Namespace(hash="0" * 64)

    def __init__(self, world: World, on_wait: Callable[[], None]) -> None:
        self.world, self.on_wait = world, on_wait

    def restart(self) -> None:
        self.world.done.append("restart")
        self.world.at_restart()
        self.on_wait()
        if self.world.starts_that_fail:
            self.world.starts_that_fail -= 1
            raise UnavailableError("no face came out")

    def explain(self) -> str:
        return "the log's words"

    def drain(self, limit_s: float) -> bool:
        self.world.done.append(f"drain {limit_s:g} s")
        while self.world.live_requests:
            self.on_wait()
            self.world.now += 1.0
            self.world.live_requests -= 1
        return True

    def close(self) -> None:
        self.world.done.append("close")

    def kill(self) -> None:
        self.world.done.append("kill")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    world = World()
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr(supervisor, "_adopt_orphans", lambda: None)
    monkeypatch.setattr(supervisor, "Server", lambda *arguments: PretendedServer(world, arguments[5]))
    monkeypatch.setattr(supervisor, "Examination", lambda *_: world.examine)
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: world.now)
    monkeypatch.setattr(supervisor.time, "sleep", lambda seconds: None)
    yield world
    for number, handler in kept.items():
        signal.signal(number, handler)


SETTINGS = ServeSettings(ROOT / "bundles" / "demo", health_port=0, is_json=True)


def _asked_to_stop() -> Health:
    signal.raise_signal(signal.SIGTERM)
    return Health(True)


def _events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_signal_drains_then_closes_and_is_no_failure(world, capsys):
    world.live_requests = 3
    assert Supervisor(SETTINGS).run() == ExitStatus.STOPPED
    assert world.done == ["drain 30 s", "close", "kill"]
    assert [event["event"] for event in _events(capsys)] == ["starting", "ready", "stopping"]


def test_a_second_signal_ends_the_drain_and_says_that_requests_were_cut_off(world):
    world.live_requests = 3
    world.found = [lambda: (_asked_to_stop(), _asked_to_stop())[0]]
    assert Supervisor(SETTINGS).run() == ExitStatus.CUT_OFF
    assert world.done == ["drain 30 s", "kill"]


def test_failures_are_restarted_until_there_are_too_many_in_five_minutes(world, capsys):
    world.found = [DIED] * 5
    assert Supervisor(SETTINGS).run() == ExitStatus.SERVER_FAILED
    assert world.done == ["restart"] * 3 + ["kill"]
    events = [event["event"] for event in _events(capsys)]
    assert events == ["starting", "ready", *["restarting", "ready"] * 3, "failed"]


def test_the_number_of_restarts_is_a_setting(world):
    world.found = [DIED] * 9
    assert Supervisor(replace(SETTINGS, max_restarts=7)).run() == ExitStatus.SERVER_FAILED
    assert world.done.count("restart") == 7


def test_restarts_of_more_than_five_minutes_ago_are_forgotten(world):
    def later() -> Health:
        world.now += RESTART_WINDOW_S / 3 + 1
        return DIED

    world.found = [later] * 9
    assert Supervisor(SETTINGS).run() == ExitStatus.STOPPED
    assert world.done.count("restart") == 9


def test_starts_that_fail_count_as_restarts(world, capsys):
    world.found, world.starts_that_fail = [DIED], 9
    assert Supervisor(SETTINGS).run() == ExitStatus.SERVER_FAILED
    assert world.done.count("restart") == 3
    assert _events(capsys)[-1] == {"event": "failed", "reason": "it did not start again"}


def test_told_to_exit_it_restarts_nothing(world):
    world.found = [DIED]
    assert Supervisor(replace(SETTINGS, on_failure="exit")).run() == ExitStatus.SERVER_FAILED
    assert world.done == ["kill"]


def test_a_signal_during_a_restart_ends_it_because_nothing_has_been_taken(world):
    world.found = [lambda: (_asked_to_stop(), DIED)[1]]
    assert Supervisor(SETTINGS).run() == ExitStatus.STOPPED
    assert world.done == ["restart", "kill"]


def test_probes_tell_each_phase_and_liveness_that_the_supervisor_itself_is_stuck(world, monkeypatch):
    told = []
    served = Supervisor(SETTINGS)

    def tell(health: Health) -> Callable[[], Health]:
        def found() -> Health:
            told.append((served._live(), served._ready()))
            return health

        return found

    def stuck() -> Health:
        world.now += supervisor.LOOK_LIMIT_S + 1
        told.append((served._live(), served._ready()))
        return Health(True)

    slow = Health(False, "no face and no progress for 3 s")
    world.found = [tell(Health(True)), tell(slow), tell(Health(True)), stuck, DIED]
    world.at_restart = stuck  # a start may take longer than a look
    assert served.run() == ExitStatus.STOPPED
    (_, ready), (_, after_ready), (_, after_slow), (live_when_stuck, _), (live_at_restart, at_restart) = told
    assert ready[0] and after_ready[0]
    assert after_slow == (False, {"ready": False, "reason": slow.reason, "restarts": 0})
    assert all(live[0] for live, _ in told[:3])
    assert live_when_stuck == (False, {"live": False, "reason": "the supervisor is stuck"})
    assert live_at_restart == (True, {"live": True, "reason": ""})
    assert at_restart == (False, {"ready": False, "reason": f"restarting: {DIED.reason}", "restarts": 1})
    assert served._ready() == (False, {"ready": False, "reason": "stopping", "restarts": 1})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"on_failure": "hope"}, "on_failure is 'hope'; allowed restart, exit"),
        ({"max_restarts": -1}, "max_restarts is -1; it must not be negative"),
        ({"drain_s": 0.0}, "drain_s is 0.0; it must be above 0"),
        ({"canary_interval_s": float("inf")}, "canary_interval_s is inf"),
        ({"stall_limit_s": -1.0}, "stall_limit_s is -1.0"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(change, told):
    with pytest.raises(ValueError, match=told):
        replace(SETTINGS, **change)


@pytest.mark.parametrize(
    ("flag", "value", "name", "expected"),
    [
        ("--memory-limit", "512M", "memory_limit", 512 << 20),
        ("--memory-limit", "4G", "memory_limit", 4 << 30),
        ("--memory-limit", "1000", "memory_limit", 1000),
        ("--drain-seconds", "2.5", "drain_seconds", 2.5),
        ("--max-restarts", "0", "max_restarts", 0),
    ],
)
def test_flags_are_read_with_their_units(flag, value, name, expected):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert getattr(parser.parse_args(["bundle", flag, value]), name) == expected


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--memory-limit", "4 GB"),
        ("--memory-limit", "0"),
        ("--drain-seconds", "0"),
        ("--drain-seconds", "nan"),
        ("--canary-interval", "soon"),
        ("--max-restarts", "-1"),
        ("--on-failure", "hope"),
    ],
)
def test_wrong_flags_end_with_their_status(flag, value, capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(["bundle", flag, value])
    assert ended.value.code == ExitStatus.WRONG_FLAGS
    assert flag in capsys.readouterr().err


def test_flags_reach_the_supervisor(monkeypatch):
    seen = []
    monkeypatch.setattr(supervisor, "Supervisor", lambda settings: seen.append(settings) or argparse.Namespace(run=int))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    given = (
        "b --host h --grpc-port 1 --metrics-port 2 --health-port 3 --health-host i --on-failure exit --max-restarts 4 --drain-seconds 5 "
        "--canary-interval 6 --memory-limit 7 --stall-limit 8 --feature-cache-mb 9 --face-pack p --log-file l --json"
    )
    assert run(parser.parse_args(given.split())) == 0
    assert seen == [
        ServeSettings(Path("b"), "h", 1, 2, "i", 3, "exit", 4, 5.0, 6.0, 7, 8.0, 9 << 20, Path("p"), Path("l"), True)
    ]
    assert run(parser.parse_args(["b"])) == 0
    assert seen[1] == ServeSettings(Path("b"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="serving needs Linux")
def test_processes_whose_parent_dies_become_the_supervisors_own():
    script = (
        "import os, pathlib, subprocess; from runtime.serving import supervisor\n"
        "supervisor._adopt_orphans()\n"
        "orphan = int(subprocess.check_output(['sh', '-c', 'sleep 600 >/dev/null & echo $!']))\n"
        "parent = int(pathlib.Path(f'/proc/{orphan}/stat').read_text().rpartition(') ')[2].split()[1])\n"
        "os.kill(orphan, 9); os.waitpid(orphan, 0); print(parent == os.getpid())\n"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True) == "True\n"


def test_the_documentation_tells_every_exit_status():
    text = (ROOT / "docs" / "serving.md").read_text()
    for status, meaning in MEANING.items():
        assert f"| {status:d} | {meaning} |" in text
    assert set(MEANING) == set(ExitStatus)
