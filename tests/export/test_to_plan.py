"""Plans: TensorRT-RTX really compiles here. TensorRT needs a GPU: our calls are held against a fake of its API, which proves no execution."""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from export.to_fp16 import to_fp16
from export.to_plan import Compiler, gpu_target
from runtime.errors import BundleError
from runtime.manifest import ONNX_FP16, Manifest, onnx_file
from runtime.plans import BUILT, PARSED, TENSORRT
from runtime.spec import EngineSpec, TensorSpec
from tests.export import fake_tensorrt
from tests.export.graphs import network, square

SPEC = EngineSpec(
    "chain", (TensorSpec("x", "float32", ("B", 4)),), (TensorSpec("y", "float32", ("B", 4)),), {"B": (1, 2, 8)}
)


def chain() -> bytes:
    """A network for SPEC, in FP16: for Turing TensorRT-RTX compiles no matrix product in FP32."""
    model = to_fp16(network([("MatMul", ["x", "w"], "a"), ("Relu", ["a"], "y")], {"w": square(0.5)}), ())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "B"
    return model.SerializeToString()


@pytest.fixture
def rtx() -> Compiler:
    pytest.importorskip("tensorrt_rtx")
    return Compiler.rtx(("sm75", "sm89", "sm120"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT and a GPU of compute capability 8.7 (Jetson Orin), both fake."""
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_tensorrt.Cuda(8, 7))


def test_a_simple_network_compiles_to_the_same_bytes(rtx: Compiler) -> None:
    first, again = (rtx.build(chain(), SPEC) for _ in range(2))
    assert first == again and first.startswith(b"vtrt")


def test_two_plans_of_one_network_differ_at_most_in_the_compilers_own_numbering(
    rtx: Compiler, full_bundle: Path
) -> None:
    """TensorRT-RTX 1.7 compiles with threads that race for the numbers of temporaries; no setting of it prevents that."""
    engine = "emotion_estimator"
    manifest = Manifest.read(full_bundle)
    (plan,) = (plan for plan in manifest.plans if plan.engine == engine)
    built = rtx.build((full_bundle / onnx_file(engine, ONNX_FP16)).read_bytes(), manifest.engines[engine])
    first, again = (np.frombuffer(content, np.uint8) for content in ((full_bundle / plan.file).read_bytes(), built))
    assert len(first) == len(again) and np.mean(first != again) < 0.01
    assert rtx.version == plan.version


def test_a_matrix_product_in_fp32_cannot_be_compiled_for_turing_and_the_message_says_so(rtx: Compiler) -> None:
    model = network([("MatMul", ["x", "w"], "a"), ("Relu", ["a"], "y")], {"w": square(0.5)})
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "B"
    with pytest.raises(BundleError, match=r"Turing \(SM75\).* leave that one out"):
        rtx.build(model.SerializeToString(), SPEC)
    assert Compiler.rtx(("sm89", "sm120")).build(model.SerializeToString(), SPEC)


def test_targets_change_what_is_built(rtx: Compiler) -> None:
    assert rtx.build(chain(), SPEC) != Compiler.rtx(("sm89",)).build(chain(), SPEC)


def test_without_a_gpu_a_plan_is_built_and_no_more(rtx: Compiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_tensorrt.Cuda(None))
    assert rtx.parse(rtx.build(chain(), SPEC), SPEC) == BUILT


def test_a_gpu_that_the_library_does_not_know_is_named(rtx: Compiler) -> None:
    with pytest.raises(BundleError, match=rf"tensorrt-rtx {rtx.version} cannot compile for sm90; it knows sm75"):
        Compiler.rtx(("sm89", "sm90"))


def test_what_cannot_be_parsed_is_refused_in_the_librarys_words(rtx: Compiler) -> None:
    with pytest.raises(BundleError, match=r"chain: tensorrt-rtx .* cannot parse the network: .+"):
        rtx.build(b"no network", SPEC)


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, inputs=(TensorSpec("x", "float32", ("B", 5)),)),
        replace(SPEC, outputs=(TensorSpec("z", "float32", ("B", 4)),)),
        replace(SPEC, inputs=(TensorSpec("x", "int64", ("B", 4)),)),
    ],
    ids=["shape", "name", "dtype"],
)
def test_a_network_that_is_not_the_specs_is_refused_before_it_is_built(rtx: Compiler, spec: EngineSpec) -> None:
    with pytest.raises(BundleError, match=r"chain: tensorrt-rtx sees tensor '[xyz]' as .* expected"):
        rtx.build(chain(), spec)


def test_a_missing_library_says_what_to_install_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(BundleError, match=r'tensorrt-rtx: cannot be imported .* pip install "\.\[tensorrt-rtx\]"'):
        Compiler.rtx(("sm89",))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        BundleError, match=r"tensorrt: cannot be imported .* on the machine with the GPU run: pip install"
    ):
        Compiler.tensorrt()


def test_tensorrt_without_a_gpu_says_where_to_run_and_what_works_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_tensorrt.Cuda(None))
    with pytest.raises(
        BundleError, match=r"cudaErrorInsufficientDriver.* run this command on that machine.*tensorrt-rtx:sm75"
    ):
        Compiler.tensorrt()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(BundleError, match=r'cuda-python or its compiler is not installed: pip install "\.\[gpu\]"'):
        Compiler.tensorrt()


@pytest.mark.usefixtures("gpu")
def test_tensorrt_is_told_the_profile_of_the_spec_and_nothing_of_precision() -> None:
    compiler = Compiler.tensorrt()
    assert (compiler.flavour, compiler.targets, compiler.version) == (TENSORRT, ("sm87",), "11.4.0.106")
    told = json.loads(compiler.build(chain(), SPEC))
    assert told["profiles"] == [{"x": [[1, 4], [2, 4], [8, 4]]}]
    assert told["tensors"] == [["x", "float32", [-1, 4]], ["y", "float32", [-1, 4]]]


@pytest.mark.usefixtures("gpu")
def test_where_its_gpu_is_a_plan_is_loaded_and_compared_with_the_spec() -> None:
    compiler = Compiler.tensorrt()
    plan = compiler.build(chain(), SPEC)
    assert compiler.parse(plan, SPEC) == PARSED
    with pytest.raises(BundleError, match=r"profile of 'x' is \[\(1, 4\), \(2, 4\), \(8, 4\)\]"):
        compiler.parse(plan, replace(SPEC, ranges={"B": (1, 1, 8)}))
    with pytest.raises(BundleError, match="built a plan that it does not load: the plan is damaged"):
        compiler.parse(plan[:-1], SPEC)


@pytest.mark.usefixtures("gpu")
def test_a_plan_for_other_gpus_is_not_loaded_on_this_one() -> None:
    assert replace(Compiler.tensorrt(), targets=("sm75",)).parse(b"not looked at", SPEC) == BUILT


@pytest.mark.usefixtures("gpu")
def test_a_failed_build_is_refused_in_the_librarys_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_tensorrt.Builder, "builds", False)
    with pytest.raises(
        BundleError, match=r"chain: tensorrt 11\.4\.0\.106 cannot build a plan for sm87: no tactic for this layer"
    ):
        Compiler.tensorrt().build(chain(), SPEC)


@pytest.mark.usefixtures("gpu")
def test_builds_read_and_extend_the_timing_cache(tmp_path: Path) -> None:
    compiler = Compiler.tensorrt(tmp_path / "times")
    for builds in (1, 2):
        compiler.build(chain(), SPEC)
        assert (tmp_path / "times").read_bytes() == b"measured;" * builds
    assert [path.name for path in tmp_path.iterdir()] == ["times"]


def test_the_compute_capability_is_cudas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake_tensorrt.Cuda(12, 0))
    assert gpu_target() == "sm120"


def test_the_fake_has_no_name_that_the_real_bindings_lack() -> None:
    """TensorRT 11.4 and TensorRT-RTX 1.7 share every name that we use, so the real one here vouches for the fake of the other."""
    real = pytest.importorskip("tensorrt_rtx")
    for name, thing in vars(fake_tensorrt).items():
        if (
            name.startswith("_")
            or isinstance(thing, ModuleType)
            or getattr(thing, "__module__", None) != fake_tensorrt.__name__
        ):
            continue
        if name in ("Cuda", "Driver", "Nvrtc"):  # CUDA's own, held against cuda-python in tests/runtime/engines
            continue
        assert hasattr(real, name), name
        if inspect.isclass(thing) and name not in ("ParserError",):
            members = {m for m in vars(thing) if not m.startswith("_")} - {"builds"}
            assert not members - set(dir(getattr(real, name))), name
    assert np.dtype(real.nptype(real.DataType.INT64)) == np.dtype(fake_tensorrt.nptype(fake_tensorrt.DataType.INT64))
