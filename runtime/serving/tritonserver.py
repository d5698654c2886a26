"""The tritonserver process: how it starts, what is wrong with it, and how it ends.

Where its binary is: `runtime/serving/installation.py`. This module knows model repositories as folders; it knows no bundle and no model.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from runtime.errors import UnavailableError
from runtime.serving.installation import Installation, find
from runtime.serving.lifeline import Lifeline
from runtime.wire import MAX_LIVE_REQUESTS, TENANT, TRACEPARENT

LOOPBACK = "127.0.0.1"
EXIT_TIMEOUT_S = 5  # tritonserver's own drain: requests still running then are cut off
KILL_MARGIN_S = 5  # beyond that, for what should be immediate
# Unloading takes a second per model process and saves nothing, so it is cut short once this line says that every request is
# answered; the linger leaves time for the last answers to reach their callers.
DRAINED = b"All models are stopped, unloading models"
LINGER_S = 1.0
# Whoever may change models, files, shared memory or logs of the server could run code in it.
RESTRICTED_PROTOCOLS = "shared-memory,model-repository,model-config,logging,trace,statistics"
FORWARDED_HEADERS = (TRACEPARENT, TENANT)  # gRPC metadata that models see as parameters of a request
NO_GPU = (
    "CudaDriverHelper has not been initialized",
    "CUDA driver version is insufficient",
)  # errors that are none on a CPU
SHARED_MEMORY = Path("/dev/shm")
# Threads of each Python model's process in tritonserver. A call to another model holds one until it is answered, and a request waits
# in such a call; the rest are for what must not wait behind: answers, and calls that cancel.
CALLS_AT_ONCE = MAX_LIVE_REQUESTS + 8


class TritonProcess:
    """One running tritonserver over one model repository. A context manager; owns the process, its stubs and its shared memory.

    `folder` is an empty folder of the caller's for the backend directory, and `log` the file that receives all output. A port of 0
    means any free one. `url` is the gRPC address; nothing answers there until `is_listening`. All of it ends with this process,
    even if that is killed (`runtime/serving/lifeline.py`). Not thread-safe.
    """

    def __init__(
        self, repository: Path, folder: Path, log: Path, host: str = LOOPBACK, grpc_port: int = 0, metrics_port: int = 0
    ) -> None:
        installation = find()
        self.log = log
        self.grpc_port, self.metrics_port = _ports((host, grpc_port), (LOOPBACK, metrics_port))
        self.url = f"{LOOPBACK if host == '0.0.0.0' else host}:{self.grpc_port}"
        self.shared_memory_prefix = f"clipfacefusion_{os.getpid()}_{_start_of(os.getpid())}_{secrets.token_hex(4)}_"
        _remove_stale_regions()
        command = [
            str(installation.binary),
            f"--model-repository={repository}",
            f"--backend-directory={_backend_directory(installation, folder)}",
            *_options(host, self.grpc_port, self.metrics_port, self.shared_memory_prefix),
        ]
        self._stubs: dict[int, str] = {}
        self._is_closed = False
        with log.open("ab") as output:
            self._log_start = output.tell()
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(installation, folder),
                cwd=folder,
                start_new_session=True,  # a Ctrl-C in the terminal reaches us, and we end the server; the group can be killed
            )
        self._lifeline = Lifeline(self._process.pid, self.shared_memory_prefix)

    def __enter__(self) -> TritonProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_listening(self) -> bool:
        """Whether something accepts connections at `url`; tritonserver does so once its models are loaded."""
        host, _, port = self.url.rpartition(":")
        with socket.socket() as probe:
            return probe.connect_ex((host, int(port))) == 0

    def watch_stubs(self) -> None:
        """From now on the death of a stub is a `problem`: Triton starts no new one, goes on saying ready, and never answers
        the requests that it held."""
        found = {pid: _model_of(pid) for pid in _members(self._process.pid)}
        self._stubs = {pid: model for pid, model in found.items() if model}

    def problem(self) -> str | None:
        """What has died, or None."""
        status = self._process.poll()
        if status is not None:
            return f"tritonserver ended with status {status}"
        dead = sorted({model for pid, model in self._stubs.items() if not _is_member(pid, self._process.pid)})
        return f"the process of model {' and '.join(dead)} died" if dead else None

    def check(self) -> None:
        """Raise UnavailableError with what the log says if there is a `problem`."""
        problem = self.problem()
        if problem:
            raise UnavailableError(f"{problem}; the log says:\n{self.log_tail()}")

    def log_tail(self, lines: int = 12) -> str:
        """The last `lines` errors this process logged, each once and without its traceback; its last lines if it has no errors."""
        with self.log.open("rb") as file:
            file.seek(max(self._log_start, self.log.stat().st_size - 262_144))
            every = file.read().decode(errors="replace").splitlines()
        errors = (
            re.match(r'(?:E\d{4} .*?\] "?|error: )(.*)', line)
            for line in every
            if not any(words in line for words in NO_GPU)
        )
        shown = list(dict.fromkeys(error[1].partition("\\n\\nAt:")[0] for error in errors if error))
        return "\n".join((shown or every)[-lines:])

    def close(self) -> None:
        """Let running requests end (at most `EXIT_TIMEOUT_S`), then `kill`. Idempotent.

        With a `problem`, nothing is waited for: what the dead ones held is lost, and Triton would wait for it in vain.
        """
        try:
            if not self._is_closed and self.problem() is None:
                log_start = self.log.stat().st_size
                self._process.send_signal(signal.SIGTERM)
                self._wait_for_drain(log_start)
        finally:
            self.kill()

    def kill(self) -> None:
        """End the process, its stubs and its shared memory now. Every caller's connection closes, which is an answer. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            _kill_group(self._process)
        finally:
            for region in SHARED_MEMORY.glob(self.shared_memory_prefix + "*"):
                region.unlink(missing_ok=True)
            self._lifeline.cut()

    def _wait_for_drain(self, log_start: int) -> None:
        deadline = time.monotonic() + EXIT_TIMEOUT_S + KILL_MARGIN_S
        with self.log.open("rb") as log:
            while time.monotonic() < deadline and self._process.poll() is None:
                log.seek(log_start)
                if DRAINED in log.read():
                    time.sleep(LINGER_S)
                    return
                time.sleep(0.05)


