"""The GPU through CUDA: which one it is, a stream, memory, kernels and graphs. The only file that knows cuda-python.

Every call of that library returns its error beside its result and raises nothing; here an error becomes an EngineError. Nothing in this
file has run on a GPU yet: it is held against a fake with the names of the real library.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from runtime.errors import EngineError

INSTALL = 'cuda-python or its compiler is not installed: pip install ".[gpu]"'


def gpu_target() -> str:
    """The compute capability of GPU 0, "sm89". EngineError where there is none, saying why."""
    cuda = _cuda()
    error, count = cuda.cudaGetDeviceCount()  # returns its error; the driver's own calls would raise without a driver
    if error != cuda.cudaError_t.cudaSuccess or not count:
        raise EngineError(f"CUDA says {getattr(error, 'name', error)}")
    attribute = cuda.cudaDeviceAttr
    major, minor = (
        _checked(cuda.cudaDeviceGetAttribute(which, 0), "cudaDeviceGetAttribute")
        for which in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
    )
    return f"sm{major}{minor}"


def gpu_name() -> str:
    """What NVIDIA calls GPU 0."""
    cuda = _cuda()
    name = _checked(cuda.cudaGetDeviceProperties(0), "cudaGetDeviceProperties").name
    return name.decode(errors="replace").rstrip("\0") if isinstance(name, bytes) else str(name)


class Stream:
    """A CUDA stream with its own memory, one buffer by name, its kernels and graphs. `close` frees all of it; idempotent.

    Copies are asynchronous: the arrays must stay alive until `wait`.
    """

    def __init__(self) -> None:
        self._cuda = _cuda()
        self._stream = _checked(
            self._cuda.cudaStreamCreateWithFlags(self._cuda.cudaStreamNonBlocking), "cudaStreamCreate"
        )
        self._buffers: dict[str, tuple[int, int]] = {}  # name -> address, bytes
        self._graphs: list[Any] = []
        self._modules: list[Any] = []

    @property
    def _driver(self) -> Any:
        return _cuda("driver")

    @property
    def handle(self) -> int:
        """What other libraries call this stream by."""
        return int(self._stream)

    def buffer(self, name: str, size: int) -> int:
        """The address of at least `size` bytes on the GPU, owned by this stream until it asks for more under that name, or closes."""
        address, held = self._buffers.get(name, (0, 0))
        if held < max(size, 1):
            self._free(name)
            address = int(_checked(self._cuda.cudaMalloc(max(size, 1)), f"cudaMalloc of {size} bytes"))
            self._buffers[name] = (address, max(size, 1))
        return address

    def upload(self, name: str, array: np.ndarray) -> int:
        """Copy a C-contiguous array to the buffer of that name; its address."""
        address = self.buffer(name, array.nbytes)
        self._copy(address, array.ctypes.data, array.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)
        return address

    def download(self, name: str, array: np.ndarray) -> None:
        """Copy the buffer of that name into a C-contiguous array, which holds it after `wait`."""
        address, _ = self._buffers[name]
        self._copy(array.ctypes.data, address, array.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def wait(self) -> None:
        """Until everything given to the stream is done; errors of earlier work arrive here."""
        _checked(self._cuda.cudaStreamSynchronize(self._stream), "cudaStreamSynchronize")

    def capture(self, work: Callable[[], bool]) -> Any | None:
        """What `work` gives to the stream, as a graph for `launch`; nothing of it is done now. None if it cannot be captured.

        The graph holds the addresses that the work used: their buffers must not grow afterwards.
        """
        cuda = self._cuda
        # Of this thread alone: other streams may allocate meanwhile.
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _checked(cuda.cudaStreamBeginCapture(self._stream, mode), "cudaStreamBeginCapture")
        accepted = work()
        # Ends it in any case; an error says that the work did what cannot be captured.
        error, graph = cuda.cudaStreamEndCapture(self._stream)
        if not accepted or error != cuda.cudaError_t.cudaSuccess:
            return None
        self._graphs.append(_checked(cuda.cudaGraphInstantiate(graph, 0), "cudaGraphInstantiate"))
        _checked(cuda.cudaGraphDestroy(graph), "cudaGraphDestroy")
        return self._graphs[-1]

    def launch(self, graph: Any) -> None:
        """Give all of a captured graph to the stream, in one call."""
        _checked(self._cuda.cudaGraphLaunch(graph, self._stream), "cudaGraphLaunch")

    def kernel(self, source: str, name: str, options: Sequence[str] = ()) -> Any:
        """A function of CUDA C source, compiled for this GPU, for `run`; it lives as long as this stream."""
        module = _checked(self._driver.cuModuleLoadData(_compiled(source, options)), "cuModuleLoadData")
        self._modules.append(module)
        return _checked(self._driver.cuModuleGetFunction(module, name.encode()), "cuModuleGetFunction")

    def run(
        self, kernel: Any, blocks: int, threads: int, addresses: Sequence[int], integers: Sequence[int] = ()
    ) -> None:
        """Give `blocks` times `threads` runs of a kernel to the stream; its parameters are pointers, then ints."""
        types = (ctypes.c_void_p,) * len(addresses) + (ctypes.c_int,) * len(integers)
        parameters = ((*addresses, *integers), types)
        answer = self._driver.cuLaunchKernel(kernel, blocks, 1, 1, threads, 1, 1, 0, self.handle, parameters, 0)
        _checked(answer, "cuLaunchKernel")

    def close(self) -> None:
        while self._modules:
            _checked(self._driver.cuModuleUnload(self._modules.pop()), "cuModuleUnload")
        while self._graphs:
            _checked(self._cuda.cudaGraphExecDestroy(self._graphs.pop()), "cudaGraphExecDestroy")
        for name in list(self._buffers):
            self._free(name)
        if self._stream is not None:
            _checked(self._cuda.cudaStreamDestroy(self._stream), "cudaStreamDestroy")
            self._stream = None

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        _checked(self._cuda.cudaMemcpyAsync(to, source, size, kind, self._stream), "cudaMemcpyAsync")

    def _free(self, name: str) -> None:
        if name in self._buffers:
            _checked(self._cuda.cudaFree(self._buffers.pop(name)[0]), "cudaFree")


def _compiled(source: str, options: Sequence[str]) -> bytes:
    """CUDA C source as machine code for GPU 0, by NVRTC. EngineError with the compiler's words."""
    nvrtc = _cuda("nvrtc")

    try:
        program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"kernel.cu", 0, [], []), "nvrtcCreateProgram")
    except RuntimeError:  # the bindings alone are installed, without the library
        raise EngineError(INSTALL) from None
    try:
        flags = [f"--gpu-architecture={gpu_target().replace('sm', 'sm_')}".encode(), *(o.encode() for o in options)]
        (error,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
        if error != 0:
            log = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program), "nvrtcGetProgramLogSize"))
            _checked(nvrtc.nvrtcGetProgramLog(program, log), "nvrtcGetProgramLog")
            raise EngineError(
                f"a kernel does not compile: {' '.join(log.decode(errors='replace').rstrip(chr(0)).split())}"
            )
        code = bytearray(_checked(nvrtc.nvrtcGetCUBINSize(program), "nvrtcGetCUBINSize"))
        _checked(nvrtc.nvrtcGetCUBIN(program, code), "nvrtcGetCUBIN")
        return bytes(code)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _cuda(part: str = "runtime") -> Any:
    try:
        return importlib.import_module(f"cuda.bindings.{part}")
    except ImportError:
        raise EngineError(INSTALL) from None


def _checked(answer: tuple[Any, ...], call: str) -> Any:
    """The result of a CUDA call, None for one without; EngineError naming the call if it failed. Success is 0 in every part of CUDA."""
    error, *values = answer
    if error != 0:
        raise EngineError(f"{call}: CUDA says {getattr(error, 'name', error)}")
    return values[0] if values else None
