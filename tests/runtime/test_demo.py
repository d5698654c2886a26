"""The demonstration against a fake that answers every request with a flat picture: what is asked, what is drawn, what is refused."""

from __future__ import annotations

import io
import threading

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageDraw

from runtime.demo import AGES, PROMPTS, ROW_STEPS, make_sheet, stories
from runtime.emotions import EMOTIONS
from runtime.request import DEFAULT_STEPS, GenerateRequest, GenerateResult
from runtime.samples import Photo, Samples, Voice


class FakeClient:
    """Answers with a picture in one colour; remembers requests, and how many ran at the same time."""

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []
        self._lock = threading.Lock()

    def __call__(self, request: GenerateRequest) -> GenerateResult:
        with self._lock:
            self.requests.append(request)
        image = np.full((32, 32, 3), 90, np.uint8)
        return GenerateResult(image, {"timings_ms": {"sample": 5.0 * request.num_inference_steps}})


@pytest.fixture
def samples() -> Samples:
    photo, wav = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (64, 64), "orange").save(photo, "JPEG")
    soundfile.write(wav, 0.5 * np.sin(np.arange(8000) / 9), 16_000, format="WAV")
    voices = (Voice(wav.getvalue(), "male", 65.2, "sad"), Voice(wav.getvalue() + b"\0\0", "female", 30.0, "happy"))
    return Samples((Photo(photo.getvalue(), "female", 30.8),), voices)


def test_every_request_of_every_story_is_sent_and_the_first_twice_to_warm_up(samples):
    client = FakeClient()
    make_sheet(client, samples, "title", "note")
    expected = [request for story in stories(samples) for request in story.requests]
    assert client.requests[0] == client.requests[1] == expected[0]
    assert sorted(map(repr, client.requests[1:])) == sorted(map(repr, expected))


def test_requests_that_are_timed_alone_precede_all_others(samples):
    client = FakeClient()
    make_sheet(client, samples, "title", "note")
    steps = [request.num_inference_steps for request in client.requests]
    assert steps == [DEFAULT_STEPS] * 7 + [ROW_STEPS] * (len(steps) - 7)


def test_time_per_step_is_the_reported_sampling_time_over_the_steps(samples):
    _, measured = make_sheet(FakeClient(), samples, "title", "note")
    assert measured.step_ms == pytest.approx(5.0)
    assert measured.together == len(AGES) + len(EMOTIONS) + len(samples.voices) + len(PROMPTS)


def test_every_label_title_and_note_is_drawn(samples, monkeypatch):
    drawn: list[str] = []
    draw_text = ImageDraw.ImageDraw.text

    def remember(self, place, text, *arguments, **options):
        drawn.append(text)
        return draw_text(self, place, text, *arguments, **options)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", remember)
    make_sheet(FakeClient(), samples, "demo: served", "synthetic faces only")
    words = " ".join(drawn)
    for story in stories(samples):
        for text in (story.title, story.note, *story.labels):
            assert text in words, text
    assert "ClipFaceFusion - demo: served" in words
    assert "synthetic faces only" in words


def test_rows_vary_one_thing_with_the_seed_fixed(samples):
    _, ages, emotions, voices, words = stories(samples)
    assert [request.age for request in ages.requests] == list(AGES)
    assert [request.emotion for request in emotions.requests] == list(EMOTIONS)
    assert {request.conditions for request in voices.requests} == {("audio",)}
    assert {request.conditions for request in words.requests} == {("text",)}
    assert len({request.seed for story in (ages, emotions, voices, words) for request in story.requests}) == 1


def test_all_together_has_one_of_every_kind_and_the_happy_voice(samples):
    together = stories(samples)[0].requests[-1]
    assert together.conditions == ("text", "audio", "reference", "age", "emotion")
    assert together.audio == samples.voices[1].audio


def test_of_each_emotion_one_voice_is_shown_however_many_a_bundle_brings(samples):
    again = Voice(b"another", "male", 50.0, "happy")
    voices = stories(Samples(samples.photos, (*samples.voices, again)))[3]
    assert [request.audio for request in voices.requests] == [voice.audio for voice in samples.voices]
