"""The tensor contracts: what they check, what they derive, and that they survive JSON."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from runtime.errors import BundleError, EngineError
from runtime.request import FIELD_BY_NAME
from runtime.spec import MAX_BATCH, SOURCES, EngineSpec, ModelSpec, TensorSpec, engine_specs
from tests.fakes import MODEL

PIXELS = dataclasses.replace(MODEL, is_latent=False, sample_shape=(3, 16, 16))
SPEC = EngineSpec(
    "mixer",
    (TensorSpec("x", "float32", ("B", 3, "T")), TensorSpec("n", "int64", ("B",))),
    (TensorSpec("y", "float32", ("B", "T")),),
    {"B": (1, 2, 4), "T": (5, 6, 7)},
)


def x(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_sizes_are_read_from_the_inputs():
    assert SPEC.check_inputs({"x": x(2, 3, 6), "n": np.zeros(2, np.int64)}) == {"B": 2, "T": 6}


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": x(2, 3, 6)}, r"mixer: got inputs \['x'\], expected \['n', 'x'\]"),
        ({"x": x(2, 3, 6), "n": np.zeros(2, np.int64), "z": x(1)}, "got inputs"),
        ({"x": x(2, 3, 6), "n": np.zeros(2, np.int32)}, "'n' has dtype int32, expected int64"),
        ({"x": x(2, 6), "n": np.zeros(2, np.int64)}, r"'x' has shape \(2, 6\), expected 3 dimensions"),
        ({"x": x(2, 4, 6), "n": np.zeros(2, np.int64)}, r"'x' has shape \(2, 4, 6\), expected \(2, 3, "),
        ({"x": x(2, 3, 6), "n": np.zeros(3, np.int64)}, "'n' has shape"),
        ({"x": x(5, 3, 6), "n": np.zeros(5, np.int64)}, r"B is 5; the profile allows 1\.\.4\. Split the input"),
        ({"x": x(1, 3, 4), "n": np.zeros(1, np.int64)}, r"T is 4; the profile allows 5\.\.7"),
        ({"x": x(0, 3, 6), "n": np.zeros(0, np.int64)}, "B is 0"),
    ],
)
def test_wrong_inputs_are_named_with_what_is_allowed(inputs, message):
    with pytest.raises(EngineError, match=message):
        SPEC.check_inputs(inputs)


@pytest.mark.parametrize("outputs", [{}, {"y": x(2, 5)}, {"y": x(1, 6)}, {"y": np.zeros((2, 6))}])
def test_wrong_outputs_are_engine_errors(outputs):
    with pytest.raises(EngineError, match=r"mixer: .*'y'"):
        SPEC.check_outputs(outputs, {"B": 2, "T": 6})
    SPEC.check_outputs({"y": x(2, 6)}, {"B": 2, "T": 6})


def test_a_profile_holds_the_smallest_usual_and_largest_shape_of_each_input():
    assert SPEC.profile() == {"x": ((1, 3, 5), (2, 3, 6), (4, 3, 7)), "n": ((1,), (2,), (4,))}


@pytest.mark.parametrize("model", [MODEL, PIXELS, dataclasses.replace(MODEL, has_estimators=False)])
def test_every_letter_of_every_engine_has_a_range_with_min_opt_max_in_order(model):
    for spec in engine_specs(model).values():
        letters = {d for tensor in (*spec.inputs, *spec.outputs) for d in tensor.shape if isinstance(d, str)}
        assert letters == set(spec.ranges)
        assert all(0 < low <= opt <= high for low, opt, high in spec.ranges.values())


def test_which_engines_there_are_follows_from_the_model():
    always = {"text_encoder", "audio_encoder", "image_encoder", "identity_encoder", "fusion", "unet"}
    estimators = {"age_estimator", "emotion_estimator"}
    assert set(engine_specs(MODEL)) == always | estimators | {"encoder", "decoder"}
    assert set(engine_specs(PIXELS)) == always | estimators
    assert set(engine_specs(dataclasses.replace(PIXELS, has_estimators=False))) == always
    noise_alone = engine_specs(dataclasses.replace(MODEL, cond={}, has_estimators=False))
    assert list(noise_alone) == ["unet", "encoder", "decoder"]
    assert [tensor.name for tensor in noise_alone["unet"].inputs] == ["sample", "timestep"]


def test_fusion_s_outputs_are_the_unet_s_inputs():
    specs = engine_specs(MODEL)
    assert specs["fusion"].outputs == specs["unet"].inputs[2:]
    assert {tensor.name: tensor.shape[1:] for tensor in specs["fusion"].outputs} == dict(MODEL.cond)


def test_every_feature_that_fusion_reads_is_made_by_an_encoder_of_the_same_width():
    specs = engine_specs(MODEL)
    made = {tensor.name: tensor.shape for name, spec in specs.items() if "encoder" in name for tensor in spec.outputs}
    for tensor in specs["fusion"].inputs:
        if tensor.name.endswith("_features"):
            maker = tensor.name.replace("age_text", "text").replace("emotion_text", "text")
            assert made[maker] == tensor.shape


def test_request_fields_and_fusion_inputs_of_one_name_have_one_width():
    inputs = {tensor.name: tensor for tensor in engine_specs(MODEL)["fusion"].inputs}
    for name in ("age", "valence_arousal"):
        assert inputs[name].shape == ("B", FIELD_BY_NAME[name].width)
    assert inputs["present"].shape == ("B", len(SOURCES))


def test_the_unet_takes_eight_guided_requests():
    assert engine_specs(MODEL)["unet"].ranges["B"] == (1, 1, MAX_BATCH) and MAX_BATCH == 16


def test_a_model_survives_json():
    assert ModelSpec.from_dict(json.loads(json.dumps(MODEL.to_dict()))) == MODEL


@pytest.mark.parametrize(
    ("change", "message"),
    [({"flavour": 1}, "unknown entries"), ({"cond": None}, None), ({"sample_shape": (3, 8, 8)}, None)],
)
def test_a_damaged_model_is_refused(change, message):
    values = {**PIXELS.to_dict(), **change}
    with pytest.raises((BundleError, AttributeError), match=message):
        ModelSpec.from_dict(values)


def test_a_model_that_lacks_an_entry_names_it():
    values = MODEL.to_dict()
    del values["features"]
    with pytest.raises(BundleError, match="features"):
        ModelSpec.from_dict(values)
