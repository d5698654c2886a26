"""Faults, and what callers see of them: a served bundle is broken in one way after the other, under load and idle.

One `cycle` ends a process, keeps the ledger of every request that was in flight, waits until the service answers again, and looks
for what was left behind. `Ledger` and `Cycle` are facts; what they must be is for tests (`tests/serving/test_faults.py`) and soak runs
to say.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from runtime.client import Client
from runtime.errors import ClipFaceFusionError
from runtime.request import GenerateRequest, GenerateResult
from runtime.retry import Retry

TRITONSERVER = "tritonserver"
MODELS = ("preprocess", "condition", "ddim", "sampler", "clipfacefusion_stream")
POLL_S = 0.02
START_LIMIT_S = 300.0
ANSWER_LIMIT_S = 120.0  # far beyond what is promised, so that a machine under load does not fail; a lost request does
PROBE = GenerateRequest(text="a smiling old man", age=72, seed=7, num_inference_steps=2)
LONG = GenerateRequest(age=40, seed=1, num_inference_steps=1000)
SHORT = GenerateRequest(text="a sad boy", age=9, seed=2, num_inference_steps=1)
OK = "OK"
CODED = {OK, "UNAVAILABLE", "INTERNAL"}  # a caller that was cut off may be told: not now; or: our fault


@dataclass(frozen=True)
class Fault:
    """A signal to one process: of a model, or tritonserver itself; while requests are in flight or not."""

    victim: str
    under_load: bool
    number: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        return f"{self.number.name} {self.victim} {'under load' if self.under_load else 'idle'}"


FAULTS = tuple(Fault(victim, under_load) for victim in (*MODELS, TRITONSERVER) for under_load in (False, True))


Generate = Callable[[GenerateRequest], GenerateResult]


def streamed(client: Client) -> Generate:
    """The client's streaming call, as one that gives the last answer only."""

    def generate(request: GenerateRequest) -> GenerateResult:
        *_, last = client.stream(request)
        if not isinstance(last, GenerateResult):
            raise TypeError(f"the stream ended with {type(last).__name__}")
        return last

    return generate


class Service:
    """A `serve` command in a process of its own, as an operator runs it. A context manager.

    `url`, `metrics_url` and `health_url` are what it printed; `prefix` is a command that runs it, in the same process. The end of the
    context terminates it; its output is kept.
    """

    def __init__(self, bundle: Path, *flags: str, prefix: Sequence[str] = ()) -> None:
        ports = ("--grpc-port", "0", "--metrics-port", "0", "--health-port", "0")
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "runtime", "serve", str(bundle), "--json", *ports, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        self.events: list[dict[str, Any]] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_events, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def wait_until_ready(self, restarts: int = 0) -> Service:
        """Wait for the end of the start that follows so many restarts. Raises RuntimeError if the command ends instead."""
        deadline = time.monotonic() + START_LIMIT_S
        while len(ready := [event for event in self.events if event["event"] == "ready"]) <= restarts:
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise RuntimeError(f"not ready: status {self.process.poll()}, {self.events}, {self.error_text()}")
            time.sleep(POLL_S)
        self.url, self.metrics_url, self.health_url = (ready[-1][name] for name in ("grpc", "metrics", "health"))
        return self

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body of the answer to a probe."""
        try:
            with urllib.request.urlopen(self.health_url + path) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def is_ready(self) -> bool:
        """What it tells whoever routes requests."""
        return self.ask("/ready")[0] == 200

    def processes(self, victim: str) -> list[int]:
        """Processes that run a model, or tritonserver itself."""
        text = "bin/tritonserver" if victim == TRITONSERVER else f"/{victim}/1/model.py"
        return [pid for pid, line in self._ours() if text in line]

    def kill(self, victim: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Send a signal to one process that runs a model, or to tritonserver itself; which one it was."""
        pid = self.processes(victim)[0]
        os.kill(pid, number)
        return pid

    def left_behind(self) -> list[str]:
        """Shared memory, processes and zombies of a server that has ended; with one running, what is not part of it."""
        servers = set(self.processes(TRITONSERVER))
        living = {pid for pid, _ in self._ours()}
        zombies = [f"zombie {pid}" for pid, parent in _zombies() if parent == self.pid or parent in living]
        if servers:
            return zombies
        regions = map(str, Path("/dev/shm").glob(f"clipfacefusion_{self.pid}_*"))
        return [*regions, *(f"process {pid}" for pid in living), *zombies]

    def regions(self) -> int:
        """How many shared-memory regions it has."""
        return len(list(Path("/dev/shm").glob(f"clipfacefusion_{self.pid}_*")))

    def error_text(self) -> str:
        """What it wrote to stderr so far; all of it once it has ended."""
        if self.process.poll() is not None:
            for reader in self._readers:
                reader.join(5)
        return "".join(self.errors)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(ANSWER_LIMIT_S)
        for reader in self._readers:
            reader.join(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()

    def _read_events(self) -> None:
        for line in self.process.stdout or ():
            self.events.append(json.loads(line))

    def _read_errors(self) -> None:
        for line in self.process.stderr or ():
            self.errors.append(line)

    def _ours(self) -> list[tuple[int, str]]:
        """Processes of the service's server, which have the shared memory's prefix on their command lines, with those."""
        found = []
        for command in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):  # ended meanwhile
                line = command.read_text()
                if f"clipfacefusion_{self.pid}_" in line:
                    found.append((int(command.parent.name), line))
        return found


