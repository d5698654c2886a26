"""Decodes photos and voices in a process that may die: `DecoderProcess` is called as `runtime/preprocess/decode.py` is.

A decoder that crashes, hangs or eats memory takes its own process with it and nothing else: the file that did it is refused, and
the next one meets a fresh process. What runs there is `runtime/decoding_worker.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import RequestError, UnavailableError
from runtime.frames import read_frame, write_frame

WORKER = ("-m", "runtime.decoding_worker")
DTYPES = ("uint8", "float32")
START_LIMIT_S = 60.0  # imports, on a machine that is busy
PIPE_BYTES = 2**20  # what Linux allows everybody; a photo then crosses in a few switches between the two


@dataclass(frozen=True)
class DecodeLimits:
    """What one file may cost.

    memory_mb  MB beyond those of the resting process. The largest pictures allowed took 360 MB (lossless WebP, 16 megapixels)
    cpu_s      whole seconds of processor time; they took 1.3 s, and a hostile JPEG of 60 KB asks for as much as it likes
    wall_s     seconds until a process that neither answers nor computes is given up
    """

    memory_mb: int = 512
    cpu_s: int = 3
    wall_s: float = 60.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"{name} is {value}; it must be above 0")


class DecoderProcess:
    """Decodes one file at a time in a process of its own; usable from many threads, a context manager.

    The process starts with `start`, or with the first file, and lives until it fails or `close` is called. A failure is held
    against the file only if the process had never decoded another one: else the file is tried once more in a fresh one, so that
    neither a neighbour's damage nor somebody's SIGKILL makes a good file a bad one.
    """

    def __init__(
        self,
        limits: DecodeLimits | None = None,
        log: Callable[[str], None] = lambda line: None,
        worker: Sequence[str] = WORKER,
    ) -> None:
        """`log` is told of every process that is lost."""
        self._limits = limits or DecodeLimits()
        self._command = [_interpreter(), "-P", *worker, str(self._limits.memory_mb * 2**20), str(self._limits.cpu_s)]
        self._log = log
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self.failures = 0  # processes lost so far

    def __call__(self, field: str, data: bytes) -> np.ndarray:
        """The array in the file of a request field.

        Raises RequestError naming the field for a file that cannot be used, UnavailableError if no process can be started.
        """
        with self._lock:
            while True:
                worker = self._started()
                is_fresh = worker.decoded == 0
                try:
                    return worker.decode(field, data)
                except _FailedError as failure:
                    self._give_up()
                    self.failures += 1
                    self._log(f"a decoding process was lost, {self.failures} so far: {field}: {failure.told}")
                    if is_fresh or not failure.may_be_the_worker_s:
                        raise RequestError(field, failure.told) from None

    def start(self) -> None:
        """Start the process now, so that nobody waits for it later. Raises UnavailableError."""
        with self._lock:
            self._started()

    def close(self) -> None:
        """End the process. Idempotent."""
        with self._lock:
            self._give_up()

    def __enter__(self) -> DecoderProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> _Worker:
        if self._worker is not None and not self._worker.is_alive():
            self._give_up()
        if self._worker is None:
            self._worker = _Worker(self._command, self._limits)
        return self._worker

    def _give_up(self) -> None:
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class _FailedError(Exception):
    """A worker that is of no more use. `told` is for the caller, should it be the file's fault."""

    def __init__(self, told: str, may_be_the_worker_s: bool) -> None:
        super().__init__(told)
        self.told = told
        self.may_be_the_worker_s = may_be_the_worker_s


class _Worker:
    """One process. Not thread-safe."""

    def __init__(self, command: Sequence[str], limits: DecodeLimits) -> None:
        self._limits = limits
        self._is_late = False
        self.decoded = 0
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pipesize=PIPE_BYTES,
                env=_environment(),
                cwd=os.sep,
            )
        except OSError:
            raise UnavailableError("no process to decode in can be started; try again later") from None
        try:
            self._exchange(None, START_LIMIT_S)
        except (OSError, EOFError, ValueError):
            self.close()
            raise UnavailableError("the process to decode in did not start; try again later") from None

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def decode(self, field: str, data: bytes) -> np.ndarray:
        """Raises RequestError for a file that was looked at and refused, _FailedError if the process cannot go on."""
        try:
            header, body = self._exchange((field, data), self._limits.wall_s)
            if "failed" in header:
                told = f"cannot be decoded within {self._limits.memory_mb} MB of memory"
                raise _FailedError(told, may_be_the_worker_s=True)
            self.decoded += 1
            if "refused" in header:
                raise RequestError(field, str(header["refused"]))
            return _array(header, body)
        except (OSError, EOFError, ValueError, KeyError, TypeError):
            raise self._failure() from None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # unsent bytes of a file that nobody will decode
                pipe.close()  # type: ignore[union-attr]

    def _exchange(self, file: tuple[str, bytes] | None, limit_s: float) -> tuple[dict[str, Any], bytearray]:
        """Send a file, if there is one, and wait for a message; the process is killed if that takes longer than `limit_s`."""
        watch = threading.Timer(limit_s, self._kill_late)
        watch.start()
        try:
            if file is not None:
                field, data = file
                write_frame(self._process.stdin, {"field": field}, data)  # type: ignore[arg-type]
            answer = read_frame(self._process.stdout)  # type: ignore[arg-type]
        finally:
            watch.cancel()
        if answer is None:
            raise EOFError("the process ended")
        return answer

    def _kill_late(self) -> None:
        self._is_late = True
        self._process.kill()

    def _failure(self) -> _FailedError:
        """What became of the process, which has ended or cannot be trusted any more."""
        self._process.kill()
        status = self._process.wait()
        if status == -signal.SIGXCPU:
            return _FailedError(
                f"cannot be decoded within {self._limits.cpu_s} s of computing", may_be_the_worker_s=False
            )
        if self._is_late:
            return _FailedError(f"cannot be decoded within {self._limits.wall_s:g} s", may_be_the_worker_s=False)
        return _FailedError("crashed the decoder; is the file damaged?", may_be_the_worker_s=True)


def _array(header: dict[str, Any], body: bytearray) -> np.ndarray:
    """The array of an answer. ValueError, KeyError or TypeError for what is none: a decoder that was taken over writes anything."""
    dtype, shape = header["dtype"], header["shape"]
    if dtype not in DTYPES or math.prod(shape) * np.dtype(dtype).itemsize != len(body):
        raise ValueError(f"an array of type {dtype} and shape {shape} in {len(body)} bytes")
    return np.frombuffer(body, dtype).reshape(shape)


def _interpreter() -> str:
    """This Python as a program. Inside Triton it is embedded in another one, which may not know it."""
    return sys.executable or str(Path(sys.base_prefix, "bin", f"python{sys.version_info[0]}.{sys.version_info[1]}"))


def _environment() -> dict[str, str]:
    """Enough to find the same modules and shared libraries; nothing else that this process knows."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUTF8": "1",
    }
