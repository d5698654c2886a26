"""A server of one bundle: its model repository, one tritonserver, and the face that proves it before anybody is told "ready".

What dies is not restarted here: `problem` and `progress` tell how it fares, `runtime/serving/health.py` judges that, and
`python -m runtime serve` (`runtime/serving/supervisor.py`) acts on it. How the process is run: `runtime/serving/tritonserver.py`.
"""

from __future__ import annotations

import re
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from runtime.bundle import Bundle
from runtime.errors import UnavailableError
from runtime.serving.canary import Canary
from runtime.serving.repository import build_repository
from runtime.serving.tritonserver import LOOPBACK, TritonProcess
from runtime.wire import LIVE_REQUESTS, STEP_SECONDS, STOPPING

START_LIMIT_S = 600  # a large bundle is hashed and loaded by several processes
DRAIN_S = 30.0
POLL_S = 0.1
READ_LIMIT_S = 1.0
Build = Callable[[Path | str, Path], Bundle]  # as `build_repository`, whose other arguments are settings
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy


class Server:
    """A running server of one bundle, ready when the constructor returns. A context manager.

    Owns a temporary folder (repository, and the log unless `log` names a file), the process and its shared memory; `close`
    gives all back after running requests have ended. `grpc_port` and `metrics_port` of 0 mean any free one; `host` is the
    address gRPC listens on, metrics stay on loopback. `on_wait` is called several times a second wherever a method waits, and
    ends the wait by raising. `build` writes the model repository. Not thread-safe; its `url` may be used from anywhere.

    Raises BundleError for a damaged bundle, and UnavailableError where serving is impossible or the server does not start.
    """

    def __init__(
        self,
        bundle: Path | str,
        host: str = LOOPBACK,
        grpc_port: int = 0,
        metrics_port: int = 0,
        log: Path | None = None,
        on_wait: Callable[[], None] = lambda: None,
        build: Build = build_repository,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="clipfacefusion-")
        folder = Path(self._folder.name)
        self._repository = folder / "repository"
        self._log = (log or folder / "log").resolve()
        self._on_wait = on_wait
        self._process: TritonProcess | None = None
        self._address = host, grpc_port, metrics_port
        try:
            self.bundle = build(bundle, self._repository)
            self._start()
        except OSError as error:  # a disk is full
            self.kill()
            raise UnavailableError(f"the model repository cannot be written: {error}") from error
        except BaseException:
            self.kill()
            raise

    def restart(self) -> None:
        """Kill what is left and start again at the same ports. Raises UnavailableError if it does not start; try again then."""
        self._kill_process()
        try:
            self._start()
        except UnavailableError:
            self._kill_process()
            raise

    def problem(self) -> str | None:
        """Which process has died, tritonserver or a model's, or None."""
        return self._process.problem() if self._process else None

    def progress(self) -> float | None:
        """How many UNet calls and requests between models have ended well so far; None when nobody tells it."""
        return self._metric(STEP_SECONDS + "_count", "nv_inference_request_success")

    def explain(self) -> str:
        """What the log says about the last failure."""
        return self._process.log_tail() if self._process else ""

    def drain(self, limit_s: float) -> bool:
        """Refuse new requests and wait until those taken are answered; False if some are not, after `limit_s` or a death."""
        process = self._process
        if process is None or process.problem() or not process.is_listening():
            return False
        (self._repository / STOPPING).touch()
        # Triton's own shutdown would refuse the calls between its models as well, so it comes when nothing is live any more.
        deadline = time.monotonic() + limit_s
        while self._metric(LIVE_REQUESTS) != 0:
            if process.problem() or time.monotonic() > deadline:
                return False
            self._wait()
        return True

    def close(self, drain_s: float = DRAIN_S) -> None:
        """Refuse new requests, let those taken end (at most `drain_s`), then give everything back. Idempotent."""
        try:
            if self.drain(drain_s) and self._process:
                self._process.close()
        finally:
            self.kill()

    def kill(self) -> None:
        """Give everything back now; requests in flight end with their connection. Idempotent."""
        with self._folder:
            self._kill_process()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self) -> None:
        """Run tritonserver and wait for a face."""
        try:
            folder = Path(tempfile.mkdtemp(dir=self._folder.name))
            process = TritonProcess(self._repository, folder, self._log, *self._address)
        except OSError as error:  # no folder for the log, or none that may be written to
            raise UnavailableError(f"tritonserver cannot be started: {error}") from error
        self._process = process
        self._address = self._address[0], process.grpc_port, process.metrics_port  # the same ones after a restart
        self.url = process.url
        self.metrics_url = f"http://{LOOPBACK}:{process.metrics_port}/metrics"
        deadline = time.monotonic() + START_LIMIT_S
        while not process.is_listening():
            process.check()
            if time.monotonic() > deadline:
                raise UnavailableError(f"no answer after {START_LIMIT_S} s; the log says:\n{process.log_tail()}")
            self._wait()
        process.watch_stubs()
        canary = Canary(self.url, START_LIMIT_S)
        while not canary.has_landed:
            process.check()
            self._wait()
        if canary.error:
            raise UnavailableError(f"no face came out: {canary.error}; the log says:\n{process.log_tail()}")
        self.first_face_s = canary.flight_s

    def _kill_process(self) -> None:
        if self._process is not None:
            self._process.kill()

    def _wait(self) -> None:
        self._on_wait()
        time.sleep(POLL_S)

    def _metric(self, *names: str) -> float | None:
        """The sum over metrics and their labels; None when nobody tells one."""
        try:
            with _DIRECT.open(self.metrics_url, timeout=READ_LIMIT_S) as answer:
                found = re.findall(rf"^(?:{'|'.join(names)})(?:{{.*}})? (\S+)$", answer.read().decode(), re.MULTILINE)
        except OSError:
            return None
        return sum(map(float, found)) if found else None
