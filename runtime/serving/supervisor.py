"""`python -m runtime serve`: keeps one server of a bundle answering, tells the truth about it, and ends with a status that says why.

    start ─▶ watch ─▶ (failed: kill, restart) ─▶ watch …  ─▶ SIGTERM: drain ─▶ end

One thread, the caller's, does all of it; only the probes (`runtime/serving/probes.py`) and a canary on its way have threads of their own.
What is judged a failure: `runtime/serving/health.py`. Decisions and their reasons: docs/decisions/0031.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import re
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from runtime.errors import BundleError, ClipFaceFusionError, UnavailableError
from runtime.feature_cache import DEFAULT_BYTES
from runtime.flags import seconds
from runtime.manifest import Manifest
from runtime.serving.canary import Canary
from runtime.serving.health import Examination, Health
from runtime.serving.memory import MemoryBudgetError, check_budget, check_shared_memory
from runtime.serving.probes import Answer, Probes
from runtime.serving.repository import DEFAULT_STALL_LIMIT_S, build_repository
from runtime.serving.server import DRAIN_S, Server
from runtime.serving.tritonserver import LOOPBACK

RESTART, EXIT = "restart", "exit"
MAX_RESTARTS, RESTART_WINDOW_S = 3, 300.0
CANARY_INTERVAL_S = 5.0
CANARY_LIMIT_S = 60.0  # a canary that waits longer is forgotten, and another one sent
LOOK_S = 0.1
LOOK_LIMIT_S = 30.0  # /live: a supervisor that has not looked for so long is stuck itself
PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
MEMORY_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class ExitStatus(IntEnum):
    """How `serve` ends; the table in docs/serving.md is compared with `MEANING`."""

    STOPPED = 0
    NOT_STARTED = 1
    WRONG_FLAGS = 2  # argparse exits so by itself
    BUNDLE_REFUSED = 3
    OVER_MEMORY = 4
    SERVER_FAILED = 5
    CUT_OFF = 6


MEANING = {
    ExitStatus.STOPPED: "stopped as asked; every request it had taken was answered",
    ExitStatus.NOT_STARTED: "it did not start: a port is taken, tritonserver is missing, or no face came out",
    ExitStatus.WRONG_FLAGS: "a flag is wrong",
    ExitStatus.BUNDLE_REFUSED: "the bundle is damaged or not what it claims",
    ExitStatus.OVER_MEMORY: "the bundle needs more memory than is allowed",
    ExitStatus.SERVER_FAILED: "the server failed, and was not to be restarted, or too often",
    ExitStatus.CUT_OFF: "stopped as asked; requests were cut off, because time was over, they were lost, or a second signal came",
}


@dataclass(frozen=True)
class ServeSettings:
    """Everything `serve` is told. Ports of 0 mean any free one; times are in seconds."""

    bundle: Path
    host: str = LOOPBACK
    grpc_port: int = 8001
    metrics_port: int = 8002
    health_host: str = LOOPBACK
    health_port: int = 8003
    on_failure: str = RESTART
    max_restarts: int = MAX_RESTARTS
    drain_s: float = DRAIN_S
    canary_interval_s: float = CANARY_INTERVAL_S
    memory_limit_bytes: int | None = None  # None: what the machine or its container has
    stall_limit_s: float = DEFAULT_STALL_LIMIT_S
    feature_cache_bytes: int = DEFAULT_BYTES
    face_pack: Path | None = None
    log: Path | None = None
    is_json: bool = False

    def __post_init__(self) -> None:
        if self.on_failure not in (RESTART, EXIT):
            raise ValueError(f"on_failure is {self.on_failure!r}; allowed {RESTART}, {EXIT}")
        if self.max_restarts < 0:
            raise ValueError(f"max_restarts is {self.max_restarts}; it must not be negative")
        for name in ("drain_s", "canary_interval_s", "stall_limit_s"):
            seconds = getattr(self, name)
            if not 0 < seconds < math.inf:
                raise ValueError(f"{name} is {seconds}; it must be above 0 seconds")


class Supervisor:
    """Runs once. `run` must be called from the main thread, which receives signals."""

    def __init__(self, settings: ServeSettings) -> None:
        self._settings = settings
        self._signals = 0
        self._patience = 0  # signals after which a wait ends
        self._restarts: deque[float] = deque()  # when
        self._health = Health(False, "starting")
        self._look_before = math.inf

    def run(self) -> ExitStatus:
        """Serve until SIGINT, SIGTERM or a failure that is not to be survived.

        Raises UnavailableError, BundleError and MemoryBudgetError if it does not start.
        """
        settings = self._settings
        _adopt_orphans()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._count_signal)
        answers = {"/live": self._live, "/ready": self._ready}
        try:
            with Probes(settings.health_host, settings.health_port, answers) as probes:
                self._say("starting", f"health {probes.url}/ready", health=probes.url)
                check_budget(Manifest.read(settings.bundle), settings.memory_limit_bytes, settings.feature_cache_bytes)
                check_shared_memory()
                server = self._start()
                try:
                    self._say_ready(server, probes.url)
                    return self._look_after(server, probes.url)
                finally:
                    server.kill()
        except _StopAskedError:  # nothing had been taken
            return ExitStatus.STOPPED

    def _start(self) -> Server:
        settings = self._settings
        build = partial(
            build_repository,
            feature_cache_bytes=settings.feature_cache_bytes,
            face_pack=settings.face_pack,
            stall_limit_s=settings.stall_limit_s,
        )
        ports = settings.grpc_port, settings.metrics_port
        return Server(settings.bundle, settings.host, *ports, settings.log, self._on_wait, build)

    def _look_after(self, server: Server, health_url: str) -> ExitStatus:
        failure, detail = self._watch(server), server.explain()
        while failure:
            print(f"clipfacefusion: {failure}; the log says:\n{detail}", file=sys.stderr, flush=True)
            if not self._may_restart():
                self._say("failed", failure, reason=failure)
                return ExitStatus.SERVER_FAILED
            self._health, self._look_before = Health(False, f"restarting: {failure}"), math.inf
            self._say("restarting", failure, reason=failure)
            try:
                server.restart()
            except UnavailableError as error:
                failure, detail = "it did not start again", str(error)
            else:
                self._say_ready(server, health_url)
                failure, detail = self._watch(server), server.explain()
        return self._drain(server)

    def _watch(self, server: Server) -> str | None:
        """Look at the server until it has failed, and say how; None: a stop was asked for."""
        send = partial(Canary, server.url, CANARY_LIMIT_S)
        examine = Examination(server, send, time.monotonic, self._settings.canary_interval_s, server.first_face_s)
        while not self._signals:
            health = examine()
            if health.has_failed:
                return health.reason
            self._health = health
            self._look_before = time.monotonic() + LOOK_LIMIT_S
            time.sleep(LOOK_S)
        return None

    def _drain(self, server: Server) -> ExitStatus:
        self._health, self._look_before, self._patience = Health(False, "stopping"), math.inf, 1
        limit_s = self._settings.drain_s
        self._say("stopping", f"running requests have {limit_s:g} s, new ones are refused; again: now", limit_s=limit_s)
        try:
            all_answered = server.drain(limit_s)
            if all_answered:
                server.close()
        except _StopAskedError:
            all_answered = False
        return ExitStatus.STOPPED if all_answered else ExitStatus.CUT_OFF

    def _may_restart(self) -> bool:
        """Whether one more restart is within what is allowed; counts it."""
        now = time.monotonic()
        while self._restarts and self._restarts[0] < now - RESTART_WINDOW_S:
            self._restarts.popleft()
        if self._settings.on_failure == EXIT or len(self._restarts) >= self._settings.max_restarts:
            return False
        self._restarts.append(now)
        return True

    def _count_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1

    def _on_wait(self) -> None:
        if self._signals > self._patience:
            raise _StopAskedError

    def _live(self) -> Answer:
        is_live = time.monotonic() < self._look_before
        return is_live, {"live": is_live, "reason": "" if is_live else "the supervisor is stuck"}

    def _ready(self) -> Answer:
        health = self._health
        return health.is_ready, {"ready": health.is_ready, "reason": health.reason, "restarts": len(self._restarts)}

    def _say_ready(self, server: Server, health_url: str) -> None:
        self._health = Health(True)
        self._say(
            "ready",
            f"gRPC {server.url}, metrics {server.metrics_url}, health {health_url}/ready, bundle {server.bundle.hash[:12]}",
            grpc=server.url,
            metrics=server.metrics_url,
            health=health_url,
            bundle=server.bundle.hash,
        )

    def _say(self, event: str, text: str, **facts: Any) -> None:
        """One line on stdout: for people, or for programs."""
        print(json.dumps({"event": event, **facts}) if self._settings.is_json else f"{event}: {text}", flush=True)


class _StopAskedError(Exception):
    """A signal came, and what is being waited for is not worth it any more."""


def _adopt_orphans() -> None:
    """Become the parent of processes whose parent dies, so that a killed server's stubs can be waited for and leave no zombies."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `serve`."""
    default = ServeSettings(Path())
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle to serve")
    parser.add_argument(
        "--host", default=default.host, help="address gRPC listens on (default %(default)s: this machine only)"
    )
    parser.add_argument(
        "--grpc-port", type=int, default=default.grpc_port, help="gRPC port, 0 = any free one (default %(default)s)"
    )
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=default.metrics_port,
        help="Prometheus port, on loopback only, 0 = any free one (default %(default)s)",
    )
    parser.add_argument(
        "--health-port",
        type=int,
        default=default.health_port,
        help="HTTP port of /live and /ready, 0 = any free one (default %(default)s)",
    )
    parser.add_argument(
        "--health-host", default=default.health_host, help="address those listen on (default %(default)s)"
    )
    parser.add_argument(
        "--on-failure",
        choices=(RESTART, EXIT),
        default=default.on_failure,
        help="what to do when the server fails (default %(default)s)",
    )
    parser.add_argument(
        "--max-restarts",
        type=_whole_number,
        default=default.max_restarts,
        metavar="N",
        help=f"restarts within {RESTART_WINDOW_S / 60:g} minutes, after which it gives up (default %(default)s)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=seconds,
        default=default.drain_s,
        metavar="S",
        help="time that running requests have after SIGTERM (default %(default)s)",
    )
    parser.add_argument(
        "--canary-interval",
        type=seconds,
        default=default.canary_interval_s,
        metavar="S",
        help="seconds between two requests of its own, each of which must give a face (default %(default)s)",
    )
    parser.add_argument(
        "--memory-limit",
        type=_bytes,
        metavar="SIZE",
        help="do not start if the bundle needs more, such as 512M or 4G (default: what this machine or container has)",
    )
    parser.add_argument(
        "--stall-limit",
        type=seconds,
        default=default.stall_limit_s,
        metavar="S",
        help="seconds that one call of the UNet may take, above what the slowest takes here (default %(default)s)",
    )
    parser.add_argument(
        "--feature-cache-mb",
        type=_whole_number,
        default=default.feature_cache_bytes // MEMORY_UNITS["M"],
        metavar="N",
        help="MB of encoders' results remembered of each tenant's photos, voices and words, 0 = nothing (default %(default)s)",
    )
    parser.add_argument(
        "--face-pack",
        type=Path,
        metavar="DIR",
        help="folder of an insightface pack whose detector finds and aligns the faces of photos (extra face); "
        "its licence is non-commercial",
    )
    parser.add_argument(
        "--log-file", type=Path, help="file that receives the server's log (default: kept only while it runs)"
    )
    parser.add_argument("--json", action="store_true", help="say what happens as one JSON object per line")
    statuses = (f"  {status:d}  {text}" for status, text in MEANING.items())
    parser.epilog = "\n".join(["exit status:", *statuses, "", parser.epilog or ""])


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; the exit status."""
    settings = ServeSettings(
        bundle=arguments.bundle,
        host=arguments.host,
        grpc_port=arguments.grpc_port,
        metrics_port=arguments.metrics_port,
        health_host=arguments.health_host,
        health_port=arguments.health_port,
        on_failure=arguments.on_failure,
        max_restarts=arguments.max_restarts,
        drain_s=arguments.drain_seconds,
        canary_interval_s=arguments.canary_interval,
        memory_limit_bytes=arguments.memory_limit,
        stall_limit_s=arguments.stall_limit,
        feature_cache_bytes=arguments.feature_cache_mb * MEMORY_UNITS["M"],
        face_pack=arguments.face_pack,
        log=arguments.log_file,
        is_json=arguments.json,
    )
    try:
        return Supervisor(settings).run()
    except ClipFaceFusionError as error:
        print(f"clipfacefusion: {error}", file=sys.stderr)
        if isinstance(error, BundleError):
            return ExitStatus.BUNDLE_REFUSED
        return ExitStatus.OVER_MEMORY if isinstance(error, MemoryBudgetError) else ExitStatus.NOT_STARTED


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"got {text}, expected a whole number")
    return int(text)


def _bytes(text: str) -> int:
    found = re.fullmatch(r"([1-9]\d*)([KMGT]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"got {text}, expected a size such as 512M or 4G")
    return int(found[1]) * MEMORY_UNITS[found[2]]
