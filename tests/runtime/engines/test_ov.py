"""OpenVINO engines: the same contract as ONNX Runtime's, the same answers in FP32, and BF16 only where it is asked for and possible."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from runtime.bundle import Bundle
from runtime.engines import ov
from runtime.engines.backends import open_engine
from runtime.engines.ort import OrtEngine
from runtime.engines.ov import BF16, OvEngine
from runtime.errors import BundleError, EngineError
from runtime.spec import EngineSpec, TensorSpec

DEPTH = 512
SPEC = EngineSpec(
    "unet",
    (TensorSpec("x", "float32", ("B", DEPTH)), TensorSpec("n", "int64", ("B",))),
    (TensorSpec("y", "float32", ("B", 64)),),
    {"B": (1, 1, 4)},
)
FREE = EngineSpec(
    "audio", (TensorSpec("x", "float32", ("B", "T")),), (TensorSpec("y", "float32", ("B", "T")),), {"B": (1, 1, 4), "T": (1, 4, 9)}
)  # fmt: skip
WEIGHT = np.random.default_rng(0).standard_normal((DEPTH, 64)).astype(np.float32)


def product(name: str = "x", width: int = DEPTH) -> bytes:
    """y = x @ weight + n[:, None]."""
    nodes = [
        helper.make_node("MatMul", [name, "weight"], ["product"]),
        helper.make_node("Cast", ["n"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "axis"], ["column"]),
        helper.make_node("Add", ["product", "column"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", width]),
        helper.make_tensor_value_info("n", TensorProto.INT64, ["B"]),
    ]
    constants = [
        numpy_helper.from_array(WEIGHT[:width], "weight"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    return serialized(nodes, inputs, ["B", 64], constants)


def doubled() -> bytes:
    nodes = [helper.make_node("Add", ["x", "x"], ["y"])]
    return serialized(nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", "T"])], ["B", "T"], [])


def serialized(nodes, inputs, output, constants) -> bytes:
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def feed(batch: int) -> dict[str, np.ndarray]:
    x = np.random.default_rng(batch).standard_normal((batch, DEPTH)).astype(np.float32)
    return {"x": x, "n": np.arange(batch, dtype=np.int64)}


def test_every_batch_size_gives_what_onnx_runtime_gives():
    engine, other = OvEngine(product(), SPEC, threads=1), OrtEngine(product(), SPEC, threads=1)
    for batch in (1, 2, 4, 1):
        outputs = engine(feed(batch))
        assert list(outputs) == ["y"] and outputs["y"].flags.c_contiguous
        np.testing.assert_allclose(outputs["y"], other(feed(batch))["y"], atol=1e-3, rtol=1e-5)
    assert engine.provider == "OpenVINO CPU f32"


def test_weights_stored_in_half_are_widened_once_for_every_batch_size():
    half = WEIGHT.astype(np.float16)
    nodes = [
        helper.make_node("Cast", ["half"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    spec = EngineSpec("unet", SPEC.inputs[:1], SPEC.outputs, SPEC.ranges)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", DEPTH])]
    engine = OvEngine(serialized(nodes, inputs, ["B", 64], [numpy_helper.from_array(half, "half")]), spec, threads=1)
    kinds = {
        op.get_element_type().get_type_name() for op in engine._model.get_ops() if op.get_type_name() == "Constant"
    }
    assert kinds == {"f32"} and "Convert" not in {op.get_type_name() for op in engine._model.get_ops()}
    x = feed(2)["x"]
    np.testing.assert_allclose(engine({"x": x})["y"], x @ half.astype(np.float32), atol=1e-3, rtol=1e-5)


def test_an_answer_is_the_caller_s_to_keep():
    engine = OvEngine(product(), SPEC, threads=1)
    first = engine(feed(2))["y"]
    kept = first.copy()
    engine({"x": np.zeros((2, DEPTH), np.float32), "n": np.zeros(2, np.int64)})
    np.testing.assert_array_equal(first, kept)


def test_a_network_with_another_free_size_takes_any_of_it():
    engine = OvEngine(doubled(), FREE, threads=1)
    for shape in ((1, 3), (2, 7), (1, 9)):
        np.testing.assert_array_equal(engine({"x": np.ones(shape, np.float32)})["y"], np.full(shape, 2, np.float32))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (product(name="z"), r"inputs are \['z', 'n'\]"),
        (product(width=256), "input 'x'"),
        (b"not onnx", "not an ONNX file"),
        (b"", "cannot load the network"),
    ],
)
def test_a_network_that_is_not_the_spec_s_is_refused_when_opened(model, message):
    with pytest.raises(BundleError, match=f"unet: .*({message})"):
        OvEngine(model, SPEC, threads=1)


def test_a_wrong_call_is_an_engine_error_that_names_the_tensor():
    with pytest.raises(EngineError, match=r"B is 5; the profile allows 1\.\.4"):
        OvEngine(product(), SPEC, threads=1)(feed(5))


def test_a_network_that_reaches_for_another_file_is_refused(tmp_path):
    model = onnx.load_from_string(product())
    onnx.external_data_helper.convert_model_to_external_data(model, location="weights.data", size_threshold=0)
    with pytest.raises(BundleError, match="keeps weights in another file"):
        OvEngine(model.SerializeToString(), SPEC)


def test_bf16_on_a_processor_without_it_is_an_error_and_never_fp32_in_disguise(monkeypatch):
    monkeypatch.setattr(ov, "no_bf16", lambda: "this processor has no BF16")
    with pytest.raises(EngineError, match="unet: this processor has no BF16"):
        OvEngine(product(), SPEC, threads=1, precision=BF16)


@pytest.mark.skipif(ov.no_bf16() is not None, reason="this processor has no BF16")
def test_bf16_rounds_the_loop_s_network_and_no_other():
    exact = open_engine("openvino", product(), SPEC, 1)(feed(2))["y"]
    unet = open_engine("openvino-bf16", product(), SPEC, 1)
    error = np.abs(unet(feed(2))["y"] - exact).max() / np.abs(exact).max()
    assert 1e-4 < error < 2e-2 and unet.provider == "OpenVINO CPU bf16"
    once = EngineSpec("fusion", SPEC.inputs, SPEC.outputs, SPEC.ranges)
    np.testing.assert_array_equal(open_engine("openvino-bf16", product(), once, 1)(feed(2))["y"], exact)


def test_reports_say_in_what_a_backend_computes(tmp_path):
    said = {
        name: Bundle.open("bundles/demo", engine=name).precision
        for name in ("onnxruntime", "openvino", "openvino-bf16")
    }
    assert said["onnxruntime"] == said["openvino"] and "fp32 compute" in said["openvino"]
    assert said["openvino-bf16"].startswith("bf16 compute in the UNet")
