"""Every engine's ONNX file computes what torch computes, at sizes the exporter never saw, and holds nothing but the network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto

from export.exportable import Exportable, example_inputs, used_networks
from export.parity import compare, run_torch
from export.reference import ReferenceInputs
from export.storage import SMALL_ELEMENTS, store_as_fp16
from export.to_onnx import OPSET, serialize, to_onnx
from runtime.ladder import LIMITS
from runtime.manifest import ONNX
from runtime.spec import EngineSpec, engine_specs
from training.checkpoint import load
from training.model import ENGINE_METHODS, ClipFaceFusion
from training.presets import MICRO_PIXEL

ENGINES = sorted(ENGINE_METHODS)
# Batch 2 and three seconds are the example; the audio encoder takes one clip whatever the profile of the others.
UNSEEN = [{"B": 1, "T": 4_000}, {"B": 4, "T": 12_345}]


@pytest.fixture(scope="module")
def model(micro_checkpoint: Path) -> ClipFaceFusion:
    return load(micro_checkpoint)


@pytest.fixture(scope="module")
def specs(model: ClipFaceFusion) -> dict[str, EngineSpec]:
    return engine_specs(model.spec())


def run_onnx(model: bytes, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def onnx_bytes(bundle: Path, engine: str) -> bytes:
    return (bundle / "onnx" / f"{engine}.onnx").read_bytes()


@pytest.mark.parametrize("engine", ENGINES)
def test_onnx_equals_torch_at_sizes_not_seen_at_export(
    engine: str, model: ClipFaceFusion, specs: dict[str, EngineSpec], micro_bundle: Path
) -> None:
    reference, inputs = Exportable(model, specs[engine]), ReferenceInputs.of(model)
    for sizes in UNSEEN:
        arrays = inputs(specs[engine], sizes)
        parity = compare(run_torch(reference, arrays), run_onnx(onnx_bytes(micro_bundle, engine), arrays))
        assert parity.relative_error <= LIMITS[ONNX].engine, (sizes, parity)


@pytest.mark.parametrize("engine", ENGINES)
def test_inputs_and_outputs_carry_the_names_types_and_letters_of_the_spec(
    engine: str, specs: dict[str, EngineSpec], micro_bundle: Path
) -> None:
    graph = onnx.load_model_from_string(onnx_bytes(micro_bundle, engine)).graph
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    for values, tensors in ((graph.input, specs[engine].inputs), (graph.output, specs[engine].outputs)):
        found = [
            (
                v.name,
                v.type.tensor_type.elem_type,
                tuple(d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim),
            )
            for v in values
        ]
        assert found == [(t.name, types[t.dtype], t.shape) for t in tensors]


@pytest.mark.parametrize("engine", ENGINES)
def test_file_is_plain_opset_20_with_each_weight_once_and_halved(engine: str, micro_bundle: Path) -> None:
    model = onnx.load_model_from_string(onnx_bytes(micro_bundle, engine))
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert not model.functions
    weights = [i for i in model.graph.initializer if len(i.raw_data) > 4 * SMALL_ELEMENTS]
    contents = [(i.data_type, tuple(i.dims), i.raw_data) for i in weights]
    assert len(set(contents)) == len(contents)
    assert not [i.name for i in weights if i.data_location == TensorProto.EXTERNAL]
    wide = [i for i in weights if i.data_type == TensorProto.FLOAT]
    # Products of two weights are no FP16 numbers: Wav2Vec 2.0's position convolution, folded from a direction and a length,
    # and the identity network's last layer, into which the exporter folds the normalisation behind it.
    assert len(wide) == (1 if engine in ("audio_encoder", "identity_encoder") else 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_file_says_nothing_of_the_machine_that_made_it(engine: str, micro_bundle: Path) -> None:
    content = onnx_bytes(micro_bundle, engine)
    repository = Path(__file__).resolve().parents[2]
    for trace in (str(repository), str(Path.home()), "site-packages", ".py", "stack_trace", "pkg.torch"):
        assert trace.encode() not in content


def test_a_second_export_gives_the_same_bytes(
    model: ClipFaceFusion, specs: dict[str, EngineSpec], micro_bundle: Path
) -> None:
    again = to_onnx(Exportable(model, specs["emotion_estimator"]))
    store_as_fp16(again)
    assert serialize(again) == onnx_bytes(micro_bundle, "emotion_estimator")


def test_weights_stored_in_fp16_compute_exactly_as_weights_stored_in_fp32(
    model: ClipFaceFusion, specs: dict[str, EngineSpec], micro_bundle: Path
) -> None:
    halved = onnx_bytes(micro_bundle, "image_encoder")
    whole = serialize(to_onnx(Exportable(model, specs["image_encoder"])))
    arrays = ReferenceInputs.of(model)(specs["image_encoder"], {"B": 3})
    assert len(halved) < 0.6 * len(whole)
    np.testing.assert_array_equal(run_onnx(halved, arrays)["image_features"], run_onnx(whole, arrays)["image_features"])


def test_unet_of_a_pixel_model_takes_cond_alone(model: ClipFaceFusion) -> None:
    torch.manual_seed(0)
    pixel = ClipFaceFusion(MICRO_PIXEL, model.tokenizer).eval()
    spec = engine_specs(pixel.spec())["unet"]
    assert [tensor.name for tensor in spec.inputs] == ["sample", "timestep", "cond"]
    engine = Exportable(pixel, spec)
    arrays = ReferenceInputs.of(pixel)(spec, {"B": 3})
    parity = compare(run_torch(engine, arrays), run_onnx(serialize(to_onnx(engine)), arrays))
    assert parity.relative_error <= LIMITS[ONNX].engine, parity


def test_an_engine_holds_only_the_networks_it_runs(model: ClipFaceFusion, specs: dict[str, EngineSpec]) -> None:
    assert used_networks(model, "decode", example_inputs(specs["decoder"])) == {"autoencoder"}
    assert set(dict(Exportable(model, specs["fusion"]).model.named_children())) == {"conditioner"}
    assert model.unet is not None, "the model itself keeps every network"


def test_a_model_without_the_fusion_module_exports_and_its_onnx_equals_torch(
    model: ClipFaceFusion, specs: dict[str, EngineSpec]
) -> None:
    plain = ClipFaceFusion(replace(model.config, fusion="mean"), model.tokenizer)
    plain.load_state_dict(model.state_dict())
    engine, arrays = Exportable(plain.eval(), specs["fusion"]), ReferenceInputs.of(plain)(specs["fusion"], UNSEEN[1])
    exported = serialize(to_onnx(engine))
    parity = compare(run_torch(engine, arrays), run_onnx(exported, arrays))
    assert parity.relative_error <= LIMITS[ONNX].engine
    assert not any(
        "query_key_value" in weight.name for weight in onnx.load_model_from_string(exported).graph.initializer
    )
