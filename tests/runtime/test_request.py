"""The request table: what is accepted, what is refused and how, and that flags and tensors say the same as keywords."""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pytest

from runtime.emotions import EMOTIONS
from runtime.errors import RequestError
from runtime.request import (
    CONDITIONS,
    FIELDS,
    MAX_FILE_BYTES,
    GenerateRequest,
    add_arguments,
    from_arguments,
)

FULL = GenerateRequest(
    text="Ünïcode man",
    audio=b"voice",
    reference=b"photo",
    age=33.3,
    emotion="calm",
    emotion_intensity=0.25,
    valence_arousal=(0.5, -0.25),
    seed=2**63 - 1,
    num_inference_steps=12,
    guidance_scale=1.5,
    edit_from_timestep=500,
    mask=b"mask",
    preview_every=5,
)


def parsed(*flags: str) -> GenerateRequest:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(parser.parse_args(flags))


@pytest.mark.parametrize("name", CONDITIONS)
def test_each_condition_alone_is_enough(name):
    request = GenerateRequest(**{name: getattr(FULL, name)})
    assert request.conditions == (name,) and request.num_inference_steps == 50


def test_without_a_condition_there_is_no_request_and_the_message_lists_them():
    with pytest.raises(
        RequestError, match="request: no condition given; give at least one of text, audio, reference"
    ) as caught:
        GenerateRequest(seed=1)
    assert caught.value.field == "request" and caught.value.code == "INVALID_ARGUMENT"


def test_a_request_for_noise_alone_says_so():
    assert GenerateRequest(seed=1, needs_condition=False).conditions == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"age": -1}, "age: got -1, allowed 0..120"),
        ({"age": 120.5}, "age: got 120.5, allowed 0..120"),
        ({"age": float("nan")}, "age: got nan, allowed 0..120"),
        ({"age": float("inf")}, "age: got inf"),
        ({"age": "old"}, "age: got 'old', expected a number"),
        ({"age": True}, "age: got True, expected a number"),
        ({"emotion": "hangry"}, "emotion: got 'hangry', allowed neutral, calm"),
        ({"emotion": 3}, "emotion: got 3, expected text"),
        ({"emotion_intensity": 0.5}, "emotion_intensity: given without emotion; give emotion as well"),
        ({"emotion": "sad", "emotion_intensity": 1.01}, "emotion_intensity: got 1.01, allowed 0..1"),
        ({"age": 1, "edit_from_timestep": 500}, "edit_from_timestep: given without reference"),
        ({"reference": b"photo", "mask": b"mask"}, "mask: given without edit_from_timestep"),
        ({"age": 1, "preview_every": 0}, "preview_every: got 0, allowed 1..1000"),
        (
            {"age": 1, "num_inference_steps": 201, "preview_every": 2},
            "preview_every: got 2 of 201 steps, allowed at least 3: 100 previews at most",
        ),
        (
            {"reference": b"photo", "edit_from_timestep": 900, "num_inference_steps": 60, "preview_every": 1},
            "preview_every: got 1 of 120 steps, allowed at least 2: 100 previews at most",
        ),
        (
            {"reference": b"photo", "edit_from_timestep": 900, "preview_every": 2, "options": {"inversion_steps": 900}},
            "preview_every: got 2 of 950 steps, allowed at least 10: 100 previews at most",
        ),
        ({"age": 1, "options": "{"}, "options: not valid JSON"),
        ({"age": 1, "options": "[" * 4096}, "options: not valid JSON"),
        ({"age": 1, "options": "[" * 4097}, "options: got 4097 characters, allowed at most 4096"),
        ({"age": 1, "options": '{"deadline_ms": ' + "9" * 400 + "}"}, "options.deadline_ms: got 9999"),
        ({"age": 1, "options": '{"deadline_ms": 0}'}, "options.deadline_ms: got 0, allowed 1..86400000"),
        ({"age": 1, "options": "[1]"}, "options: got [1], expected a JSON object"),
        ({"age": 1, "options": {"mood": 1}}, "options: unknown key 'mood'; known are"),
        ({"valence_arousal": (0.5,)}, "valence_arousal: got 1 numbers, expected 2"),
        ({"valence_arousal": 0.5}, "valence_arousal: got 0.5, expected 2 numbers"),
        ({"valence_arousal": (0, 1.5)}, "valence_arousal: got 1.5, allowed -1..1"),
        ({"text": ""}, "text: empty"),
        ({"text": "  \n"}, "text: empty"),
        ({"text": "x" * 1001}, "text: got 1001 characters, allowed 1..1000"),
        ({"text": "a\x00b"}, r"text: holds the control character '\x00', allowed are tabs and line ends"),
        ({"text": "\x1b[31mred"}, r"text: holds the control character '\x1b'"),
        ({"text": "a\x85b"}, r"text: holds the control character '\x85'"),
        ({"text": "\ud800"}, r"text: holds the control character '\ud800'"),
        ({"text": b"bytes"}, "text: got b'bytes', expected text"),
        ({"audio": b""}, "audio: empty"),
        ({"audio": "voice.wav"}, "audio: got 'voice.wav', expected the bytes of a file"),
        ({"reference": b"x" * (MAX_FILE_BYTES + 1)}, "reference: got 10485761 bytes, allowed at most 10485760"),
        ({"age": 1, "seed": -1}, "seed: got -1, allowed 0..9223372036854775807"),
        ({"age": 1, "seed": 2**63}, "seed: got 9223372036854775808"),
        ({"age": 1, "seed": 1.5}, "seed: got 1.5, expected an integer"),
        ({"age": 1, "num_inference_steps": 0}, "num_inference_steps: got 0, allowed 1..1000"),
        ({"age": 1, "num_inference_steps": 10**9}, "num_inference_steps: got 1000000000, allowed 1..1000"),
        ({"age": 1, "guidance_scale": 1e30}, "guidance_scale: got 1e+30, allowed 0..30"),
        ({"age": 1, "guidance_scale": float("nan")}, "guidance_scale: got nan"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(values, message):
    with pytest.raises(RequestError) as caught:
        GenerateRequest(**values)
    assert str(caught.value).startswith(message)
    assert caught.value.field == message.split(":")[0]


def test_a_long_value_is_not_printed_back_whole():
    with pytest.raises(RequestError) as caught:
        GenerateRequest(emotion="x" * 10_000)
    assert len(str(caught.value)) < 250


def test_a_field_that_does_not_exist_is_refused():
    with pytest.raises(TypeError):
        GenerateRequest(age=1, mood="good")


@pytest.mark.parametrize("limit", ["low", "high"])
def test_limits_are_inclusive(limit):
    for field in FIELDS:
        if field.dtype != "BYTES":
            value = getattr(field, limit)
            values = {field.name: (value,) * 2 if field.width > 1 else value}
            if field.needs is not None:
                values[field.needs] = getattr(FULL, field.needs)
            GenerateRequest(**{"age": 1, **values})


def test_numpy_numbers_are_numbers():
    request = GenerateRequest(age=np.float32(3), seed=np.int64(4), valence_arousal=np.array([0.5, 1]))
    assert (request.age, request.seed, request.valence_arousal) == (3.0, 4, (0.5, 1.0))


def test_tensors_are_one_row_each_and_survive_the_way_back():
    tensors = FULL.to_tensors()
    assert set(tensors) == {field.name for field in FIELDS} - {"options"}
    assert {name: array.shape for name, array in tensors.items()} == {
        name: (1, 2 if name == "valence_arousal" else 1) for name in tensors
    }
    assert tensors["valence_arousal"].shape == (1, 2)
    assert GenerateRequest.from_tensors(tensors) == FULL


def test_absent_fields_have_no_tensor():
    assert set(GenerateRequest(age=1).to_tensors()) == {"age", "num_inference_steps"}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"mood": np.zeros((1, 1))}, "mood: unknown field; known are text"),
        ({"age": np.zeros((1, 2), np.float32)}, "age: got 2 elements, expected 1"),
        ({"age": np.zeros((0,), np.float32)}, "age: got 0 elements, expected 1"),
        ({"text": np.array([[b"\xff\xfe"]], object)}, "text: not valid UTF-8"),
        ({"age": np.array([[np.nan]], np.float32)}, "age: got nan"),
    ],
)
def test_wrong_tensors_are_request_errors(tensors, message):
    with pytest.raises(RequestError) as caught:
        GenerateRequest.from_tensors(tensors)
    assert str(caught.value).startswith(message)


