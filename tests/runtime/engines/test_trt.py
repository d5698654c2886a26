"""Our calls of TensorRT and CUDA, held against fakes of their APIs. That proves the order and meaning of the calls, and no execution on a GPU."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping

import numpy as np
import pytest

from runtime.engines.device import Stream
from runtime.engines.trt import LOOPS_KEPT, TrtEngine
from runtime.errors import BundleError, EngineError
from runtime.guidance import Guidance
from runtime.noise import gaussian
from runtime.plans import TENSORRT, TENSORRT_RTX
from runtime.route import Route, follow
from runtime.schedule import Schedule
from runtime.solvers import SOLVERS
from runtime.spec import EngineSpec, TensorSpec
from runtime.trajectory import GuidedTrajectory
from tests.export import fake_tensorrt

SPEC = EngineSpec(
    "scale",
    (TensorSpec("x", "float32", ("B", 4)), TensorSpec("t", "int64", ("B",))),
    (TensorSpec("y", "float32", ("B", 4)),),
    {"B": (1, 2, 8)},
)
LOOPED = dataclasses.replace(SPEC, name="unet")
NAMES = (
    "cudaGetDeviceCount cudaDeviceGetAttribute cudaGetDeviceProperties cudaStreamCreateWithFlags cudaStreamNonBlocking "
    "cudaStreamBeginCapture cudaStreamEndCapture cudaStreamCaptureMode cudaGraphInstantiate cudaGraphDestroy cudaGraphLaunch cudaGraphExecDestroy "
    "cudaStreamSynchronize cudaStreamDestroy cudaMalloc cudaFree cudaMemcpyAsync cudaMemcpyKind cudaDeviceAttr cudaError_t"
)


def plan(spec: EngineSpec = SPEC) -> bytes:
    """What the fake library gives for a plan of this spec."""
    tensors = [
        [t.name, t.dtype, [-1 if isinstance(d, str) else d for d in t.shape]] for t in (*spec.inputs, *spec.outputs)
    ]
    return json.dumps({"tensors": tensors, "profiles": [spec.profile()]}).encode()


def scale(inputs: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    return {"y": inputs["x"] * inputs["t"][:, None]}


def inputs(rows: int) -> dict[str, np.ndarray]:
    return {"x": np.arange(rows * 4, dtype=np.float32).reshape(rows, 4), "t": np.arange(rows, dtype=np.int64)}


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, fake_tensorrt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_tensorrt.Cuda(8, 9))
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", fake_tensorrt.Driver())
    monkeypatch.setitem(sys.modules, "cuda.bindings.nvrtc", fake_tensorrt.Nvrtc())
    monkeypatch.setattr(fake_tensorrt.Driver, "modules", [])
    for name, value in {"memory": {}, "graphs": [], "launched": 0}.items():
        monkeypatch.setattr(fake_tensorrt.Cuda, name, value)
    monkeypatch.setattr(fake_tensorrt, "strategies", [])
    monkeypatch.setattr(fake_tensorrt, "compute", scale)


@pytest.mark.parametrize("flavour", [TENSORRT, TENSORRT_RTX])
def test_inputs_arrive_and_outputs_come_back_at_every_batch_size_in_any_order(flavour: str) -> None:
    engine = TrtEngine(plan(), SPEC, flavour)
    for rows in (2, 8, 1, 3):
        given = inputs(rows)
        np.testing.assert_array_equal(engine(given)["y"], given["x"] * given["t"][:, None])
    assert engine.provider == flavour


def test_outputs_are_the_callers_to_keep() -> None:
    engine = TrtEngine(plan(), SPEC, TENSORRT)
    first = engine(inputs(2))["y"]
    kept = first.copy()
    engine({"x": np.ones((2, 4), np.float32), "t": np.full(2, 9)})
    np.testing.assert_array_equal(first, kept)


def test_input_that_is_not_contiguous_is_copied_as_it_reads() -> None:
    turned = np.arange(8, dtype=np.float32).reshape(4, 2).T
    answer = TrtEngine(plan(), SPEC, TENSORRT)({"x": turned, "t": np.ones(2, np.int64)})
    np.testing.assert_array_equal(answer["y"], turned)


def test_all_memory_is_given_back() -> None:
    engine = TrtEngine(plan(), SPEC, TENSORRT)
    engine(inputs(8))
    assert len(fake_tensorrt.Cuda.memory) == 3
    engine.close()
    assert not fake_tensorrt.Cuda.memory


def test_the_loop_is_one_graph_per_batch_size_and_nothing_else_is() -> None:
    """What a graph computes is read from the same memory each time, so new numbers must reach it."""
    engine = TrtEngine(plan(LOOPED), LOOPED, TENSORRT)
    rng = np.random.default_rng(0)
    for rows in (2, 4, 2, 2, 4, 1):
        given = {"x": rng.integers(-9, 9, (rows, 4)).astype(np.float32), "t": rng.integers(0, 9, rows)}
        np.testing.assert_array_equal(engine(given)["y"], given["x"] * given["t"][:, None])
    cuda = fake_tensorrt.Cuda
    assert (len(cuda.graphs), cuda.launched) == (3, 3)
    engine.close()
    assert not cuda.graphs and not cuda.memory
    once = TrtEngine(plan(), SPEC, TENSORRT)
    once(inputs(2))
    once(inputs(2))
    assert not cuda.graphs and cuda.launched == 3


def test_a_plan_that_cannot_be_captured_runs_call_by_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt, "can_be_captured", False)
    engine = TrtEngine(plan(LOOPED), LOOPED, TENSORRT)
    for rows in (2, 2, 4, 2):
        given = inputs(rows)
        np.testing.assert_array_equal(engine(given)["y"], given["x"] * given["t"][:, None])
    assert not fake_tensorrt.Cuda.graphs and fake_tensorrt.Cuda.launched == 0


def test_rtx_is_asked_for_graphs_of_its_own_in_the_loop_alone() -> None:
    for spec in (LOOPED, SPEC):
        engine = TrtEngine(plan(spec), spec, TENSORRT_RTX)
        for _ in range(2):
            engine(inputs(2))
    assert fake_tensorrt.strategies == [fake_tensorrt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE, None]
    assert not fake_tensorrt.Cuda.graphs
    real = pytest.importorskip("tensorrt_rtx_bindings").tensorrt_rtx
    assert hasattr(real.ICudaEngine, "create_runtime_config") and hasattr(real.IRuntimeConfig, "cuda_graph_strategy")
    assert hasattr(real.CudaGraphStrategy, "WHOLE_GRAPH_CAPTURE")


UNET = EngineSpec(
    "unet",
    (
        TensorSpec("sample", "float32", ("B", 1, 2, 3)),
        TensorSpec("timestep", "int64", ("B",)),
        TensorSpec("cond", "float32", ("B", 5)),
    ),
    (TensorSpec("noise_pred", "float32", ("B", 1, 2, 3)),),
    {"B": (1, 2, 8)},
)


def denoise(sample: np.ndarray, timestep: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
    level = (timestep / np.float32(1000)).astype(np.float32)[:, None, None, None]
    return np.tanh(sample * level + cond["cond"].mean(axis=1, dtype=np.float32)[:, None, None, None])


def unet(inputs: Mapping[str, np.ndarray], outputs: list[str]) -> dict[str, np.ndarray]:
    return {"noise_pred": denoise(inputs["sample"], inputs["timestep"], {"cond": inputs["cond"]})}


def route(seed: int, steps: int = 5, scale: float = 3.0, clips: bool = False) -> Route:
    rng = np.random.default_rng(seed)
    cond, uncond = ({"cond": rng.standard_normal(5, np.float32)} for _ in range(2))
    solver = SOLVERS["ddim"](Schedule(clip_sample=clips, timestep_spacing="trailing"), steps, (1, 2, 3))
    made = GuidedTrajectory(gaussian(seed, 0, (1, 2, 3)), Guidance(cond, uncond, scale), solver).route()
    assert made is not None
    return made


@pytest.mark.parametrize("flavour", [TENSORRT, TENSORRT_RTX])
def test_a_whole_loop_is_one_graph_for_any_seed_condition_guidance_and_clipping(
    flavour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first route of a shape goes call by call, all others in one launch; nothing of the first one is left in the graph."""
    monkeypatch.setattr(fake_tensorrt, "compute", unet)
    engine = TrtEngine(plan(UNET), UNET, flavour)
    cuda = fake_tensorrt.Cuda
    for launches, asked in enumerate([route(1), route(2), route(3, scale=1.5), route(4, clips=True)]):
        np.testing.assert_array_equal(engine.follow(asked), follow(asked, denoise))
        assert (len(cuda.graphs), cuda.launched) == (1, launches)
    asked = route(5, scale=1.0)  # one row, hence a shape of its own
    for _ in range(2):
        np.testing.assert_array_equal(engine.follow(asked), follow(asked, denoise))
    assert (len(cuda.graphs), cuda.launched) == (2, 4)
    assert len(cuda.graphs[0]) == 2 * 5, "a call and a step, five times, and no copy between"
    assert fake_tensorrt.strategies[-2:] == [None, None], "what captures itself cannot be captured"


