"""Bad input over the wire: INVALID_ARGUMENT that names field, value and range, and shows nothing of the server."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import soundfile
from PIL import Image
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from benchmarks.soak.fuzz import LEAKS, Case, message
from runtime.errors import RequestError
from runtime.request import GenerateRequest
from runtime.wire import STREAM_MODEL


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


def options(text):
    return {**AGE, "options": bytes_of(text.encode())}


def lying(wav):
    """The WAV with a data chunk that claims to be a thousand megabytes."""
    place = wav.index(b"data") + 4
    return wav[:place] + struct.pack("<I", 10**9) + wav[place + 4 :]


AGE = {"age": floats(30)}
PHOTO = {"reference": bytes_of(picture(96, 64))}
EDIT = {**PHOTO, "edit_from_timestep": steps(500), "num_inference_steps": steps(1)}
BAD = {
    "no condition": ({"seed": np.array([[1]], np.int64)}, ["request", "no condition", "text, audio"]),
    "unknown label": ({"emotion": bytes_of(b"joyful")}, ["emotion", "'joyful'", "neutral, calm, happy"]),
    "age below": ({"age": floats(-1)}, ["age", "-1", "0..120"]),
    "age above": ({"age": floats(121)}, ["age", "121", "0..120"]),
    "age nan": ({"age": floats(np.nan)}, ["age", "nan", "0..120"]),
    "valence infinite": ({"valence_arousal": floats(np.inf, 0)}, ["valence_arousal", "inf", "-1..1"]),
    "intensity without emotion": ({**AGE, "emotion_intensity": floats(0.5)}, ["emotion_intensity", "without emotion"]),
    "no steps": ({**AGE, "num_inference_steps": steps(0)}, ["num_inference_steps", "0", "1..1000"]),
    "negative steps": ({**AGE, "num_inference_steps": steps(-1)}, ["num_inference_steps", "-1", "1..1000"]),
    "too many steps": ({**AGE, "num_inference_steps": steps(10**9)}, ["num_inference_steps", "1000000000", "1..1000"]),
    "seed negative": ({**AGE, "seed": np.array([[-1]], np.int64)}, ["seed", "-1", "0..9223372036854775807"]),
    "guidance nan": ({**AGE, "guidance_scale": floats(np.nan)}, ["guidance_scale", "nan", "0..30"]),
    "guidance huge": ({**AGE, "guidance_scale": floats(1e30)}, ["guidance_scale", "1e+30", "0..30"]),
    "text empty": ({"text": bytes_of(b"")}, ["text", "empty", "1..1000"]),
    "text oversize": ({"text": bytes_of(b"x" * 1001)}, ["text", "1001 characters", "1..1000"]),
    "text not UTF-8": ({"text": bytes_of(b"\xff\xfe")}, ["text", "UTF-8"]),
    "text with NUL": ({"text": bytes_of(b"a\x00b")}, ["text", "control character '\\x00'"]),
    "text with an escape": ({"text": bytes_of(b"\x1b[31mred")}, ["text", "control character '\\x1b'"]),
    "photo empty": ({"reference": bytes_of(b"")}, ["reference", "empty", "JPEG, PNG or WebP"]),
    "photo undecodable": ({"reference": bytes_of(b"GIF89a, not a photo")}, ["reference", "JPEG"]),
    "photo of another format": ({"reference": bytes_of(picture(64, 64, "BMP"))}, ["reference", "JPEG"]),
    "photo truncated": ({"reference": bytes_of(picture(300, 300, "JPEG")[:400])}, ["reference"]),
    "photo too small": ({"reference": bytes_of(picture(1, 1))}, ["reference", "1x1", "32..4096"]),
    "photo too wide": ({"reference": bytes_of(picture(5000, 20))}, ["reference", "5000x20", "at most 4096"]),
    "photo too heavy": ({"reference": bytes_of(b"\xff" * (10 * 2**20 + 1))}, ["reference", "10485761 bytes"]),
    "photo of 40 MB": ({"reference": bytes_of(b"\xff" * (40 * 2**20))}, ["reference", "41943040 bytes", "at most 1"]),
    "edit without a photo": ({**AGE, "edit_from_timestep": steps(500)}, ["edit_from_timestep", "without reference"]),
    "edit point too high": ({**EDIT, "edit_from_timestep": steps(1000)}, ["edit_from_timestep", "1000", "1..999"]),
    "mask without an edit": ({**PHOTO, "mask": bytes_of(picture(96, 64))}, ["mask", "without edit_from_timestep"]),
    "mask of another size": ({**EDIT, "mask": bytes_of(picture(64, 96))}, ["mask", "64x96", "96x64"]),
    "mask of another format": ({**EDIT, "mask": bytes_of(picture(96, 64, "JPEG"))}, ["mask", "PNG"]),
    "mask empty": ({**EDIT, "mask": bytes_of(b"")}, ["mask", "empty"]),
    "options no JSON": (options("{"), ["options", "JSON"]),
    "options no object": (options("[]"), ["options", "[]", "JSON object"]),
    "options unknown": (options('{"colour": 1}'), ["options", "unknown key 'colour'", "deadline_ms"]),
    "options out of range": (options('{"deadline_ms": 0}'), ["options.deadline_ms", "0", "1..86400000"]),
    "options not a number": (options('{"deadline_ms": NaN}'), ["options.deadline_ms", "nan", "1..86400000"]),
    "options huge": (options('{"deadline_ms": 1' + "0" * 400 + "}"), ["options.deadline_ms", "1000", "1..86400000"]),
    "options deep": (options("[" * 4000), ["options"]),
    "options long": (options('{"source_text": "' + "x" * 5000 + '"}'), ["options", "4096"]),
    "voice empty": ({"audio": bytes_of(b"")}, ["audio", "empty", "WAV or FLAC"]),
    "voice undecodable": ({"audio": bytes_of(b"RIFF but no WAV")}, ["audio", "WAV"]),
    "voice without samples": ({"audio": bytes_of(wav_of(np.zeros(0), 16_000))}, ["audio", "0.25"]),
    "voice too short": ({"audio": bytes_of(wav_of(np.zeros(100), 16_000))}, ["audio", "0.25"]),
    "voice too long": ({"audio": bytes_of(wav_of(np.zeros(61 * 8000), 8_000))}, ["audio", "61", "60"]),
    "voice at a strange rate": ({"audio": bytes_of(wav_of(np.zeros(4000), 4_000))}, ["audio", "4000"]),
    "voice promising more": (
        {"audio": bytes_of(lying(wav_of(np.zeros(9000), 16_000)))},
        ["audio", "claims 1000000000"],
    ),
    "voice in mu-law": ({"audio": bytes_of(wav_of(np.zeros(9000), 8_000, "ULAW"))}, ["audio", "ULAW", "PCM_16"]),
    "voice of many channels": ({"audio": bytes_of(wav_of(np.zeros((9000, 9)), 16_000))}, ["audio", "9", "1..8"]),
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


@pytest.mark.parametrize("tensors", [tensors for tensors, _ in BAD.values()], ids=BAD)
def test_the_library_the_ensemble_and_the_stream_refuse_in_the_same_words(pipeline, raw_infer, stream, tensors):
    with pytest.raises(RequestError) as in_process:
        pipeline(GenerateRequest.from_tensors(tensors))
    with pytest.raises(InferenceServerException) as served:
        raw_infer(**tensors)
    told = served.value.message().removeprefix("in ensemble 'clipfacefusion', ")
    assert [told] == [str(in_process.value)]
    assert stream(tensors) == f"[INVALID_ARGUMENT] {told}"


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


@pytest.fixture(scope="module")
def stream(server) -> Iterator[Callable[[dict[str, np.ndarray]], str]]:
    """Send tensors to the streaming model; the text of its last answer."""
    with grpc.insecure_channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def ask(tensors: dict[str, np.ndarray]) -> str:
            sent = message(Case(0, 0, dict(tensors)), STREAM_MODEL)
            return [part.error_message for part in stub.ModelStreamInfer(iter([sent]), timeout=60)][-1]

        yield ask


@pytest.fixture(scope="module")
def ask(server) -> Iterator[Callable[..., tuple[str, str]]]:
    """Send a message with an age of 30 after `change(message)`; the status and the text of the answer."""
    with grpc.insecure_channel(server.url) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

        def ask(change: Callable[[Any], None], headers: tuple[tuple[str, str], ...] = ()) -> tuple[str, str]:
            message = service_pb2.ModelInferRequest(model_name="clipfacefusion")
            for name, kind, raw in (
                ("age", "FP32", floats(30).tobytes()),
                ("num_inference_steps", "INT32", steps(1).tobytes()),
            ):
                message.inputs.add(name=name, datatype=kind, shape=[1, 1])
                message.raw_input_contents.append(raw)
            change(message)
            try:
                stub.ModelInfer(message, timeout=60, metadata=headers)
            except grpc.RpcError as error:
                return error.code().name, error.details()
            return "OK", ""

        yield ask


def with_text(message, raw):
    message.inputs.add(name="text", datatype="BYTES", shape=[1, 1])
    message.raw_input_contents.append(raw)


def with_shape(*shape):
    def change(message):
        message.inputs[0].shape[:] = shape

    return change


@pytest.mark.parametrize(
    "change",
    [
        with_shape(1),
        with_shape(0, 1),
        with_shape(1, 0),
        with_shape(1, -1),
        with_shape(1, 2**62),
        with_shape(2**32, 2**32),
        with_shape(1, 1, 1),
        lambda message: message.inputs.add().CopyFrom(message.inputs[0]),
        lambda message: message.raw_input_contents.pop(),
        lambda message: setattr(message.inputs[0], "datatype", "FP64"),
        lambda message: setattr(message.inputs[0], "datatype", ""),
        lambda message: message.outputs.add(name="nothing"),
        lambda message: with_text(message, b"\xff\xff\xff\xffa man"),
        lambda message: with_text(message, b"\x00\x00\x00\x00a man"),
        lambda message: with_text(message, b"\x05\x00"),
        lambda message: with_text(message, b""),
    ],
)
def test_a_message_that_contradicts_itself_is_refused_by_triton_and_shows_nothing(ask, change):
    code, text = ask(change)
    assert code == "INVALID_ARGUMENT" and not LEAKS.search(text), text


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (lambda message: setattr(message, "id", "x" * 129), "request: id: got 129 characters, allowed at most 128"),
        (lambda message: setattr(message, "id", "a\tb"), "request: id: got 'a\\tb', allowed are characters"),
        (lambda message: setattr(message.parameters["colour"], "int64_param", 1), "unknown parameter 'colour'"),
        (
            lambda message: setattr(message.parameters["x-tenant"], "string_param", "a\n"),
            "request: x-tenant: got 'a\\n'",
        ),
        (
            lambda message: setattr(message.parameters["x-tenant"], "double_param", 1.5),
            "x-tenant: got 1.5, expected text",
        ),
    ],
    ids=["long id", "control character", "unknown parameter", "tenant", "type"],
)
def test_what_surrounds_a_request_is_checked_as_well(ask, change, shown):
    code, text = ask(change)
    assert code == "INVALID_ARGUMENT" and shown in text


def test_what_surrounds_a_request_is_checked_before_its_fields(ask):
    def twice_wrong(message):
        message.id = "x" * 129
        message.raw_input_contents[0] = floats(-1).tobytes()

    assert "request: id: got 129 characters" in ask(twice_wrong)[1]


def test_a_parameter_that_only_triton_may_set_is_refused(ask):
    code, _ = ask(lambda message: setattr(message.parameters["triton_final_response"], "bool_param", True))
    assert code == "INVALID_ARGUMENT"


def test_an_id_of_allowed_length_a_tenant_and_a_trace_are_taken(ask):
    headers = (("x-tenant", "acme"), ("traceparent", "no trace"), ("other", "not forwarded"))
    assert ask(lambda message: setattr(message, "id", "ä" * 128), headers) == ("OK", "")


def test_a_header_wins_over_a_forged_parameter(ask):
    forged = lambda message: setattr(message.parameters["x-tenant"], "double_param", 1.5)  # noqa: E731
    assert ask(forged, (("x-tenant", "acme"),)) == ("OK", "")


@pytest.mark.parametrize("name", ["age", "num_inference_steps"])
def test_a_model_or_version_that_is_not_there_is_not_found(ask, name):
    assert ask(lambda message: setattr(message, "model_name", name))[0] == "NOT_FOUND"
    assert ask(lambda message: setattr(message, "model_version", "7"))[0] == "NOT_FOUND"


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