def _backend_directory(installation: Installation, folder: Path) -> Path:
    """A backend directory whose Python backend has the stub of the running Python version."""
    python = folder / "backends" / "python"
    python.mkdir(parents=True)
    for source in (
        installation.backend / "libtriton_python.so",
        installation.backend / "triton_python_backend_utils.py",
        installation.stub,
    ):
        (python / source.name).symlink_to(source)
    return python.parent


def _options(host: str, grpc_port: int, metrics_port: int, shared_memory_prefix: str) -> list[str]:
    """Everything on the launch line that is not a path: closed by default, loopback by default."""
    return [
        "--disable-auto-complete-config",
        "--exit-on-error=true",
        "--strict-readiness=true",
        "--model-control-mode=none",
        "--allow-http=false",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        f"--grpc-address={host}",
        f"--grpc-port={grpc_port}",
        f"--metrics-address={LOOPBACK}",
        f"--metrics-port={metrics_port}",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--grpc-restricted-protocol={RESTRICTED_PROTOCOLS}:admin-key={secrets.token_urlsafe(24)}",
        f"--grpc-header-forward-pattern=^({'|'.join(FORWARDED_HEADERS)})$",
        "--grpc-keepalive-time=20000",
        "--grpc-infer-allocation-pool-size=16",
        f"--backend-config=python,thread-pool-size={CALLS_AT_ONCE}",
        "--backend-config=python,stub-timeout-seconds=120",  # a stub verifies the bundle and loads engines before it reports
        f"--backend-config=python,shm-region-prefix-name={shared_memory_prefix}",
    ]


