"""ONNX Runtime engines on tiny networks: the answer, the checks at opening, the checks of every call."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.engines import backends
from runtime.engines.backends import open_engine, resolve
from runtime.engines.ort import CUDA, OrtEngine
from runtime.errors import BundleError, ClipFaceFusionError, EngineError
from runtime.spec import EngineSpec, TensorSpec

SPEC = EngineSpec(
    "adder",
    (TensorSpec("x", "float32", ("B", 3)), TensorSpec("n", "int64", ("B",))),
    (TensorSpec("y", "float32", ("B", 3)),),
    {"B": (1, 1, 4)},
)
WEIGHT = np.array([[0.1, 0.2, 0.3]], np.float16)


def network(
    inputs=(("x", TensorProto.FLOAT, ["B", 3]), ("n", TensorProto.INT64, ["B"])), output=("y", ["B", 3])
) -> bytes:
    """y = x + weight + n[:, None], the weight stored in FP16."""
    nodes = [
        helper.make_node("Cast", ["weight16"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Add", [inputs[0][0], "weight"], ["sum"]),
        helper.make_node("Cast", [inputs[1][0]], ["n32"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["n32", "axis"], ["column"]),
        helper.make_node("Add", ["sum", "column"], [output[0]]),
    ]
    graph = helper.make_graph(
        nodes,
        "adder",
        [helper.make_tensor_value_info(*each) for each in inputs],
        [helper.make_tensor_value_info(output[0], TensorProto.FLOAT, output[1])],
        [numpy_helper.from_array(WEIGHT, "weight16"), numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


SLEEPING = """
import time
import numpy as np
from onnx import TensorProto, helper
from runtime.engines.ort import OrtEngine
from runtime.spec import EngineSpec, TensorSpec

shape = ["B", 1024]
node = helper.make_node("MatMul", ["x", "x"], ["y"])
graph = helper.make_graph([node], "square", *([helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)] for n in "xy"))
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()
tensors = [(TensorSpec(n, "float32", ("B", 1024)),) for n in "xy"]
engine = OrtEngine(model, EngineSpec("square", *tensors, {"B": (1, 1024, 1024)}), threads=2)
for _ in range(3):
    engine({"x": np.ones((1024, 1024), np.float32)})
    before = time.process_time()
    time.sleep(0.2)
    print(time.process_time() - before)
