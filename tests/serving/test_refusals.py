"""Bad input over the wire: INVALID_ARGUMENT that names field, value and range, and shows nothing of the server."""

from __future__ import annotations

import io
import re
import struct

import numpy as np
import pytest
import soundfile
from PIL import Image
from tritonclient.utils import InferenceServerException

from runtime.errors import RequestError
from runtime.request import GenerateRequest

LEAKS = re.compile(r"Traceback|\.py\b|(?:/\w[\w.-]*){2,}|0x[0-9a-f]{6,}|shm|Stub|\n")


def floats(*values):
    return np.array([values], np.float32)


def steps(value):
    return np.array([[value]], np.int32)


def bytes_of(value):
    return np.array([[value]], np.object_)


def wav_of(samples, rate_hz, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()


def picture(width, height, kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, kind)
    return file.getvalue()


AGE = {"age": floats(30)}
BAD = {
    "no condition": ({"seed": np.array([[1]], np.int64)}, ["request", "no condition", "text, audio"]),
    "unknown label": ({"emotion": bytes_of(b"joyful")}, ["emotion", "'joyful'", "neutral, calm, happy"]),
    "age below": ({"age": floats(-1)}, ["age", "-1", "0..120"]),
    "age above": ({"age": floats(121)}, ["age", "121", "0..120"]),
    "age nan": ({"age": floats(np.nan)}, ["age", "nan", "0..120"]),
    "valence infinite": ({"valence_arousal": floats(np.inf, 0)}, ["valence_arousal", "inf", "-1..1"]),
    "intensity without emotion": ({**AGE, "emotion_intensity": floats(0.5)}, ["emotion_intensity", "0.5", "emotion"]),
    "no steps": ({**AGE, "num_inference_steps": steps(0)}, ["num_inference_steps", "0", "1..1000"]),
    "negative steps": ({**AGE, "num_inference_steps": steps(-1)}, ["num_inference_steps", "-1", "1..1000"]),
    "too many steps": ({**AGE, "num_inference_steps": steps(10**9)}, ["num_inference_steps", "1000000000", "1..1000"]),
    "seed negative": ({**AGE, "seed": np.array([[-1]], np.int64)}, ["seed", "-1", "0..9223372036854775807"]),
    "guidance nan": ({**AGE, "guidance_scale": floats(np.nan)}, ["guidance_scale", "nan", "0..30"]),
    "guidance huge": ({**AGE, "guidance_scale": floats(1e30)}, ["guidance_scale", "1e+30", "0..30"]),
    "text empty": ({"text": bytes_of(b"")}, ["text", "empty", "1..1000"]),
    "text oversize": ({"text": bytes_of(b"x" * 1001)}, ["text", "1001 characters", "1..1000"]),
    "text not UTF-8": ({"text": bytes_of(b"\xff\xfe")}, ["text", "UTF-8"]),
    "text with NUL": ({"text": bytes_of(b"a\x00b")}, ["text", "NUL"]),
    "photo empty": ({"reference": bytes_of(b"")}, ["reference", "empty", "JPEG, PNG or WebP"]),
    "photo undecodable": ({"reference": bytes_of(b"GIF89a, not a photo")}, ["reference", "JPEG"]),
    "photo of another format": ({"reference": bytes_of(picture(64, 64, "BMP"))}, ["reference", "JPEG"]),
    "photo truncated": ({"reference": bytes_of(picture(300, 300, "JPEG")[:400])}, ["reference"]),
    "photo too small": ({"reference": bytes_of(picture(1, 1))}, ["reference", "1x1", "16..4096"]),
    "photo too wide": ({"reference": bytes_of(picture(5000, 20))}, ["reference", "5000x20", "16..4096"]),
    "photo too heavy": ({"reference": bytes_of(b"\xff" * (10 * 2**20 + 1))}, ["reference", "10485761 bytes"]),
    "voice empty": ({"audio": bytes_of(b"")}, ["audio", "empty", "WAV or FLAC"]),
    "voice undecodable": ({"audio": bytes_of(b"RIFF but no WAV")}, ["audio", "WAV"]),
    "voice without samples": ({"audio": bytes_of(wav_of(np.zeros(0), 16_000))}, ["audio", "0.25"]),
    "voice too short": ({"audio": bytes_of(wav_of(np.zeros(100), 16_000))}, ["audio", "0.25"]),
    "voice too long": ({"audio": bytes_of(wav_of(np.zeros(61 * 8000), 8_000))}, ["audio", "61", "60"]),
    "voice at a strange rate": ({"audio": bytes_of(wav_of(np.zeros(4000), 4_000))}, ["audio", "4000"]),
    "voice not finite": ({"audio": bytes_of(wav_of(np.full(9000, np.nan), 16_000, "FLOAT"))}, ["audio", "finite"]),
}


@pytest.mark.parametrize(("tensors", "shown"), BAD.values(), ids=BAD)
def test_bad_input_is_refused_by_name_and_shows_no_internals(raw_infer, tensors, shown):
    with pytest.raises(InferenceServerException) as caught:
        raw_infer(**tensors)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    message = caught.value.message()
    assert [part for part in shown if part not in message] == []
    assert not LEAKS.search(message), message


def test_a_request_without_any_tensor_is_refused(raw_infer):
    with pytest.raises(InferenceServerException) as caught:
        raw_infer()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_batch_of_two_is_refused_with_the_limit(raw_infer):
    with pytest.raises(InferenceServerException, match="batch-size must be <= 1") as caught:
        raw_infer(age=np.array([[30], [40]], np.float32))
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "tensors",
    [
        {"age": np.array([30], np.float32)},
        {"age": np.array([[30, 40]], np.float32)},
        {"age": np.array([[30]], np.int32)},
        {"portrait": np.array([[30]], np.float32)},
    ],
    ids=["no batch dimension", "wrong width", "wrong type", "unknown tensor"],
)
def test_tensors_that_do_not_fit_the_model_are_refused(raw_infer, tensors):
    with pytest.raises(InferenceServerException) as caught:
        raw_infer(**tensors)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_our_client_raises_the_same_error_for_media_as_the_pipeline(client, pipeline):
    request = GenerateRequest(reference=struct.pack("<I", 0x20) * 10)
    with pytest.raises(RequestError) as served:
        client(request)
    with pytest.raises(RequestError) as local:
        pipeline(request)
    assert (served.value.field, str(served.value)) == (local.value.field, str(local.value))


def test_a_refused_request_leaves_the_server_answering(client, raw_infer):
    with pytest.raises(InferenceServerException):
        raw_infer(age=np.array([[-1]], np.float32))
    assert client(GenerateRequest(age=1, num_inference_steps=1)).report["conditions"] == ["age"]