def test_few_loops_are_kept_and_all_of_their_memory_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt, "compute", unet)
    engine = TrtEngine(plan(UNET), UNET, TENSORRT)
    for steps in range(2, 9):
        asked = route(steps, steps)
        np.testing.assert_array_equal(engine.follow(asked), follow(asked, denoise))
    assert len(fake_tensorrt.Cuda.graphs) == len(fake_tensorrt.Driver.modules) == LOOPS_KEPT
    engine.close()
    assert not (fake_tensorrt.Cuda.graphs or fake_tensorrt.Driver.modules or fake_tensorrt.Cuda.memory)
    assert not fake_tensorrt.Nvrtc.programs


def test_a_loop_that_cannot_be_captured_or_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt, "compute", unet)
    monkeypatch.setattr(fake_tensorrt, "can_be_captured", False)
    engine = TrtEngine(plan(UNET), UNET, TENSORRT)
    for seed in range(2):  # call by call, every time
        np.testing.assert_array_equal(engine.follow(route(seed)), follow(route(seed), denoise))
    monkeypatch.setattr(fake_tensorrt, "compute", None)
    with pytest.raises(EngineError, match="unet: the plan did not run"):
        engine.follow(route(1, steps=7))


def test_a_kernel_that_does_not_compile_says_what_the_compiler_said() -> None:
    with pytest.raises(EngineError, match=r"^a kernel does not compile: nothing there$"):
        Stream().kernel(" ", "nothing")


