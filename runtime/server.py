"""Serves a bundle: builds its model repository, starts tritonserver, and says ready only after a face came out of it.

Ready is proven by a canary request through the whole ensemble, because Triton calls a model ready whose process cannot answer.
It does not restart what dies: `Server.check` tells, and whoever runs it starts another one. `run` ends then, so that callers
whose request was lost hear of it at once instead of never. How the process is run: `runtime/tritonserver.py`.
"""

from __future__ import annotations

import argparse
import re
import signal
import tempfile
import time
import urllib.request
from pathlib import Path

from runtime.client import Client
from runtime.errors import ClipFaceFusionError, UnavailableError
from runtime.repository import build_repository
from runtime.request import GenerateRequest
from runtime.tritonserver import LOOPBACK, TritonProcess, unavailable_reason
from runtime.wire import LIVE_REQUESTS, STOPPING

__all__ = ["Server", "add_arguments", "run", "unavailable_reason"]

START_LIMIT_S = 600  # a large bundle is hashed and loaded by three processes
DRAIN_S = 30  # a stopping server waits this long for requests it has taken
POLL_S = 0.1
POLL_LIMIT_S = 5.0
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
CANARY = GenerateRequest(text="a face", age=30, seed=0, num_inference_steps=1)


class Server:
    """A running server of one bundle, ready when the constructor returns. A context manager.

    Owns a temporary folder (repository, and the log unless `log` names a file), the process and its shared memory; `close`
    gives all back after running requests have ended. `grpc_port` and `metrics_port` of 0 mean any free port; `host` is the
    address gRPC listens on, metrics stay on loopback. Not thread-safe; its `url` may be used from anywhere.

    Raises BundleError for a damaged bundle, and UnavailableError where serving is impossible or the server does not start.
    """

    def __init__(
        self,
        bundle: Path | str,
        host: str = LOOPBACK,
        grpc_port: int = 0,
        metrics_port: int = 0,
        log: Path | None = None,
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="clipfacefusion-")
        folder = Path(self._folder.name)
        self._repository = folder / "repository"
        self._process: TritonProcess | None = None
        try:
            self.bundle = build_repository(bundle, self._repository)
            log = (log or folder / "log").resolve()
            self._process = TritonProcess(self._repository, folder, log, host, grpc_port, metrics_port)
            self.url = self._process.url
            self.metrics_url = f"http://{LOOPBACK}:{self._process.metrics_port}/metrics"
            self._wait_until_ready(self._process)
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Raise UnavailableError, with what the log says, if the server or one of its model processes has died.

        It is then of no more use: close it and start another one.
        """
        if self._process is not None:
            self._process.check()

    def close(self) -> None:
        """Refuse new requests, let those taken end (at most `DRAIN_S`), then give everything back. Idempotent."""
        with self._folder:
            if self._process is not None:
                with self._process:
                    self._drain(self._process)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _drain(self, process: TritonProcess) -> None:
        """Wait until no request is live. Triton's own shutdown would refuse the calls between its models as well."""
        if process.problem() or not process.is_listening():
            return
        (self._repository / STOPPING).touch()
        deadline = time.monotonic() + DRAIN_S
        while self._live_requests() > 0 and time.monotonic() < deadline and process.problem() is None:
            time.sleep(POLL_S)

    def _live_requests(self) -> float:
        """The gauge's value; 0 when nobody tells it any more."""
        try:
            with _DIRECT.open(self.metrics_url, timeout=POLL_LIMIT_S) as answer:
                found = re.search(rf"^{LIVE_REQUESTS}\S* (\S+)$", answer.read().decode(), re.MULTILINE)
        except OSError:
            return 0
        return float(found[1]) if found else 0

    def _wait_until_ready(self, process: TritonProcess) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not process.is_listening():
            process.check()
            if time.monotonic() > deadline:
                raise UnavailableError(f"no answer after {START_LIMIT_S} s; the log says:\n{process.log_tail()}")
            time.sleep(POLL_S)
        with Client(self.url, timeout_s=START_LIMIT_S) as client:
            try:
                client(CANARY)
            except ClipFaceFusionError as error:
                raise UnavailableError(f"no face came out: {error}; the log says:\n{process.log_tail()}") from None
        process.watch_stubs()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `serve`."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of the bundle to serve")
    parser.add_argument(
        "--host", default=LOOPBACK, help="address gRPC listens on (default %(default)s: this machine only)"
    )
    parser.add_argument("--grpc-port", type=int, default=8001, help="gRPC port, 0 = any free one (default %(default)s)")
    parser.add_argument(
        "--metrics-port",
        type=int,
        default=8002,
        help="Prometheus port, on loopback only, 0 = any free one (default %(default)s)",
    )
    parser.add_argument(
        "--log-file", type=Path, help="file that receives the server's log (default: kept only while it runs)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; the exit status. Raises as `Server` does, also when the server ends by itself."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both signals end it the same way
    try:
        with Server(
            arguments.bundle, arguments.host, arguments.grpc_port, arguments.metrics_port, arguments.log_file
        ) as server:
            print(
                f"ready: gRPC {server.url}, metrics {server.metrics_url}, bundle {server.bundle.hash[:12]}; Ctrl-C ends it",
                flush=True,
            )
            while True:
                server.check()
                time.sleep(POLL_S)
    except KeyboardInterrupt:
        return 0
