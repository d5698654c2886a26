"""Parity notices what it must, and reference inputs look like inputs."""

from __future__ import annotations

import numpy as np
import pytest

from export.parity import cases, compare
from export.reference import ReferenceInputs
from runtime.spec import EngineSpec, ModelSpec, engine_specs

SPECS = engine_specs(
    ModelSpec(
        image_size=32,
        sample_shape=(4, 8, 8),
        is_latent=True,
        features=16,
        audio_features=8,
        clip_image_size=32,
        identity_size=32,
        cond={"cond": (16,)},
    )
)
INPUTS = ReferenceInputs(vocabulary=600, start_token=0, end_token=1, num_train_timesteps=1000)


def test_errors_are_the_worst_of_all_outputs_each_relative_to_its_own_scale() -> None:
    expected = {"years": np.array([100.0, 50.0]), "probability": np.array([0.5, 0.25])}
    actual = {"years": np.array([100.0, 50.5]), "probability": np.array([0.5, 0.2])}
    parity = compare(expected, actual)
    assert parity.max_abs_error == pytest.approx(0.5)
    assert parity.relative_error == pytest.approx(0.1)


def test_not_a_number_is_the_largest_error_and_null_in_a_manifest() -> None:
    ones, broken = np.ones(2, np.float32), np.array([1, np.nan], np.float32)
    for expected, actual in (({"a": ones, "b": ones}, {"a": broken, "b": ones}), ({"a": broken}, {"a": broken})):
        assert compare(expected, actual).to_dict() == {"max_abs_error": None, "relative_error": None}


def test_an_output_of_zeros_can_be_compared() -> None:
    zeros = np.zeros(3, np.float32)
    assert compare({"x": zeros}, {"x": zeros}).relative_error == 0
    assert compare({"x": zeros}, {"x": zeros + 1e-3}).relative_error > 1


def test_a_missing_output_is_an_error() -> None:
    with pytest.raises(KeyError, match="x"):
        compare({"x": np.ones(1)}, {})


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_reference_inputs_fit_the_spec_and_repeat(spec: EngineSpec) -> None:
    for sizes in cases(spec):
        arrays = INPUTS(spec, sizes)
        assert spec.check_inputs(arrays) == sizes
        again = INPUTS(spec, sizes)
        for name, values in arrays.items():
            np.testing.assert_array_equal(values, again[name])
            assert np.any(values != values.flat[0]) or values.size == 1, f"{name} is constant"


def test_reference_texts_end_once_before_their_padding() -> None:
    arrays = INPUTS(SPECS["text_encoder"], {"B": 4})
    for ids, mask in zip(arrays["input_ids"], arrays["attention_mask"], strict=True):
        length = int(mask.sum())
        assert ids[0] == INPUTS.start_token
        assert np.argmax(ids == INPUTS.end_token) == length - 1
        assert (ids[length:] == INPUTS.end_token).all() and not mask[length:].any()


def test_other_seeds_give_other_inputs() -> None:
    other = INPUTS.seeded(1)
    sample, sizes = SPECS["unet"], {"B": 1}
    assert np.any(INPUTS(sample, sizes)["sample"] != other(sample, sizes)["sample"])