def test_a_buffer_is_kept_while_it_is_large_enough() -> None:
    stream = Stream()
    address = stream.buffer("x", 64)
    assert stream.buffer("x", 32) == address
    assert stream.buffer("x", 128) in fake_tensorrt.Cuda.memory


def test_more_rows_than_the_profile_allows_are_refused_before_the_gpu() -> None:
    with pytest.raises(EngineError, match=r"scale: B is 9; the profile allows 1\.\.8"):
        TrtEngine(plan(), SPEC, TENSORRT)(inputs(9))


def test_a_plan_of_another_profile_is_refused_when_it_meets_it() -> None:
    narrow = EngineSpec(SPEC.name, SPEC.inputs, SPEC.outputs, {"B": (1, 1, 2)})
    with pytest.raises(EngineError, match=r"scale: tensorrt refuses shape \(4, 4\) of input 'x'"):
        TrtEngine(plan(narrow), SPEC, TENSORRT)(inputs(4))


def test_after_a_refusal_the_shapes_of_before_are_told_again() -> None:
    record = json.loads(plan())
    record["profiles"][0]["t"][2] = [2]  # refuses what `x` has just been told
    engine = TrtEngine(json.dumps(record).encode(), SPEC, TENSORRT)
    for _ in range(2):
        np.testing.assert_array_equal(engine(inputs(2))["y"], inputs(2)["x"] * inputs(2)["t"][:, None])
        with pytest.raises(EngineError, match=r"refuses shape \(4,\) of input 't'"):
            engine(inputs(4))


@pytest.mark.parametrize(
    "other",
    [
        EngineSpec("scale", SPEC.inputs, (TensorSpec("z", "float32", ("B", 4)),), SPEC.ranges),
        EngineSpec("scale", SPEC.inputs, (TensorSpec("y", "float32", ("B", 5)),), SPEC.ranges),
        EngineSpec("scale", SPEC.inputs[:1], SPEC.outputs, SPEC.ranges),
    ],
    ids=["name", "shape", "missing"],
)
def test_a_plan_with_other_tensors_is_refused(other: EngineSpec) -> None:
    with pytest.raises(BundleError, match=r"scale: the plan has tensor '[ytz]' as .*, expected"):
        TrtEngine(plan(other), SPEC, TENSORRT)


def test_a_plan_that_does_not_load_is_refused_in_the_librarys_words() -> None:
    with pytest.raises(
        BundleError, match=r"scale: tensorrt 11.* does not load the plan: the plan is damaged; build it again"
    ):
        TrtEngine(b"damaged", SPEC, TENSORRT)


def test_a_run_that_fails_and_memory_that_is_not_there_are_engine_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TrtEngine(plan(), SPEC, TENSORRT)
    monkeypatch.setattr(fake_tensorrt, "compute", None)
    with pytest.raises(EngineError, match="scale: tensorrt did not run"):
        engine(inputs(1))
    monkeypatch.setattr(fake_tensorrt.Cuda, "largest", 8)
    with pytest.raises(EngineError, match="cudaMalloc of 128 bytes: CUDA says cudaErrorMemoryAllocation"):
        TrtEngine(plan(), SPEC, TENSORRT)


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(EngineError, match=r'tensorrt-rtx: cannot be imported .* pip install "\.\[tensorrt-rtx\]"'):
        TrtEngine(plan(), SPEC, TENSORRT_RTX)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(EngineError, match=r'cuda-python or its compiler is not installed: pip install "\.\[gpu\]"'):
        TrtEngine(plan(), SPEC, TENSORRT)


def test_cuda_pythons_real_module_has_every_name_of_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("runtime", "driver", "nvrtc"):
        monkeypatch.delitem(sys.modules, f"cuda.bindings.{part}")
    real = pytest.importorskip("cuda.bindings.runtime")
    fake = fake_tensorrt.Cuda(8, 9)
    for name in NAMES.split():
        assert hasattr(real, name) and hasattr(fake, name), name
    for part, stands in (("driver", fake_tensorrt.Driver), ("nvrtc", fake_tensorrt.Nvrtc)):
        other = pytest.importorskip(f"cuda.bindings.{part}")
        for name in (name for name in vars(stands) if name.startswith(("cu", "nvrtc"))):
            assert hasattr(other, name), name
    for name in ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"):
        assert hasattr(real.cudaMemcpyKind, name)
    assert int(real.cudaStream_t(5)) == 5 and hasattr(real.cudaDeviceProp(), "name")