class Ledger:
    """Every request that was sent, each ending in exactly one status: OK, or the code of what was raised. Thread-safe."""

    def __init__(self) -> None:
        self.sent = 0
        self.statuses: Counter[str] = Counter()
        self.texts: list[str] = []
        self.wrong_images = 0
        self.last_answer_s = 0.0  # time.monotonic() of the last ending
        self._lock = threading.Lock()

    def send(self, call: Generate, request: GenerateRequest, expected: np.ndarray | None = None) -> str:
        """Send one, wait for its end, and say which it was. What is no error of ours is one more status: a test will see it."""
        with self._lock:
            self.sent += 1
        status, text, is_wrong = OK, "", False
        try:
            image = call(request).image
            is_wrong = expected is not None and not np.array_equal(image, expected)
        except ClipFaceFusionError as error:
            status, text = error.code, str(error)
        except Exception as error:
            status, text = type(error).__name__, str(error)
        with self._lock:
            self.statuses[status] += 1
            self.wrong_images += is_wrong
            self.last_answer_s = time.monotonic()
            if text:
                self.texts.append(text)
        return status

    @property
    def is_complete(self) -> bool:
        """Whether every request has ended."""
        with self._lock:
            return sum(self.statuses.values()) == self.sent


@dataclass(frozen=True)
class Cycle:
    """What one fault did. Times are seconds after it."""

    fault: str
    ledger: Ledger = field(repr=False)
    statuses: dict[str, int]
    silence_s: float  # until the last request that was in flight had ended
    unready_s: float  # until /ready said no
    reason: str  # as it said
    was_live: bool  # what /live said meanwhile
    serving_s: float  # until a request gave the right face again
    left_behind: list[str]
    regions_gained: int


def cycle(service: Service, fault: Fault, restarts: int, expected: np.ndarray) -> Cycle:
    """Break a ready service that has been restarted `restarts` times, and wait until it is as before; `expected` answers PROBE.

    Raises RuntimeError if it does not come back.
    """
    regions = service.regions()
    ledger = Ledger()
    with _load(service, ledger) if fault.under_load else contextlib.nullcontext():
        service.kill(fault.victim, fault.number)
        start = time.monotonic()
        while service.is_ready():
            if time.monotonic() - start > START_LIMIT_S:
                raise RuntimeError(f"{fault}: still ready")
            time.sleep(POLL_S)
        unready_s = time.monotonic() - start
        reason, was_live = service.ask("/ready")[1]["reason"], service.ask("/live")[0] == 200
    silence_s = max(0.0, ledger.last_answer_s - start)
    service.wait_until_ready(restarts + 1)
    again = Ledger()
    with Client(service.url, ANSWER_LIMIT_S, Retry(tries=1)) as client:
        status = again.send(client, PROBE, expected)
    if status != OK or again.wrong_images:
        raise RuntimeError(f"{fault}: not as before, {status} {again.texts}")
    return Cycle(
        fault=str(fault),
        ledger=ledger,
        statuses=dict(ledger.statuses),
        silence_s=silence_s,
        unready_s=unready_s,
        reason=reason,
        was_live=was_live,
        serving_s=time.monotonic() - start,
        left_behind=service.left_behind(),
        regions_gained=service.regions() - regions,
    )


@contextlib.contextmanager
def _load(service: Service, ledger: Ledger) -> Iterator[None]:
    """A long request and a long stream, which are in the sampler, and two flows of short ones, which are everywhere."""
    with Client(service.url, ANSWER_LIMIT_S, Retry(tries=1)) as client:
        is_over = threading.Event()

        def flow() -> None:
            while not is_over.is_set() and ledger.send(client, SHORT) == OK:
                pass

        calls = (client, streamed(client))
        threads = [threading.Thread(target=ledger.send, args=(call, LONG), daemon=True) for call in calls]
        threads += [threading.Thread(target=flow, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        while ledger.statuses[OK] < 2 and any(thread.is_alive() for thread in threads):
            time.sleep(POLL_S)
        try:
            yield
        finally:
            is_over.set()
            for thread in threads:
                thread.join(ANSWER_LIMIT_S + START_LIMIT_S)


def _zombies() -> list[tuple[int, int]]:
    """Each with its parent."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = stat.read_text().rpartition(") ")[2].split()[:2]
            if state == "Z":
                found.append((int(stat.parent.name), int(parent)))
    return found
