"""One way of running a UNet in a process of its own, so that its threads and its memory are nobody else's.

`python -m benchmarks.engine_worker NETWORK CONTENDER THREADS` prints one JSON object when it is ready, then answers each line of
its input, a JSON object, with another:

    {"call": B}               one call with B rows, after one that is not timed → {"ms": …}
    {"call": B, "to": FILE}   the same, and its result goes to FILE (.npy)
    {"memory": true}          → {"peak_mb": …}, the most that the process has held
An answer {"error": …} says why there is none. `Worker` is the other end.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.network import Network
from runtime.engines.backends import BACKENDS, open_engine
from runtime.errors import ClipFaceFusionError, first_line

Call = Callable[[Mapping[str, np.ndarray]], np.ndarray]

TORCH = "torch eager channels_last"
TORCH_PLAIN = "torch eager"
TORCH_COMPILE = "torch.compile channels_last"
TORCH_BF16 = "torch bf16 autocast"
GEMM_FP32, GEMM_BF16 = "matrix product fp32", "matrix product bf16"
GEMM_SIZE = 2048  # a side: 17 GFLOP, 16 MB a matrix in FP32, so that arithmetic and not memory is what takes time
GEMM_GFLOP = 2 * GEMM_SIZE**3 / 1e9


class Worker:
    """A contender's process, starting; a context manager. All raise ClipFaceFusionError with the contender's own reason.

    Between its answers the process is stopped: threads of OpenMP and of ONNX Runtime go on spinning for a while after a call, and
    would take the processor from whoever has the next turn.
    """

    def __init__(self, network: Network, contender: str, threads: int) -> None:
        self.contender = contender
        command = [sys.executable, "-m", "benchmarks.engine_worker", network.to_json(), contender, str(threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ready(self) -> str:
        """Wait, once, until it can be called; what computes, in its library's words."""
        return str(self._answer()["provider"])

    def call(self, batch: int, to: Path | None = None) -> dict[str, float]:
        """One call of `batch` rows: {"call": its ms}, measured inside the process. `to` receives the result."""
        asked = {"call": batch} if to is None else {"call": batch, "to": str(to)}
        return {"call": self._ask(asked)["ms"]}

    def peak_mb(self) -> float:
        """The most memory that the process has held so far."""
        return float(self._ask({"memory": True})["peak_mb"])

    def close(self) -> None:
        """End the process. Idempotent."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._signal("SIGCONT")
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._signal("SIGCONT")
        try:
            print(json.dumps(asked), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise ClipFaceFusionError(f"{self.contender}: its process has ended") from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ClipFaceFusionError(f"{self.contender}: its process ended with status {self._process.wait()}")
        self._signal("SIGSTOP")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ClipFaceFusionError(f"{self.contender}: {answer['error']}")
        return answer

    def _signal(self, name: str) -> None:
        """Stop the process or let it go on, where the system can."""
        if hasattr(signal, name) and self._process.poll() is None:
            self._process.send_signal(getattr(signal, name))


def contender_call(network: Network, contender: str, threads: int) -> tuple[Call, str]:
    """What runs the network, and who that says it is. Raises what its library raises."""
    if contender in BACKENDS:
        engine = open_engine(contender, network.onnx.read_bytes(), network.spec, threads)
        output = network.spec.outputs[0].name
        return lambda inputs: engine(inputs)[output], engine.provider
    if contender in (GEMM_FP32, GEMM_BF16):
        return _gemm(contender, threads), "torch"
    return _torch_call(network, contender, threads), "torch"


def peak_mb() -> float:
    """Most resident memory of this process, in MB. (getrusage would count what the parent held before the program was loaded.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def _torch_call(network: Network, contender: str, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    denoise = network.torch()
    module: Any = denoise.__self__  # type: ignore[attr-defined]
    layout = torch.contiguous_format if contender == TORCH_PLAIN else torch.channels_last
    module.to(memory_format=layout)
    if contender == TORCH_COMPILE:
        denoise = torch.compile(denoise, dynamic=False)
    order = [tensor.name for tensor in network.spec.inputs]

    @torch.inference_mode()
    def call(inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        tensors = [torch.from_numpy(inputs[name]) for name in order]
        tensors[0] = tensors[0].contiguous(memory_format=layout)
        with torch.autocast("cpu", torch.bfloat16, enabled=contender == TORCH_BF16):
            return denoise(*tensors).float().contiguous().numpy()

    return call


def _gemm(contender: str, threads: int) -> Call:
    import torch

    torch.set_num_threads(threads)
    dtype = torch.bfloat16 if contender == GEMM_BF16 else torch.float32
    left, right, out = (torch.randn(GEMM_SIZE, GEMM_SIZE).to(dtype) for _ in range(3))

    def call(_: Mapping[str, np.ndarray]) -> np.ndarray:
        torch.mm(left, right, out=out)
        return out[:1, :1].float().numpy()

    return call


def _answers(network: Network, call: Call, asked: Mapping[str, Any]) -> dict[str, Any]:
    if "memory" in asked:
        return {"peak_mb": round(peak_mb(), 1)}
    inputs = network.inputs(asked["call"])
    call(inputs)  # others have had their turn since: caches and clock are theirs
    start = time.perf_counter()
    result = call(inputs)
    ms = (time.perf_counter() - start) * 1e3
    if "to" in asked:
        np.save(asked["to"], result)
    return {"ms": round(ms, 4)}


def main(network: Network, contender: str, threads: int) -> None:
    """Serve until the input ends. Whatever libraries print goes to standard error."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    say = partial(print, file=channel, flush=True)
    try:
        call, provider = contender_call(network, contender, threads)
        say(json.dumps({"provider": provider}))
        for line in sys.stdin:
            say(json.dumps(_answers(network, call, json.loads(line))))
    except Exception as error:
        say(json.dumps({"error": f"{type(error).__name__}: {first_line(error)}"}))


if __name__ == "__main__":
    main(Network.from_json(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
