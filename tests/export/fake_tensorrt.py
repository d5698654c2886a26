"""A fake of TensorRT 11.4's Python API and of cuda-python's, for machines that can have neither. It compiles nothing and proves no execution.

It has the names that our code may use, with the behaviour of the documentation: `None` instead of exceptions, attributes that
cannot be invented, no precision flags. A "plan" is a JSON record of what the library was told, so that a test can read it back. The names
themselves are held against the real bindings of TensorRT-RTX, which share them.
"""

# ruff: noqa: N801, N802, N815  # CUDA's own names

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import onnx

__version__ = "11.4.0.106"


can_be_captured = True
compute: Callable[[dict[str, np.ndarray], list[str]], dict[str, np.ndarray]] | None = None  # what every plan computes


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def log(self, severity: ILogger.Severity, message: str) -> None:
        raise NotImplementedError


class DataType(enum.Enum):
    FLOAT, HALF, INT64 = "float32", "float16", "int64"


def nptype(data_type: DataType) -> type:
    return np.dtype(data_type.value).type


class ITensor:
    def __init__(self, value: onnx.ValueInfoProto) -> None:
        tensor = value.type.tensor_type
        self.name = value.name
        self.dtype = DataType(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name)
        self.shape = tuple(-1 if d.dim_param else d.dim_value for d in tensor.shape.dim)


class INetworkDefinition:
    __slots__ = ("_inputs", "_outputs")

    def __init__(self) -> None:
        self._inputs: list[ITensor] = []
        self._outputs: list[ITensor] = []

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


class ParserError:
    def desc(self) -> str:
        return "the fake reads ONNX files only"


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self.num_errors = network, 0

    def parse(self, model: bytes) -> bool:
        try:
            graph = onnx.load_model_from_string(model).graph
        except Exception:
            self.num_errors = 1
            return False
        self._network._inputs += map(ITensor, graph.input)
        self._network._outputs += map(ITensor, graph.output)
        return True

    def get_error(self, index: int) -> ParserError:
        return ParserError()


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list] = {}

    def set_shape(self, input: str, min: tuple, opt: tuple, max: tuple) -> None:
        self._shapes[input] = [list(min), list(opt), list(max)]


class ITimingCache:
    def __init__(self, stored: bytes) -> None:
        self._stored = stored

    def serialize(self) -> bytes:
        return self._stored + b"measured;"


class IBuilderConfig:
    """Has no compute capabilities: those are TensorRT-RTX's. Inventing an attribute fails, as with the real bindings."""

    __slots__ = ("_cache", "_profiles")

    def __init__(self) -> None:
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._cache


class Builder:
    builds = True  # what a test turns off

    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def create_network(self, flags: int) -> INetworkDefinition:
        assert flags == 0, "11.x: strongly typed and explicit batch, always"
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> bytes | None:
        if not self.builds:
            self._logger.log(ILogger.Severity.ERROR, "no tactic\nfor this layer")
            return None
        tensors = [[t.name, t.dtype.value, t.shape] for t in (*network._inputs, *network._outputs)]
        return json.dumps({"tensors": tensors, "profiles": [profile._shapes for profile in config._profiles]}).encode()


class CudaGraphStrategy(enum.Enum):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


strategies: list[CudaGraphStrategy | None] = []  # of all contexts so far


class ICudaEngine:
    def __init__(self, plan: bytes) -> None:
        self._plan = json.loads(plan)

    num_io_tensors = property(lambda self: len(self._plan["tensors"]))

    def get_tensor_name(self, index: int) -> str:
        return self._plan["tensors"][index][0]

    def _tensor(self, name: str) -> list:
        return next(tensor for tensor in self._plan["tensors"] if tensor[0] == name)

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType(self._tensor(name)[1])

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensor(name)[2])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self._plan["profiles"][profile_index][name]]

    def create_runtime_config(self) -> SimpleNamespace:
        return SimpleNamespace(cuda_graph_strategy=CudaGraphStrategy.DISABLED)

    def create_execution_context(self, runtime_config: SimpleNamespace | None = None) -> IExecutionContext:
        context = IExecutionContext(self)
        strategies.append(runtime_config and runtime_config.cuda_graph_strategy)
        return context


