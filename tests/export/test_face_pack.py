"""An insightface pack's ArcFace network in the bundle: the same vector, our tensors, its hash and its licence. The packs here are made, not theirs."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.face_pack import LICENCE, FacePackNetwork
from export.to_onnx import serialize
from runtime.engines.ort import OrtEngine
from runtime.errors import BundleError
from runtime.spec import ModelSpec, engine_specs

FEATURES = 64


def arcface(
    path: Path,
    size: int = 112,
    features: int = FEATURES,
    batch: int | str = "None",
    first: str = "Conv_0",
    lists_weights: bool = False,
) -> Path:
    """The shape of w600k_r50.onnx: convolution, PReLU, batch norm, flatten, Gemm; one picture in, one vector of any length out."""
    random = np.random.default_rng(0)
    weights = {
        "conv": random.standard_normal((4, 3, 16, 16)) / 16,
        "slope": np.full((4, 1, 1), 0.25),
        **{name: np.full(4, value) for name, value in (("scale", 1.5), ("shift", 0.1), ("mean", 0.2), ("var", 2.0))},
        "gemm": random.standard_normal((features, 4 * (size // 16) ** 2)),
        "bias": random.standard_normal(features),
    }
    nodes = [
        helper.make_node("Conv", ["input.1", "conv"], ["a"], first, kernel_shape=[16, 16], strides=[16, 16]),
        helper.make_node("PRelu", ["a", "slope"], ["b"], "Mul_1" if first.startswith("Sub") else "PRelu_1"),
        helper.make_node("BatchNormalization", ["b", "scale", "shift", "mean", "var"], ["c"]),
        helper.make_node("Flatten", ["c"], ["d"], axis=1),
        helper.make_node("Gemm", ["d", "gemm", "bias"], ["683"], transB=1),
    ]
    initializers = [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()]
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [batch, 3, size, size])]
    if lists_weights:
        inputs += [helper.make_tensor_value_info(i.name, TensorProto.FLOAT, i.dims) for i in initializers]
    outputs = [helper.make_tensor_value_info("683", TensorProto.FLOAT, [batch, features])]
    graph = helper.make_graph(nodes, "torch-jit-export", inputs, outputs, initializers)
    path.parent.mkdir(exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), path)
    return path


def spec(size: int = 112, features: int = FEATURES):
    model = ModelSpec(32, (3, 32, 32), False, features, 6, 32, size, {"cond": (8,)})
    return engine_specs(model)["identity_encoder"]


@pytest.mark.parametrize(("batch", "lists_weights"), [("None", False), (1, True)])
def test_the_copy_gives_the_packs_own_vectors_at_unit_length(
    tmp_path: Path, batch: int | str, lists_weights: bool
) -> None:
    pack = FacePackNetwork.read(
        arcface(tmp_path / "pack" / "w600k.onnx", batch=batch, lists_weights=lists_weights).parent
    )
    faces = {"face": np.random.default_rng(1).uniform(-1, 1, (3, 3, 112, 112)).astype(np.float32)}
    copied = OrtEngine(serialize(pack.adapted(spec())), spec(), threads=1)(faces)["identity_features"]
    original = pack.reference(spec())(faces)["identity_features"]
    np.testing.assert_allclose(copied, original, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(copied, axis=1), 1, atol=1e-6)
    assert abs(copied[0] @ copied[1]) < 0.99, "different faces, different vectors"


def test_the_copys_weights_are_the_packs_bytes(tmp_path: Path) -> None:
    path = arcface(tmp_path / "pack" / "w600k.onnx")
    pack = FacePackNetwork.read(path.parent)
    stored = {i.name: i.SerializeToString() for i in onnx.load(path).graph.initializer}
    assert {i.name: i.SerializeToString() for i in pack.adapted(spec()).graph.initializer} == stored
    assert pack.record == {
        "licence": LICENCE,
        "commercial_use": "no",
        "source": "w600k.onnx",
        "source_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_networks_of_a_pack_that_recognise_nobody_are_passed_over(tmp_path: Path) -> None:
    arcface(tmp_path / "pack" / "2d106det.onnx", size=192)
    arcface(tmp_path / "pack" / "genderage.onnx", size=96)
    arcface(tmp_path / "pack" / "glintr100.onnx")
    assert FacePackNetwork.read(tmp_path / "pack").file == "glintr100.onnx"


def test_none_two_and_damaged_files_are_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "pack"
    with pytest.raises(BundleError, match="is not a folder; unpack"):
        FacePackNetwork.read(folder)
    arcface(folder / "genderage.onnx", size=96)
    with pytest.raises(BundleError, match=r"must hold one recognition network .* found none"):
        FacePackNetwork.read(folder)
    arcface(folder / "a.onnx"), arcface(folder / "b.onnx")
    with pytest.raises(BundleError, match=r"found a\.onnx, b\.onnx"):
        FacePackNetwork.read(folder)
    (folder / "a.onnx").write_bytes(b"\xff\xff no network")
    with pytest.raises(BundleError, match=r"a\.onnx is not an ONNX file"):
        FacePackNetwork.read(folder)


def test_a_network_of_another_width_or_scale_is_refused(tmp_path: Path) -> None:
    wide = FacePackNetwork.read(arcface(tmp_path / "wide" / "w.onnx", features=32).parent)
    with pytest.raises(BundleError, match=r"w\.onnx gives 32 features, this model takes 64"):
        wide.adapted(spec())
    with pytest.raises(BundleError, match=r"old\.onnx scales pixels from 0\.\.255 itself"):
        FacePackNetwork.read(arcface(tmp_path / "old" / "old.onnx", first="Sub_0").parent)
