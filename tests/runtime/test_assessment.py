"""What a report says of the person: against the evaluation's own definition, on fake engines, and through a pipeline."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image

from runtime.assessment import Assessor, cosine, directional, sentence
from runtime.emotions import EMOTIONS
from runtime.errors import EngineError
from runtime.pipeline import Pipeline
from runtime.request import GenerateRequest
from runtime.spec import ModelSpec
from tests.fakes import MODEL, fake_bundle
from training.evaluation import words

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
OTHER = RNG.integers(150, 256, (16, 16, 3), dtype=np.uint8)
TEXTS = ("a sad man", "a happy old man")


def pixels(picture):
    return (picture.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32)


@pytest.fixture
def bundle(tmp_path):
    return fake_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def photo() -> bytes:
    file = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (80, 64, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_the_direction_is_the_evaluation_s():
    seen, said = RNG.standard_normal((2, 2, 64))
    expected = words.directional(seen[1:], seen[:1], said[1:], said[:1])[0]
    assert directional(seen, said) == pytest.approx(expected, abs=1e-4)
    assert directional(seen * [[3], [0.2]], said) == directional(seen, said), "lengths say nothing"


def test_a_picture_that_moves_as_the_words_do_has_direction_one():
    before, after = np.eye(8)[:2]
    assert directional(np.stack([before, after]), np.stack([before, after])) == 1
    assert directional(np.stack([after, before]), np.stack([before, after])) == -1
    assert directional(np.stack([before, before]), np.stack([before, after])) == 0, "a picture that stays has none"


def test_words_that_hardly_differ_have_no_direction():
    word = RNG.standard_normal(64)
    assert directional(RNG.standard_normal((2, 64)), np.stack([word, word * 1.001])) is None
    assert words.SMALLEST_CHANGE == 0.1


def test_a_cosine_is_one_for_a_vector_and_itself():
    vector = RNG.standard_normal(32).astype(np.float32)
    assert cosine(vector, 5 * vector) == pytest.approx(1) and cosine(vector, -vector) == pytest.approx(-1)
    assert cosine(vector, 0 * vector) == 0


@pytest.mark.parametrize(
    ("age", "emotion", "expected"),
    [
        (40.6, "happy", "a photo of a person, 41 years old, looking happy"),
        (None, "disgust", "a photo of a person, looking disgusted"),
        (7, None, "a photo of a person, 7 years old"),
    ],
)
def test_words_say_what_is_known(age, emotion, expected):
    assert sentence(age, emotion) == expected


def test_a_photo_is_the_person_on_it(bundle):
    same = Assessor(bundle)(pixels(PICTURE), PICTURE, TEXTS)
    assert same["id_sim"] == 1 and same["before"] == same["after"] and same["s_dir"] == 0
    assert Assessor(bundle)(pixels(PICTURE), OTHER)["id_sim"] < 1


def test_what_the_estimators_see_is_told_of_both(bundle):
    found = json.loads(json.dumps(Assessor(bundle)(pixels(PICTURE), OTHER, TEXTS)))
    assert set(found) == {"id_sim", "before", "after", "s_dir"} and -1 <= found["s_dir"] <= 1
    for name, picture in (("before", PICTURE), ("after", OTHER)):
        image = pixels(picture)[None]
        age = bundle.engine("age_estimator")({"image": image})["age"].item()
        felt = bundle.engine("emotion_estimator")({"image": image})
        assert found[name]["age"] == pytest.approx(age, abs=0.051)
        assert found[name]["emotion"] == EMOTIONS[int(felt["emotion"][0].argmax())]
        assert found[name]["valence_arousal"] == pytest.approx(felt["valence_arousal"][0].tolist(), abs=0.0051)


def test_engines_are_opened_only_for_what_is_told(bundle):
    Assessor(bundle)(pixels(PICTURE), OTHER)
    opened = {name for _, name in bundle._engines}
    assert opened == {"identity_encoder", "age_estimator", "emotion_estimator"}
    assert all(len(engine.calls) == 1 for engine in bundle._engines.values()), "photo and picture share a call"


def test_a_bundle_without_estimators_tells_the_person_only(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle", ModelSpec(**{**MODEL.to_dict(), "has_estimators": False}))
    assert set(Assessor(bundle)(pixels(PICTURE), OTHER)) == {"id_sim"}


def test_a_network_that_gives_nan_is_named(bundle, monkeypatch):
    engine = bundle.engine("identity_encoder")
    monkeypatch.setitem(
        bundle._engines, ("onnx", "identity_encoder"), lambda inputs: {k: v * np.nan for k, v in engine(inputs).items()}
    )
    with pytest.raises(EngineError, match="identity_encoder: output 'identity_features' is not finite"):
        Assessor(bundle)(pixels(PICTURE), OTHER)


# --- through a pipeline


def report_of(pipeline, **fields):
    return pipeline(GenerateRequest(**{"num_inference_steps": 2, "seed": 1, **fields})).report


@pytest.fixture
def pipeline(tmp_path):
    with Pipeline(fake_bundle(tmp_path / "bundle")) as pipeline:
        yield pipeline


def test_a_request_with_a_reference_is_assessed_and_one_without_is_not(pipeline, photo):
    with_photo, without = report_of(pipeline, reference=photo), report_of(pipeline, age=30)
    assert {"id_sim", "before", "after"} <= set(with_photo) and with_photo["timings_ms"]["assess"] > 0
    assert not {"id_sim", "before", "after", "s_dir"} & set(without) and "assess" not in without["timings_ms"]


def test_whoever_does_not_want_it_does_not_wait_for_it(pipeline, photo):
    report = report_of(pipeline, reference=photo, options={"assess": False})
    assert "id_sim" not in report and "assess" not in report["timings_ms"]


@pytest.mark.parametrize(
    ("fields", "texts"),
    [
        ({"age": 70}, ("a photo of a person, {age} years old, looking {emotion}", "a photo of a person, 70 years old, looking {emotion}")),
        ({"emotion": "sad"}, ("a photo of a person, {age} years old, looking {emotion}", "a photo of a person, {age} years old, looking sad")),
        ({"age": 70, "valence_arousal": (0.9, 0.0)}, ("a photo of a person, {age} years old", "a photo of a person, 70 years old")),
        ({"text": "an old man", "options": {"source_text": "a boy"}}, ("a boy", "an old man")),
        ({"text": "an old man"}, None),
        ({}, None),
    ],
    ids=["age", "emotion", "age and feeling", "words for both", "words for one", "nothing"],
)  # fmt: skip
def test_the_direction_is_measured_with_words_that_are_known_for_both(pipeline, photo, fields, texts):
    report = report_of(pipeline, reference=photo, edit_from_timestep=500, **fields)
    if texts is None:
        assert "s_dir" not in report and "s_dir_texts" not in report
        return
    before = {"age": f"{report['before']['age']:.0f}", "emotion": report["before"]["emotion"]}
    assert report["s_dir_texts"] == [text.format(**before) for text in texts]
    assert report["s_dir"] is None or -1 <= report["s_dir"] <= 1


def test_a_look_at_one_picture_sees_what_a_comparison_sees_after(bundle):
    assessor = Assessor(bundle)
    assert assessor.look(PICTURE) == assessor(pixels(OTHER), PICTURE)["after"]
    assert assessor.look(PICTURE) != assessor.look(OTHER)