class IExecutionContext:
    """Runs `compute` on the arrays behind the addresses it was given, as long as they are in `Cuda`'s memory."""

    def __init__(self, engine: ICudaEngine) -> None:
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._inputs = engine._plan["profiles"][0]

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._inputs[name]
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        batch = next(iter(self._shapes.values()))[0]
        return self._shapes.get(name) or tuple(batch if d == -1 else d for d in self._engine._tensor(name)[2])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert isinstance(stream_handle, int) and stream_handle, "not the default stream"
        if compute is None:
            return False
        if (
            Cuda.capturing is not None
        ):  # noted, not done; a real graph keeps memory of its context, which another shape would change
            shapes, addresses = dict(self._shapes), dict(self._addresses)

            def launch() -> None:
                assert self._shapes == shapes, "the context was used for other shapes after its capture"
                self._execute(addresses)

            Cuda.capturing.append(launch)
            return can_be_captured
        self._execute(self._addresses)
        return True

    def _execute(self, addresses: dict[str, int]) -> None:
        names = [tensor[0] for tensor in self._engine._plan["tensors"]]
        arrays = {name: self._array(name, addresses[name]) for name in names}
        given = {name: arrays[name].copy() for name in names if name in self._inputs}
        for name, values in compute(given, [name for name in names if name not in self._inputs]).items():
            arrays[name][...] = values

    def _array(self, name: str, address: int) -> np.ndarray:
        return Cuda.array(address, self.get_tensor_shape(name), np.dtype(self._engine._tensor(name)[1]))


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self._logger = logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            return ICudaEngine(serialized_engine)
        except ValueError:
            self._logger.log(ILogger.Severity.ERROR, "the plan is damaged")
            return None


class Cuda:
    """cuda-python's `cuda.bindings.runtime` on a machine with one GPU of the given compute capability, or with none."""

    class cudaError_t(enum.IntEnum):
        cudaSuccess = 0
        cudaErrorMemoryAllocation = 2
        cudaErrorInsufficientDriver = 35
        cudaErrorStreamCaptureInvalidated = 901

    class cudaMemcpyKind(enum.Enum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    class cudaStreamCaptureMode(enum.Enum):
        cudaStreamCaptureModeThreadLocal = 1

    cudaStreamNonBlocking = 1
    capturing: ClassVar[list[Callable[[], None]] | None] = None
    graphs: ClassVar[list[list[Callable[[], None]]]] = []  # that can be launched
    launched: ClassVar[int] = 0
    memory: ClassVar[dict[int, ctypes.Array]] = {}  # the GPU's, address -> block
    largest = 1 << 30

    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )

    def __init__(self, major: int | None, minor: int = 0) -> None:
        self._numbers = {"major": major, "minor": minor}

    @classmethod
    def array(cls, address: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The GPU's memory from an address on, which may lie inside of a block but must not reach beyond it."""
        size = int(np.prod(shape)) * dtype.itemsize
        for start, block in cls.memory.items():
            if start <= address and address + size <= start + len(block):
                return np.frombuffer(block, np.uint8, size, address - start).view(dtype).reshape(shape)
        raise AssertionError(f"{size} bytes at {address} are no memory of the GPU")

    def cudaGetDeviceCount(self) -> tuple:
        if self._numbers["major"] is None:
            return self.cudaError_t.cudaErrorInsufficientDriver, None
        return self.cudaError_t.cudaSuccess, 1

    def cudaDeviceGetAttribute(self, attribute: str, device: int) -> tuple:
        return self.cudaError_t.cudaSuccess, self._numbers[attribute]

    def cudaGetDeviceProperties(self, device: int) -> tuple:
        if self._numbers["major"] is None:
            return self.cudaError_t.cudaErrorInsufficientDriver, None
        return self.cudaError_t.cudaSuccess, SimpleNamespace(name=b"Fake Orin")

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple:
        assert flags == self.cudaStreamNonBlocking
        return self.cudaError_t.cudaSuccess, 77

    def cudaStreamSynchronize(self, stream: int) -> tuple:
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: enum.Enum) -> tuple:
        assert mode is self.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        Cuda.capturing = []
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple:
        graph, Cuda.capturing = Cuda.capturing, None
        if not can_be_captured:
            return self.cudaError_t.cudaErrorStreamCaptureInvalidated, None
        return self.cudaError_t.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: list[Callable[[], None]], flags: int) -> tuple:
        assert graph, "an empty graph"
        Cuda.graphs.append(list(graph))
        return self.cudaError_t.cudaSuccess, Cuda.graphs[-1]

    def cudaGraphDestroy(self, graph: list[Callable[[], None]]) -> tuple:
        graph.clear()
        return (self.cudaError_t.cudaSuccess,)

    def cudaGraphLaunch(self, graph: list[Callable[[], None]], stream: int) -> tuple:
        assert any(graph is known for known in Cuda.graphs)
        Cuda.launched += 1
        for work in graph:
            work()
        return (self.cudaError_t.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph: list[Callable[[], None]]) -> tuple:
        Cuda.graphs[:] = [known for known in Cuda.graphs if known is not graph]
        return (self.cudaError_t.cudaSuccess,)

    def cudaStreamDestroy(self, stream: int) -> tuple:
        return (self.cudaError_t.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple:
        if size > self.largest:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        block = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(block)] = block
        return self.cudaError_t.cudaSuccess, ctypes.addressof(block)

    def cudaFree(self, address: int) -> tuple:
        del self.memory[address]
        return (self.cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: enum.Enum, stream: int) -> tuple:
        on_gpu = to if kind is self.cudaMemcpyKind.cudaMemcpyHostToDevice else source
        assert size <= len(self.memory[on_gpu]), "beyond the buffer"
        ctypes.memmove(to, source, size)
        return (self.cudaError_t.cudaSuccess,)