def _environment(installation: Installation, folder: Path) -> dict[str, str]:
    """The environment of tritonserver and its stubs: ours, with shared libraries and Python pinned to this interpreter's.

    A stub runs Python isolated, so PYTHONPATH does not reach it; what does is the first `python3` on PATH and the virtual
    environment around it. Ours consists of a configuration, a link and one .pth file that repeats this process's `sys.path`.
    """
    home = folder / "python"
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    packages = home / "lib" / version / "site-packages"
    packages.mkdir(parents=True)
    (home / "bin").mkdir()
    (home / "bin" / "python3").symlink_to(Path(sys.base_prefix, "bin", version))
    (home / "pyvenv.cfg").write_text(f"home = {sys.base_prefix}/bin\ninclude-system-site-packages = false\n")
    ours = str(Path(__file__).resolve().parents[2])
    (packages / "clipfacefusion.pth").write_text("\n".join([ours, *(entry for entry in sys.path if entry)]) + "\n")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": _joined(*map(str, installation.libraries), os.environ.get("LD_LIBRARY_PATH")),
        "PATH": _joined(str(home / "bin"), os.environ.get("PATH")),
        "OPENBLAS_NUM_THREADS": "1",  # numpy only moves tensors in the stubs; engines have threads of their own
    }


def _joined(*folders: str | None) -> str:
    return ":".join(filter(None, folders))


def _ports(*wanted: tuple[str, int]) -> tuple[int, ...]:
    """The wanted ports, each of a host, zeros replaced by free ones. All are held until all are known, so that they differ."""
    held = []
    try:
        for host, port in wanted:
            held.append(socket.socket())
            held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                held[-1].bind((host, port))
            except (OSError, OverflowError) as error:
                raise UnavailableError(
                    f"port {port} of {host}: {error}; choose another, or 0 for any free one"
                ) from None
        return tuple(each.getsockname()[1] for each in held)
    finally:
        for each in held:
            each.close()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever is left of the server's process group: stubs outlive a killed server by some seconds.

    Those that were given to this process as orphans (it is the first of a container, or `adopt_orphans` was called) are waited
    for: they would stay as zombies.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + KILL_MARGIN_S
    while (_members(process.pid) or _has_children(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _has_children(group: int) -> bool:
    """Whether processes of the group are children of this one that have not ended; those that have are waited for."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass
        return True
    return False


def _remove_stale_regions() -> None:
    """Give back shared memory whose maker, named in the region's name by id and start, was killed together with its lifeline.

    The id alone says too little: a restarted container's first process is number 1 again, over the shared memory of the one before.
    """
    for region in SHARED_MEMORY.glob("clipfacefusion_*"):
        maker = re.match(r"clipfacefusion_(\d+)_(\d+)_[0-9a-f]{8}_", region.name)
        if maker and _start_of(int(maker[1])) != int(maker[2]):
            with contextlib.suppress(OSError):  # another user's, or gone meanwhile
                region.unlink()


def _start_of(pid: int) -> int | None:
    """When a process started, in clock ticks since the machine did; None if there is none."""
    try:
        return int(_status(pid)[19])  # starttime, the 22nd with id and name
    except OSError:
        return None


def _members(group: int) -> list[int]:
    """The living processes of a process group."""
    pids = (int(folder.name) for folder in Path("/proc").glob("[0-9]*"))
    return [pid for pid in pids if _is_member(pid, group)]


def _is_member(pid: int, group: int) -> bool:
    """Whether a process lives and belongs to a group. A zombie does not live; it stays until whoever adopted it looks."""
    try:
        state, _, its_group = _status(pid)[:3]
    except OSError:
        return False
    return int(its_group) == group and state != "Z"


def _status(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third on: those before are the id, and a name that may hold any bytes."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(") ")[2].split()


def _model_of(pid: int) -> str | None:
    """The model a stub runs, as its command line says: …/MODEL/1/model.py. None for any other process, such as a stub's child."""
    with contextlib.suppress(OSError):
        found = re.search(r"([^/]+)/1/model\.py", Path(f"/proc/{pid}/cmdline").read_text())
        return found[1] if found else None
    return None