"""


def feed(batch: int) -> dict[str, np.ndarray]:
    return {"x": np.ones((batch, 3), np.float32), "n": np.arange(batch, dtype=np.int64)}


def test_outputs_are_by_name_contiguous_and_right():
    engine = OrtEngine(network(), SPEC, threads=1)
    outputs = engine(feed(2))
    assert list(outputs) == ["y"] and outputs["y"].flags.c_contiguous
    np.testing.assert_allclose(outputs["y"], 1 + WEIGHT.astype(np.float32) + np.array([[0], [1]]), rtol=1e-6)
    assert engine.provider == "CPUExecutionProvider"


def test_a_file_loads_like_its_bytes(tmp_path):
    (tmp_path / "adder.onnx").write_bytes(network())
    from_file, from_bytes = OrtEngine(tmp_path / "adder.onnx", SPEC), OrtEngine(network(), SPEC)
    np.testing.assert_array_equal(from_file(feed(1))["y"], from_bytes(feed(1))["y"])


@pytest.mark.parametrize(
    ("threads", "expected"),
    [(1, 1), (None, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None)],
)
def test_threads_reach_the_session_and_default_to_usable_cores(threads, expected):
    engine = OrtEngine(network(), SPEC, threads)
    found = engine._session.get_session_options().intra_op_num_threads
    assert found == (expected or os.cpu_count())


def test_threads_sleep_soon_after_a_call():
    """In a process of its own, in CPU time: by default, threads of this library spin for 35 ms after a call."""
    answer = subprocess.run([sys.executable, "-c", SLEEPING], capture_output=True, text=True, check=True, timeout=60)
    assert min(map(float, answer.stdout.split())) < 0.01


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            network(inputs=(("z", TensorProto.FLOAT, ["B", 3]), ("n", TensorProto.INT64, ["B"]))),
            r"inputs are \['z', 'n'\]",
        ),
        (network(output=("w", ["B", 3])), r"outputs are \['w'\]"),
        (network(inputs=(("x", TensorProto.FLOAT, ["B", 3]), ("n", TensorProto.INT32, ["B"]))), "'n' is tensor.int32"),
        (network(inputs=(("x", TensorProto.FLOAT, ["B", 1]), ("n", TensorProto.INT64, ["B"]))), "input 'x'"),
        (network(inputs=(("x", TensorProto.FLOAT, [2, 3]), ("n", TensorProto.INT64, ["B"]))), "input 'x'"),
        (
            network(inputs=(("x", TensorProto.FLOAT, ["B", 1, 3]), ("n", TensorProto.INT64, ["B"]))),
            "input 'x'|output 'y'",
        ),
        (b"not onnx", "not an ONNX file"),
        (b"", "cannot load the network"),
    ],
)
def test_a_network_that_is_not_the_spec_s_is_refused_when_opened(model, message):
    with pytest.raises(BundleError, match=f"adder: .*({message})"):
        OrtEngine(model, SPEC, threads=1)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": np.ones((1, 3), np.float32)}, "got inputs"),
        ({**feed(1), "x": np.ones((1, 3))}, "dtype float64"),
        ({**feed(1), "x": np.ones((1, 4), np.float32)}, r"shape \(1, 4\)"),
        ({**feed(1), "n": np.zeros(2, np.int64)}, "'n' has shape"),
        (feed(5), r"B is 5; the profile allows 1\.\.4"),
    ],
)
def test_a_wrong_call_is_an_engine_error_that_names_the_tensor(inputs, message):
    with pytest.raises(EngineError, match=message):
        OrtEngine(network(), SPEC, threads=1)(inputs)


def test_the_library_s_words_about_a_failed_call_are_for_the_log(monkeypatch, caplog):
    """They hold paths of the machine that it was built on."""
    engine = OrtEngine(network(), SPEC)

    class Session:
        def run(self, *_):
            raise RuntimeError("/onnxruntime_src/onnxruntime/core/framework/bfc_arena.cc:376 Failed to allocate")

    monkeypatch.setattr(engine, "_session", Session())
    with pytest.raises(EngineError) as caught:
        engine({"x": np.zeros((1, 3), np.float32), "n": np.zeros(1, np.int64)})
    assert str(caught.value) == "adder: onnxruntime failed; the log says why"
    assert "bfc_arena.cc:376 Failed to allocate" in caplog.text


def test_a_network_that_reaches_for_another_file_is_refused(tmp_path: Path):
    model = onnx.load_from_string(network())
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.data", size_threshold=0)
    onnx.save(model, tmp_path / "adder.onnx")
    with pytest.raises(BundleError, match="keeps weights in another file"):
        OrtEngine(tmp_path / "adder.onnx", SPEC)


def test_auto_is_an_engine_that_exists_and_an_unknown_one_lists_what_does():
    assert isinstance(open_engine(resolve("auto"), network(), SPEC, 1), OrtEngine)
    with pytest.raises(
        ClipFaceFusionError, match="'magic' does not exist; available: auto, onnxruntime-cuda, onnxruntime"
    ):
        resolve("magic")


def test_an_engine_that_is_not_installed_says_what_to_install(monkeypatch):
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda library: None)
    with pytest.raises(ClipFaceFusionError, match=r"engine 'openvino': openvino is not installed: pip install"):
        resolve("openvino")


def test_auto_never_names_an_engine_that_computes_in_less(monkeypatch):
    reduced = dataclasses.replace(backends.BACKENDS["onnxruntime"], precision="bf16")
    monkeypatch.setattr(backends, "BACKENDS", {"fast": reduced, "exact": backends.BACKENDS["onnxruntime"]})
    assert resolve("auto") == "exact"


def test_a_provider_that_is_not_there_is_an_error_and_never_the_cpu_in_silence():
    with (
        pytest.raises(EngineError, match="chose CPUExecutionProvider instead of CUDAExecutionProvider"),
        pytest.warns(UserWarning),
    ):
        OrtEngine(network(), SPEC, threads=1, provider=CUDA)


@pytest.mark.parametrize("name", ["onnxruntime-cuda", "onnxruntime-cuda-fp16"])
def test_cuda_without_its_build_says_what_to_install(name):
    with pytest.raises(
        ClipFaceFusionError, match=f"engine '{name}': this onnxruntime is the CPU build; .*onnxruntime-gpu"
    ):
        resolve(name)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_plans_without_a_gpu_say_what_is_missing(name):
    with pytest.raises(ClipFaceFusionError, match=f"engine '{name}': .*(cannot be imported|cuda-python|CUDA says)"):
        resolve(name)


def test_only_fp32_networks_in_fp32_count_as_exact():
    assert [name for name, backend in backends.BACKENDS.items() if backend.is_exact] == [
        "onnxruntime-cuda",
        "onnxruntime",
        "openvino",
    ]