class Nvrtc:
    """cuda-python's `cuda.bindings.nvrtc`: compiles anything but nothing; the "code" is the source."""

    programs: ClassVar[list[list[bytes]]] = []

    def nvrtcCreateProgram(self, src: bytes, name: bytes, num_headers: int, headers: list, names: list) -> tuple:
        Nvrtc.programs.append([src])
        return 0, Nvrtc.programs[-1]

    def nvrtcCompileProgram(self, program: list[bytes], num_options: int, options: list[bytes]) -> tuple:
        assert len(options) == num_options and options[0] == b"--gpu-architecture=sm_89"
        return (0 if program[0].strip() else 6,)

    def nvrtcGetProgramLogSize(self, program: list[bytes]) -> tuple:
        return 0, 13

    def nvrtcGetProgramLog(self, program: list[bytes], log: bytearray) -> tuple:
        log[:] = b"nothing\nthere\0"[: len(log)]
        return (0,)

    def nvrtcGetCUBINSize(self, program: list[bytes]) -> tuple:
        return 0, len(program[0])

    def nvrtcGetCUBIN(self, program: list[bytes], cubin: bytearray) -> tuple:
        cubin[:] = program[0]
        return (0,)

    def nvrtcDestroyProgram(self, program: list[bytes]) -> tuple:
        Nvrtc.programs[:] = [known for known in Nvrtc.programs if known is not program]
        return (0,)


class Driver:
    """cuda-python's `cuda.bindings.driver`: modules, and launches of the one kernel, which numpy stands in for."""

    modules: ClassVar[list[list[bytes]]] = []

    def cuModuleLoadData(self, image: bytes) -> tuple:
        Driver.modules.append([image])
        return 0, Driver.modules[-1]

    def cuModuleGetFunction(self, module: list[bytes], name: bytes) -> tuple:
        assert b"__global__ void " + name + b"(" in module[0]
        return 0, name

    def cuModuleUnload(self, module: list[bytes]) -> tuple:
        Driver.modules[:] = [known for known in Driver.modules if known is not module]
        return (0,)

    def cuLaunchKernel(self, f: bytes, gx: int, gy: int, gz: int, bx: int, by: int, bz: int, *rest: object) -> tuple:
        shared, stream, (values, types), extra = rest
        assert (f, gy, gz, by, bz, shared, extra) == (b"take_step", 1, 1, 1, 1, 0, 0) and stream
        assert types == (ctypes.c_void_p,) * 3 + (ctypes.c_int,) * 2
        sample, outputs, factors, size, rows = values
        assert gx * bx >= size

        def launch() -> None:
            f32 = np.dtype(np.float32)
            x = Cuda.array(sample, (rows, size), f32)
            noise = Cuda.array(outputs, (rows, size), f32)
            a, b, xs, xo, x0, guidance, clip = Cuda.array(factors, (7,), f32)
            out = noise[0] if rows == 1 or guidance == 1 else (noise[0] - noise[1]) * guidance + noise[1]
            x[:] = a * x[0] + b * out + x0 * np.clip(xs * x[0] + xo * out, -clip, clip)

        if Cuda.capturing is not None:
            Cuda.capturing.append(launch)
        else:
            launch()
        return (0,)
