"""Which encoders run for which request, and what fusion is told. On fake engines, whose calls can be read."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.conditioning import Conditioner
from runtime.emotions import EMOTIONS
from runtime.errors import EngineError
from runtime.preprocess import Preprocessor
from runtime.request import GenerateRequest
from runtime.spec import SOURCES
from tests.fakes import GUIDANCE_SCALE, fake_bundle


def photo() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (40, 48, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def voice() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, np.sin(np.arange(8000) / 10), 16_000, format="WAV")
    return file.getvalue()


@pytest.fixture
def bundle(tmp_path):
    return fake_bundle(tmp_path / "bundle")


def conditioned(bundle, **request):
    prepared = Preprocessor(bundle.model, bundle.tokenizer_path, GUIDANCE_SCALE)(GenerateRequest(**request))
    return Conditioner(bundle)(prepared)


def ran(bundle) -> dict[str, int]:
    """Engine -> number of calls, fusion left out."""
    return {name: len(engine.calls) for (_, name), engine in bundle._engines.items() if name != "fusion"}


def told(bundle) -> dict[str, np.ndarray]:
    """What fusion was given, its batch dimension removed."""
    return {name: array[0] for name, array in bundle.engine("fusion").calls[-1].items()}


def present(bundle) -> set[str]:
    return {source for source, given in zip(SOURCES, told(bundle)["present"], strict=True) if given}


@pytest.mark.parametrize(
    ("request_fields", "engines"),
    [
        ({"age": 30}, {}),
        ({"emotion": "happy"}, {}),
        ({"text": "a red house"}, {"text_encoder": 1}),
        ({"text": "a smiling old man"}, {"text_encoder": 1}),
        ({"audio": voice()}, {"audio_encoder": 1}),
        (
            {"reference": photo(), "age": 30, "emotion": "sad"},
            {"image_encoder": 1, "identity_encoder": 1},
        ),
        (
            {"reference": photo()},
            {"image_encoder": 1, "identity_encoder": 1, "age_estimator": 1, "emotion_estimator": 1},
        ),
    ],
)
def test_only_the_engines_that_a_request_needs_run_and_each_once(bundle, request_fields, engines):
    conditioned(bundle, **request_fields)
    assert ran(bundle) == engines


def test_cond_has_the_entries_of_the_model_without_batch(bundle):
    cond = conditioned(bundle, age=30)
    assert {name: array.shape for name, array in cond.cond.items()} == dict(bundle.model.cond)


def test_what_is_absent_reaches_fusion_as_zeros_and_not_present(bundle):
    conditioned(bundle, age=30)
    assert present(bundle) == {"age"}
    assert all(not array.any() for name, array in told(bundle).items() if name not in ("age", "present"))
    assert told(bundle)["age"] == [30]


def test_text_and_its_two_phrases_are_encoded_in_one_call_and_land_in_their_own_inputs(bundle):
    conditioned(bundle, text="a smiling old man")
    call = bundle.engine("text_encoder").calls[0]
    assert call["input_ids"].shape == (3, 77)
    features = [told(bundle)[f"{source}_features"] for source in ("text", "age_text", "emotion_text")]
    expected = bundle.engine("text_encoder")(call)["text_features"]
    np.testing.assert_array_equal(features, expected)
    assert present(bundle) == {"text", "age_text", "emotion_text"}


def test_a_text_that_says_only_an_emotion_leaves_the_age_phrase_absent(bundle):
    conditioned(bundle, text="an angry man")
    assert present(bundle) == {"text", "emotion_text"}
    assert bundle.engine("text_encoder").calls[0]["input_ids"].shape == (2, 77)
    assert not told(bundle)["age_text_features"].any() and told(bundle)["emotion_text_features"].any()


def test_a_voice_gives_both_of_its_features(bundle):
    conditioned(bundle, audio=voice())
    assert present(bundle) == {"audio"}
    assert told(bundle)["audio_features"].any() and told(bundle)["audio_emotion_features"].any()


def test_a_label_is_one_hot_times_intensity(bundle):
    conditioned(bundle, emotion="sad", emotion_intensity=0.5)
    np.testing.assert_array_equal(told(bundle)["emotion"], 0.5 * np.eye(8, dtype=np.float32)[EMOTIONS.index("sad")])


def test_a_lone_photo_gets_age_and_emotion_from_the_estimators_and_the_report_says_so(bundle):
    report = conditioned(bundle, reference=photo()).report
    assert present(bundle) == {"image", "identity", "age", "emotion", "valence_arousal"}
    estimated = bundle.engine("age_estimator")(bundle.engine("age_estimator").calls[0])["age"][0]
    np.testing.assert_array_equal(told(bundle)["age"], np.clip(estimated, 0, 120))
    assert set(report["inferred"]) == {"age", "emotion", "valence_arousal"}
    assert report["inferred"]["emotion"] in EMOTIONS


@pytest.mark.parametrize("given", [{"age": 70}, {"text": "an old man"}])
def test_the_age_estimator_is_silent_when_age_is_given_in_any_form(bundle, given):
    report = conditioned(bundle, reference=photo(), **given).report
    assert "age_estimator" not in ran(bundle) and "age" not in report["inferred"]


@pytest.mark.parametrize(
    "given", [{"emotion": "calm"}, {"valence_arousal": (0.1, 0.2)}, {"text": "an angry man"}, {"audio": voice()}]
)
def test_the_emotion_estimator_is_silent_when_emotion_is_given_in_any_form(bundle, given):
    report = conditioned(bundle, reference=photo(), **given).report
    assert "emotion_estimator" not in ran(bundle) and "emotion" not in report["inferred"]


def test_the_report_keeps_the_request_s_part_and_adds_its_time_and_what_computed(bundle):
    report = conditioned(bundle, text="a smiling old man").report
    assert report["condition_provider"] == "fake"
    assert report["conditions"] == ["text"]
    assert report["inferred"] == {"age_text": "old man", "emotion_text": "smiling"}
    assert set(report["timings_ms"]) == {"preprocess", "condition"}


def test_features_that_are_not_finite_are_an_engine_error_and_never_a_face(bundle):
    class Broken:
        def __call__(self, inputs):
            return {"cond": np.full((1, 8), np.nan, np.float32)}

    bundle._engines["onnx", "fusion"] = Broken()
    with pytest.raises(EngineError, match="fusion: output 'cond' is not finite"):
        conditioned(bundle, age=30)


# --- edits: the photo described a second time, as it is

EDIT = {"reference": photo(), "edit_from_timestep": 500}


def told_twice(bundle) -> list[dict[str, np.ndarray]]:
    """What fusion was given for the photo as it is and for what is asked."""
    return [{name: array[0] for name, array in call.items()} for call in bundle.engine("fusion").calls]


def sources_in(inputs) -> set[str]:
    return {source for source, given in zip(SOURCES, inputs["present"], strict=True) if given}


def test_an_edit_describes_its_photo_as_it_is_beside_what_is_asked(bundle):
    result = conditioned(bundle, **EDIT, age=70)
    source, target = told_twice(bundle)
    photo_alone = {"image", "identity", "age", "emotion", "valence_arousal"}
    assert sources_in(source) == sources_in(target) == photo_alone
    assert target["age"] == 70 != source["age"]
    assert [name for name in source if not np.array_equal(source[name], target[name])] == ["age"]
    assert result.source_cond.keys() == result.cond.keys()
    assert {name: array.shape for name, array in result.source_cond.items()} == bundle.model.cond


def test_the_sampler_learns_on_whose_behalf_it_works(bundle):
    prepared = Preprocessor(bundle.model, bundle.tokenizer_path, GUIDANCE_SCALE)(GenerateRequest(**EDIT))
    assert Conditioner(bundle)(prepared, "a tenant").settings.tenant == "a tenant"
    assert conditioned(bundle, **EDIT).settings.tenant == ""


def test_where_nothing_is_asked_photo_and_target_are_the_same(bundle):
    result = conditioned(bundle, **EDIT)
    for name, array in result.cond.items():
        np.testing.assert_array_equal(result.source_cond[name], array)


def test_what_the_report_calls_inferred_is_what_was_left_open(bundle):
    assert set(conditioned(bundle, **EDIT, age=70).report["inferred"]) == {"emotion", "valence_arousal"}
    assert set(conditioned(bundle, **EDIT, age=70, emotion="sad").report["inferred"]) == set()


@pytest.mark.parametrize(
    "request_fields",
    [{"age": 70, "reference": photo()}, {**EDIT, "age": 70, "options": {"source": "none"}}],
    ids=["a generation", "source none"],
)
def test_without_need_nothing_is_described_twice(bundle, request_fields):
    assert conditioned(bundle, **request_fields).source_cond is None
    assert len(bundle.engine("fusion").calls) == 1


def test_words_for_the_photo_are_its_own_and_stand_for_the_target_where_it_has_none(bundle):
    conditioned(bundle, **EDIT, age=70, options={"source_text": "a boy"})
    source, target = told_twice(bundle)
    assert "text" in sources_in(source) & sources_in(target)
    np.testing.assert_array_equal(source["text_features"], target["text_features"])
    conditioned(bundle, **EDIT, text="an old man", options={"source_text": "a boy"})
    source, target = told_twice(bundle)[2:]
    assert not np.array_equal(source["text_features"], target["text_features"])
    assert sources_in(target) - sources_in(source) == {"age_text"} and sources_in(source) - sources_in(target) == {
        "age"
    }


def test_an_edit_runs_each_network_for_its_photo_once(bundle):
    conditioned(bundle, **EDIT, age=70)
    calls = dict.fromkeys(("image_encoder", "identity_encoder", "age_estimator", "emotion_estimator"), 1)
    assert ran(bundle) == calls
