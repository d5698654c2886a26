"""A decoding worker with planted decoders, for tests only: what a file says is what happens to the process that reads it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from runtime import decoding_worker
from runtime.preprocess.decode import DECODERS, decode_image


def planted(data: bytes) -> np.ndarray:
    what, _, argument = data.partition(b" ")
    if what == b"die":
        os.kill(os.getpid(), signal.Signals[argument.decode()])
    if what == b"allocate":
        return np.ones(int(argument) * 2**20, np.uint8).reshape(1, 1, -1)
    if what == b"print":
        os.write(1, b"a library's own words\n" * 1000)
        print("and Python's")
    if what == b"once":  # dies, unless it has died of this file before
        flag = Path(argument.decode())
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return decode_image(data) if data[:1] == b"\x89" else np.zeros((1, 1, 3), np.uint8)


if __name__ == "__main__":
    decoding_worker.DECODERS = {**DECODERS, "reference": planted}  # type: ignore[assignment]
    decoding_worker.main(int(sys.argv[1]), int(sys.argv[2]))
