"""A request becomes arrays that are always there, and a `present` mask that says which are meant."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.errors import RequestError
from runtime.preprocess import Preprocessor
from runtime.preprocess.prepared import Prepared
from runtime.request import GenerateRequest
from runtime.settings import SampleSettings
from runtime.spec import SOURCES, engine_specs
from tests.fakes import GUIDANCE_SCALE, MODEL, write_bundle


@pytest.fixture(scope="module")
def preprocess(tmp_path_factory: pytest.TempPathFactory) -> Preprocessor:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    write_bundle(folder)
    return Preprocessor(MODEL, folder / "tokenizer.json", GUIDANCE_SCALE)


@pytest.fixture(scope="module")
def full() -> GenerateRequest:
    photo, voice = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (40, 30), "tan").save(photo, "JPEG")
    soundfile.write(voice, np.sin(np.arange(30_000) / 9), 44_100, format="WAV")
    return GenerateRequest(
        text="a smiling old man",
        audio=voice.getvalue(),
        reference=photo.getvalue(),
        age=72,
        emotion="happy",
        emotion_intensity=0.5,
        valence_arousal=(0.25, -0.5),
        seed=7,
        num_inference_steps=20,
        guidance_scale=4.0,
    )


def given(prepared: Prepared) -> set[str]:
    return {source for source in SOURCES if prepared.has(source)}


def test_everything_given_is_present_and_fits_the_engines_that_read_it(preprocess, full):
    prepared = preprocess(full)
    assert given(prepared) == set(SOURCES)
    tensors = prepared.to_tensors()
    for spec in engine_specs(MODEL).values():
        for tensor in spec.inputs:
            if tensor.name in tensors:
                tensor.check(spec.name, tensors[tensor.name], {})
    assert prepared.age.tolist() == [[72]] and prepared.valence_arousal.tolist() == [[0.25, -0.5]]
    assert prepared.emotion.tolist() == [[0, 0, 0.5, 0, 0, 0, 0, 0]]


def settings_of(prepared):
    return SampleSettings.from_array(prepared.settings)


def test_sampling_settings_are_resolved(preprocess, full):
    asked, default = settings_of(preprocess(full)), settings_of(preprocess(GenerateRequest(age=3)))
    assert (asked.seed, asked.num_inference_steps, asked.guidance_scale) == (7, 20, 4.0)
    assert (default.num_inference_steps, default.guidance_scale) == (50, GUIDANCE_SCALE)


def test_an_absent_seed_is_drawn_anew_each_time_and_the_report_says_so(preprocess):
    first, second = (preprocess(GenerateRequest(age=3)) for _ in range(2))
    assert settings_of(first).seed != settings_of(second).seed and first.report["seed_was_random"]
    assert not preprocess(GenerateRequest(age=3, seed=0)).report["seed_was_random"]


def test_absent_arrays_keep_type_and_rank_and_are_one_zero(preprocess, full):
    absent, present = preprocess(GenerateRequest(valence_arousal=(0, 0))).to_tensors(), preprocess(full).to_tensors()
    assert absent.keys() == present.keys()
    for name, array in absent.items():
        assert (array.dtype, array.ndim) == (present[name].dtype, present[name].ndim), name
    for name in ("input_ids", "attention_mask", "input_values", "pixel_values", "face", "image", "age", "emotion"):
        assert absent[name].size == 1 and not absent[name].any()


@pytest.mark.parametrize(
    ("text", "sources", "inferred"),
    [
        ("a red house", {"text"}, {}),
        ("an old man", {"text", "age_text"}, {"age_text": "old man"}),
        ("an angry man", {"text", "emotion_text"}, {"emotion_text": "angry"}),
    ],
)
def test_a_text_gives_the_phrases_it_holds(preprocess, text, sources, inferred):
    prepared = preprocess(GenerateRequest(text=text))
    assert given(prepared) == sources and prepared.report["inferred"] == inferred
    for row, source in enumerate(("text", "age_text", "emotion_text")):
        assert prepared.attention_mask[row].any() == (source in sources)


def test_a_text_that_is_cut_is_warned_about(preprocess):
    assert preprocess(GenerateRequest(text="a man")).report["warnings"] == []
    (warning,) = preprocess(GenerateRequest(text="a man " * 100)).report["warnings"]
    assert warning.startswith("text: longer than 77 tokens")


def test_a_silent_voice_is_warned_about(preprocess):
    def warnings(level: float) -> list[str]:
        file = io.BytesIO()
        soundfile.write(file, level * np.sin(np.arange(8000)), 16_000, format="WAV")
        return preprocess(GenerateRequest(audio=file.getvalue())).report["warnings"]

    assert warnings(0.1) == [] and warnings(0.0) == ["audio: silent, it says nothing about a face"]


def test_files_are_decoded_by_whom_the_preprocessor_was_given(tmp_path):
    write_bundle(tmp_path / "bundle")
    asked = []

    def decode(field: str, data: bytes) -> np.ndarray:
        asked.append((field, data))
        shape = {"reference": (20, 30, 3), "mask": (20, 30), "audio": (8000,)}[field]
        return np.zeros(shape, np.float32 if field == "audio" else np.uint8)

    preprocess = Preprocessor(MODEL, tmp_path / "bundle" / "tokenizer.json", GUIDANCE_SCALE, decode)
    preprocess(GenerateRequest(audio=b"v", reference=b"p", mask=b"m", edit_from_timestep=500))
    assert asked == [("audio", b"v"), ("reference", b"p"), ("mask", b"m")]


def test_photo_and_mask_have_sizes_that_the_model_can_use(preprocess):
    def picture(width: int, height: int) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", (width, height)).save(file, "PNG")
        return file.getvalue()

    with pytest.raises(RequestError, match=r"reference: got 40x15 px, allowed 16\.\.4096 px per side"):
        preprocess(GenerateRequest(reference=picture(40, 15)))
    edit = GenerateRequest(reference=picture(40, 30), mask=picture(30, 40), edit_from_timestep=500)
    with pytest.raises(RequestError, match="mask: got 30x40 px, allowed 40x30 px as the photo has"):
        preprocess(edit)
    assert preprocess(dataclasses.replace(edit, mask=picture(40, 30))).mask.shape == (1, 1, 16, 16)


def test_tensors_survive_the_way_back_and_notes_are_json_bytes(preprocess, full):
    prepared = preprocess(full)
    again = Prepared.from_tensors(prepared.to_tensors())
    assert all(
        np.array_equal(a, b) for a, b in zip(again.to_tensors().values(), prepared.to_tensors().values(), strict=True)
    )
    assert json.loads(prepared.notes[0]) == prepared.report
    assert prepared.report["conditions"] == list(full.conditions)


def test_without_a_condition_a_request_is_refused_and_the_message_lists_them(preprocess):
    with pytest.raises(
        RequestError, match="request: no condition given; give at least one of text, audio, ref"
    ) as caught:
        preprocess(GenerateRequest(seed=1, needs_condition=False))
    assert caught.value.field == "request" and caught.value.code == "INVALID_ARGUMENT"


def test_a_model_without_conditions_takes_none_and_needs_no_tokenizer(tmp_path):
    noise_alone = Preprocessor(dataclasses.replace(MODEL, cond={}), tmp_path / "nothing", 1.0)
    assert settings_of(noise_alone(GenerateRequest(seed=3, needs_condition=False))).seed == 3
    with pytest.raises(RequestError, match=r"age: this bundle draws from noise alone .* leave age, emotion out"):
        noise_alone(GenerateRequest(age=30, emotion="happy"))
    with pytest.raises(RequestError, match=r"guidance_scale: got 3; this bundle draws from noise alone"):
        noise_alone(GenerateRequest(guidance_scale=3, needs_condition=False))