def test_a_number_means_the_same_in_process_as_over_the_wire():
    request = GenerateRequest(age=33.3)
    assert GenerateRequest.from_tensors(request.to_tensors()).age == request.age == float(np.float32(33.3))


def test_flags_say_the_same_as_keywords(tmp_path):
    (tmp_path / "voice").write_bytes(b"voice")
    (tmp_path / "photo").write_bytes(b"photo")
    flags = ["--text", "Ünïcode man", "--audio", str(tmp_path / "voice"), "--reference", str(tmp_path / "photo")]
    flags += [
        "--age",
        "33.3",
        "--emotion",
        "calm",
        "--emotion-intensity",
        "0.25",
        "--valence",
        "0.5",
        "--arousal",
        "-0.25",
    ]
    flags += ["--seed", str(2**63 - 1), "--steps", "12", "--guidance", "1.5"]
    (tmp_path / "mask").write_bytes(b"mask")
    flags += ["--t0", "500", "--mask", str(tmp_path / "mask")]
    assert parsed(*flags) == replace(FULL, preview_every=None)


def test_valence_and_arousal_go_together():
    assert parsed("--valence-arousal", "0.5", "-0.25").valence_arousal == (0.5, -0.25)
    with pytest.raises(RequestError, match="give --valence and --arousal together"):
        parsed("--valence", "0.5")
    with pytest.raises(RequestError, match="give --valence and --arousal together"):
        parsed("--valence", "0.5", "--arousal", "0", "--valence-arousal", "0", "0")


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(RequestError, match=r"audio: cannot read .*none\.wav: No such file") as caught:
        parsed("--audio", str(tmp_path / "none.wav"))
    assert caught.value.field == "audio"


def has_flag(field):
    return field.name != "options" and not field.stream_only


def test_help_tells_every_field_and_its_range():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = " ".join(parser.format_help().split())
    assert all(" ".join(field.help.split()) in words for field in FIELDS if has_flag(field))
    assert "[0..120]" in words and ",".join(EMOTIONS) in words.replace(" ", "")
