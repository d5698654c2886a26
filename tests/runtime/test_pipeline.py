"""The whole way in process: on fakes for the plumbing, on the exported micro bundle for the promise of determinism."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile
from PIL import Image

from runtime.errors import RequestError, UnavailableError
from runtime.pipeline import MAX_QUEUE, Pipeline
from runtime.request import GenerateRequest, Preview
from tests.fakes import GUIDANCE_SCALE, fake_bundle


@pytest.fixture
def pipeline(tmp_path):
    with Pipeline(fake_bundle(tmp_path / "bundle")) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def micro(micro_bundle):
    with Pipeline.open(micro_bundle, engine="onnxruntime", threads=1) as pipeline:
        yield pipeline


@pytest.fixture(scope="module")
def photo() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (70, 50, 3), dtype=np.uint8)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def voice() -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.4 * np.sin(np.arange(24_000) / 20), 16_000, format="WAV")
    return file.getvalue()


def test_a_request_becomes_a_picture_and_a_report(pipeline):
    result = pipeline(GenerateRequest(text="a smiling old man", seed=7, num_inference_steps=3))
    assert result.image.shape == (16, 16, 3) and result.image.dtype == np.uint8
    report = json.loads(json.dumps(result.report))
    assert (report["seed"], report["num_inference_steps"], report["guidance_scale"]) == (7, 3, GUIDANCE_SCALE)
    assert report["conditions"] == ["text"] and report["inferred"]["age_text"] == "old man"
    assert report["bundle_sha256"] == pipeline.bundle.hash
    timings = report["timings_ms"]
    assert set(timings) == {"preprocess", "condition", "queue", "sample", "decode", "total"}
    assert timings.pop("total") == pytest.approx(sum(timings.values()), abs=0.01)


def _slow_down(pipeline, monkeypatch, seconds: float) -> None:
    """Calls of the tiny UNet take this long at least, so that requests are still there when others come."""
    unet = pipeline.bundle.engine("unet")

    def slow_unet(inputs):
        time.sleep(seconds)
        return unet(inputs)

    slow_unet.provider = "fake"
    monkeypatch.setattr(pipeline._sampler, "_unet", slow_unet)


def test_a_batch_keeps_the_order_and_shares_unet_calls(pipeline, monkeypatch):
    requests = [GenerateRequest(age=age, seed=5, num_inference_steps=40) for age in (10, 20, 30)]
    alone = [pipeline(request).image for request in requests]
    calls = pipeline._sampler.stats.calls
    _slow_down(pipeline, monkeypatch, 0.01)
    together = pipeline.batch(requests)
    assert all(np.array_equal(one, result.image) for one, result in zip(alone, together, strict=True))
    assert pipeline._sampler.stats.calls - calls < 3 * 40


def test_a_batch_may_be_larger_than_the_queue(pipeline, monkeypatch):
    _slow_down(pipeline, monkeypatch, 0.03)
    requests = [GenerateRequest(age=1, seed=n, num_inference_steps=1) for n in range(3 * MAX_QUEUE)]
    assert [result.report["seed"] for result in pipeline.batch(requests)] == list(range(3 * MAX_QUEUE))


def test_an_empty_batch_is_an_empty_list(pipeline):
    assert pipeline.batch([]) == []


def test_one_bad_request_fails_the_batch_and_cancels_the_rest(pipeline, monkeypatch):
    # Else a thousand steps of so small a network may end before the bad one is read.
    _slow_down(pipeline, monkeypatch, 0.01)
    good = GenerateRequest(age=1, seed=1, num_inference_steps=1000)
    with pytest.raises(RequestError, match="reference: cannot decode"):
        pipeline.batch([good, good, GenerateRequest(reference=b"no picture")])
    assert pipeline(GenerateRequest(age=1, num_inference_steps=1)).image.any()
    stats = pipeline._sampler.stats
    assert stats.cancelled == 2 and stats.finished == 1


def test_steps_are_told_to_the_caller(pipeline):
    steps = []
    pipeline(GenerateRequest(age=1, num_inference_steps=3), on_step=lambda k, n, sample: steps.append((k, n)))
    assert steps == [(0, 3), (1, 3), (2, 3)]


def test_a_stream_shows_previews_in_order_and_ends_with_the_result(pipeline):
    request = GenerateRequest(age=1, seed=3, num_inference_steps=8, preview_every=2)
    *previews, result = pipeline.stream(request)
    assert all(isinstance(preview, Preview) for preview in previews) and previews
    steps = [preview.step for preview in previews]
    assert steps == sorted(set(steps)) and set(steps) <= {2, 4, 6} and steps[-1] == 6
    assert {(preview.num_steps, preview.image.shape) for preview in previews} == {(8, (16, 16, 3))}
    np.testing.assert_array_equal(result.image, pipeline(request).image)
    assert result.report["seed"] == 3 and "total" in result.report["timings_ms"]


def test_a_stream_that_is_closed_stops_its_work(pipeline):
    stream = pipeline.stream(GenerateRequest(age=1, num_inference_steps=1000, preview_every=10))
    assert next(stream).step >= 10
    stream.close()
    pipeline(GenerateRequest(age=1, num_inference_steps=1))
    assert (pipeline._sampler.stats.cancelled, pipeline._sampler.stats.finished) == (1, 1)


def test_a_stream_without_previews_is_its_result(pipeline):
    request = GenerateRequest(age=1, seed=3, num_inference_steps=2)
    (result,) = pipeline.stream(request)
    np.testing.assert_array_equal(result.image, pipeline(request).image)


def test_a_stream_raises_what_a_call_raises(pipeline):
    with pytest.raises(RequestError, match="reference: cannot decode"):
        list(pipeline.stream(GenerateRequest(reference=b"no picture")))


def test_many_threads_may_call_one_pipeline(pipeline):
    request = GenerateRequest(text="a sad old woman", seed=2, num_inference_steps=5)
    expected, images = pipeline(request).image, []
    threads = [threading.Thread(target=lambda: images.append(pipeline(request).image)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(images) == 8 and all(np.array_equal(image, expected) for image in images)


def test_a_closed_pipeline_takes_nothing_and_freed_its_engines(tmp_path):
    bundle = fake_bundle(tmp_path / "bundle")
    pipeline = Pipeline(bundle)
    unet = bundle.engine("unet")
    pipeline.close()
    assert unet.is_closed
    with pytest.raises(UnavailableError):
        pipeline(GenerateRequest(age=1))
    pipeline.close()


def test_importing_the_public_names_loads_neither_torch_nor_an_engine_library():
    program = (
        "import sys; from clipfacefusion import Client, Pipeline, GenerateRequest, GenerateResult, RequestError;"
        "print([name for name in ('torch', 'onnxruntime', 'onnx', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "subset",
    [("text",), ("audio",), ("reference",), ("age",), ("emotion",), ("text", "audio", "reference", "age", "emotion")],
)
def test_any_subset_of_conditions_makes_a_face_on_a_real_engine(micro, photo, voice, subset):
    values = {"text": "a smiling man", "audio": voice, "reference": photo, "age": 40, "emotion": "sad"}
    request = GenerateRequest(**{name: values[name] for name in subset}, seed=1, num_inference_steps=2)
    result = micro(request)
    size = micro.bundle.model.image_size
    assert result.image.shape == (size, size, 3)
    assert result.report["conditions"] == list(request.conditions)
    assert (result.report["engine"], result.report["provider"]) == ("onnxruntime", "CPUExecutionProvider")


@pytest.mark.parametrize(
    "change",
    [
        {"text": "an angry young woman"},
        {"age": 80},
        {"emotion": "angry"},
        {"emotion_intensity": 0.1},
        {"valence_arousal": (-1.0, 1.0)},
        {"reference": None},
        {"audio": None},
        {"seed": 2},
        {"num_inference_steps": 5},
        {"guidance_scale": 6.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_request_field_changes_the_face(micro, photo, voice, change):
    request = GenerateRequest(
        text="a smiling man",
        audio=voice,
        reference=photo,
        age=20,
        emotion="happy",
        emotion_intensity=1.0,
        valence_arousal=(0.5, 0.5),
        seed=1,
        num_inference_steps=4,
        guidance_scale=3.0,
    )
    assert not np.array_equal(micro(request).image, micro(dataclasses.replace(request, **change)).image)


def test_the_same_seed_gives_the_same_face_alone_in_a_batch_and_beside_strangers(micro, photo):
    request = GenerateRequest(reference=photo, seed=9, num_inference_steps=6)
    strangers = [GenerateRequest(age=n * 10, seed=n, num_inference_steps=n + 2) for n in range(4)]
    alone = micro(request).image.astype(int)
    among = micro.batch([*strangers[:2], request, *strangers[2:]])[2].image
    assert np.abs(alone - among).max() <= 1  # the contract across batch buckets
    np.testing.assert_array_equal(alone, micro(request).image)


def test_a_lone_photo_reports_what_was_read_from_it(micro, photo):
    inferred = micro(GenerateRequest(reference=photo, num_inference_steps=1)).report["inferred"]
    assert set(inferred) == {"age", "emotion", "valence_arousal"} and 0 <= inferred["age"] <= 120
