"""What the served ensemble answers: any subset of conditions, the same faces as in process, and a report."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest

from runtime.request import GenerateRequest

SUBJECTS = ("text", "audio", "reference", "age", "emotion")
SUBSETS = [subset for size in range(1, 6) for subset in itertools.combinations(SUBJECTS, size)]


@pytest.fixture(scope="module")
def full_request(wav, jpeg):
    return GenerateRequest(
        text="a smiling old man with glasses",
        audio=wav,
        reference=jpeg,
        age=70,
        emotion="happy",
        emotion_intensity=0.5,
        valence_arousal=(0.7, -0.2),
        seed=11,
        num_inference_steps=3,
        guidance_scale=2.5,
    )


@pytest.mark.parametrize("subset", SUBSETS, ids="+".join)
def test_every_subset_of_conditions_is_answered_and_reported(client, wav, jpeg, subset):
    values = {"text": "a sad boy", "audio": wav, "reference": jpeg, "age": 12, "emotion": "sad"}
    request = GenerateRequest(**{name: values[name] for name in subset}, seed=3, num_inference_steps=1)
    result = client(request)
    assert result.image.dtype == np.uint8
    assert result.image.ndim == 3 and result.image.shape[2] == 3
    assert set(result.report["conditions"]) == set(subset)


def test_valence_and_arousal_alone_are_a_condition(client):
    result = client(GenerateRequest(valence_arousal=(-1, 1), num_inference_steps=1))
    assert result.report["conditions"] == ["valence_arousal"]


@pytest.mark.parametrize("kept", [SUBJECTS, ("text",), ("audio",), ("reference",), ("age",)], ids="+".join)
def test_the_server_and_the_pipeline_make_the_same_image(client, pipeline, full_request, kept):
    absent = dict.fromkeys({*SUBJECTS, "emotion_intensity", "valence_arousal"} - set(kept))
    request = full_request if kept == SUBJECTS else dataclasses.replace(full_request, **absent)
    served, local = client(request), pipeline(request)
    np.testing.assert_array_equal(served.image, local.image)


def test_the_server_and_the_pipeline_report_the_same_things(client, pipeline, full_request):
    served, local = client(full_request).report, pipeline(full_request).report
    assert served.pop("tries") == 1 and served.pop("request_id")  # of the call, not of the face
    assert served.keys() == local.keys()
    for timed in ("timings_ms", "provenance"):
        assert served[timed].keys() == local[timed].keys()
    timed = {"timings_ms", "provenance", "unet_calls", "unet_ms", "mean_batch"}
    assert {k: v for k, v in served.items() if k not in timed} == {k: v for k, v in local.items() if k not in timed}


def test_the_report_says_what_was_used(client, server, full_request):
    report = client(full_request).report
    assert (report["seed"], report["num_inference_steps"], report["guidance_scale"]) == (11, 3, 2.5)
    assert report["bundle_sha256"] == server.bundle.hash
    assert all(milliseconds >= 0 for milliseconds in report["timings_ms"].values())


def test_an_absent_seed_is_drawn_anew_and_reported_so_that_the_face_can_be_made_again(client):
    request = GenerateRequest(text="a face", num_inference_steps=1)
    first, second = client(request), client(request)
    assert first.report["seed"] != second.report["seed"]
    again = client(dataclasses.replace(request, seed=first.report["seed"]))
    np.testing.assert_array_equal(again.image, first.image)


@pytest.mark.parametrize(
    "change",
    [
        {"text": "an angry young woman"},
        {"age": 5.0},
        {"emotion": "angry"},
        {"emotion_intensity": 1.0},
        {"valence_arousal": (-0.7, 0.9)},
        {"seed": 12},
        {"num_inference_steps": 2},
        {"guidance_scale": 1.0},
        {"audio": None},
        {"reference": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_changes_the_image(client, full_request, change):
    before = client(full_request).image
    after = client(dataclasses.replace(full_request, **change)).image
    assert not np.array_equal(before, after)


def test_a_plain_triton_client_gets_an_image_with_a_batch_of_one_and_a_json_report(raw_infer):
    answer = raw_infer(age=np.array([[40]], np.float32), num_inference_steps=np.array([[1]], np.int32))
    image, report = answer.as_numpy("image"), answer.as_numpy("report")
    assert image.shape[0] == 1 and image.ndim == 4
    assert json.loads(report[0, 0])["conditions"] == ["age"]
