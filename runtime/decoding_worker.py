"""The process in which `runtime/decoding.py` decodes what strangers send: `python -m runtime.decoding_worker MEMORY_BYTES CPU_S`.

It can be lost: it holds no engine, no other request and no secret, and has limits of memory and processor time, beyond which
allocations fail and the kernel ends it. It ends with its standard input. Messages (`runtime/frames.py`):

    in    {"field": NAME}, the file's bytes
    out   {"dtype": …, "shape": …}, the array's bytes | {"refused": why, in words for the caller} | {"failed": "memory"}
"""

from __future__ import annotations

import math
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from runtime.errors import RequestError
from runtime.frames import read_frame, write_frame
from runtime.preprocess.decode import DECODERS


def main(memory_bytes: int, cpu_s: int) -> None:
    """Answer one file after the other. `memory_bytes` is beyond what the process holds at rest, `cpu_s` for each file."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not print into a message
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C in the terminal is for the process that started this one
    _confine(memory_bytes)
    write_frame(answers, {"ready": True})
    while (frame := read_frame(sys.stdin.buffer)) is not None:
        header, data = frame
        _allow_cpu(cpu_s)
        write_frame(answers, *_answer(header["field"], bytes(data)))


def _answer(field: str, data: bytes) -> tuple[dict[str, Any], memoryview]:
    try:
        array = np.ascontiguousarray(DECODERS[field](data))
        return {"dtype": array.dtype.name, "shape": array.shape}, array.reshape(-1).view(np.uint8).data
    except RequestError as error:
        return {"refused": error.message}, memoryview(b"")
    except MemoryError:
        return {"failed": "memory"}, memoryview(b"")


def _confine(memory_bytes: int) -> None:
    """No core file with somebody's photo in it, and no more memory than that beyond what is mapped now."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    statm = Path("/proc/self/statm")
    if statm.exists():  # without it there is no way to know what is mapped; other systems do not hold this limit anyway
        limit = int(statm.read_text().split()[0]) * resource.getpagesize() + memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _allow_cpu(seconds: int) -> None:
    """From now on the kernel ends this process after so many seconds of processor time, to the next whole second."""
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time()) + seconds, hard))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
