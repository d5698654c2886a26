"""Voices: what they promise, that the truth is audible, and that nothing else of a person is."""

from __future__ import annotations

import importlib
import inspect
import multiprocessing
import subprocess
import sys

import numpy as np
import pytest

from runtime.emotions import EMOTIONS
from training.data.synthetic import espeak, sentences
from training.data.synthetic.timbre import TIMBRES, timbre
from training.data.synthetic.voice import SAMPLE_RATE_HZ, speak

DIGEST_OF_A_CLIP = """
import hashlib, numpy as np
from training.data.synthetic.voice import speak
print(hashlib.sha256(speak(1, 72.0, "angry", 0.9, np.random.default_rng(5)).tobytes()).hexdigest())
"""


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clips(count: int, **fixed) -> list[tuple[dict, np.ndarray]]:
    """Clips with truth drawn at random except where `fixed` says."""
    draw, spoken = rng(7), []
    for _ in range(count):
        truth = {
            "sex": int(draw.integers(2)),
            "age": float(draw.uniform(5, 85)),
            "emotion": EMOTIONS[int(draw.integers(8))],
            "intensity": float(draw.uniform(0.6, 1)),
        } | fixed
        spoken.append((truth, speak(**truth, rng=draw)))
    return spoken


def features(clip: np.ndarray) -> np.ndarray:
    """Hand-made: pitch (median, spread, drift, roughness), brightness in eight bands, and how the loudness moves."""
    clip = (clip - clip.mean()) / clip.std()
    frames = np.lib.stride_tricks.sliding_window_view(clip, 640)[::160].astype(np.float64)
    window = np.hanning(640)
    power = np.abs(np.fft.rfft(frames * window, 2048)) ** 2
    low = np.where(np.arange(1025) < 154, power, 0)  # below 1200 Hz
    correlation = np.fft.irfft(low)[:, :260] / (np.fft.irfft(np.abs(np.fft.rfft(window, 2048)) ** 2)[:260])
    correlation = correlation[:, 29:] / correlation[:, :1].clip(1e-9)
    loud = np.sqrt((frames**2).mean(1))
    voiced = loud > 0.3
    lag = 29 + np.array([np.argmax(row > 0.87 * row.max()) for row in correlation])
    semitones = 12 * np.log2(SAMPLE_RATE_HZ / lag[voiced] / 100)
    spread = np.subtract(*np.percentile(semitones, [75, 25]))
    drift = np.polyfit(np.flatnonzero(voiced), semitones, 1)[0] * len(frames)
    bands = np.log([part.mean() for part in np.array_split(power[voiced].mean(0)[8:520], 10)])
    envelope = np.convolve(np.abs(clip), np.ones(160) / 160, "same")[::80]
    moves = np.abs(np.fft.rfft(envelope - envelope.mean(), 1024))
    rhythm = np.log([moves[a:b].mean() for a, b in ((3, 10), (10, 20), (20, 41), (41, 82), (100, 200), (300, 480))])
    shape = [np.median(semitones), spread, drift, np.median(np.abs(np.diff(semitones))), loud.std(), voiced.mean()]
    return np.concatenate([shape, bands, rhythm])


def standardised(count: int, **fixed) -> tuple[list[dict], np.ndarray]:
    truths, spoken = zip(*clips(count, **fixed), strict=True)
    table = np.array([features(clip) for clip in spoken])
    table = (table - table.mean(0)) / table.std(0)
    return list(truths), np.c_[table, table**2, np.ones(len(table))]


def predict(table: np.ndarray, target: np.ndarray) -> np.ndarray:
    """A ridge regression learns from the first three quarters and answers for the rest."""
    known = len(table) * 3 // 4
    seen = table[:known]
    weights = np.linalg.solve(seen.T @ seen + 5 * np.eye(table.shape[1]), seen.T @ target[:known])
    return table[known:] @ weights


@pytest.fixture(scope="module")
def listened() -> tuple[list[dict], np.ndarray]:
    return standardised(600)


@pytest.mark.parametrize("emotion", EMOTIONS)
@pytest.mark.parametrize("age", [5.0, 85.0])
def test_a_clip_is_mono_float_of_the_promised_length_and_level(emotion, age):
    for sex in (0, 1):
        clip = speak(sex, age, emotion, 1.0, rng(3))
        assert clip.dtype == np.float32 and clip.ndim == 1
        assert 1.5 <= len(clip) / SAMPLE_RATE_HZ <= 3.5
        assert np.isfinite(clip).all() and 0.25 < np.abs(clip).max() <= 1


def test_the_same_generator_gives_the_same_samples_whatever_was_said_before():
    first = speak(0, 30.0, "fearful", 0.8, rng(1))
    speak(1, 80.0, "disgust", 1.0, rng(2))
    assert np.array_equal(first, speak(0, 30.0, "fearful", 0.8, rng(1)))


def test_a_fresh_process_gives_the_same_samples():
    answers = {
        subprocess.run([sys.executable, "-c", DIGEST_OF_A_CLIP], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(answers) == 1


def test_forked_workers_give_the_samples_of_their_parent():
    arguments = [(1, 40.0, "happy", 0.7, rng(seed)) for seed in range(4)]
    expected = [speak(1, 40.0, "happy", 0.7, rng(seed)) for seed in range(4)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        spoken = pool.starmap(speak, arguments)
    assert all(np.array_equal(a, b) for a, b in zip(expected, spoken, strict=True))


def test_a_voice_is_told_sex_age_and_emotion_and_nothing_else_of_the_face():
    assert list(inspect.signature(speak).parameters) == ["sex", "age", "emotion", "intensity", "rng", "split"]


def test_two_clips_of_one_person_differ():
    assert not np.array_equal(speak(0, 30.0, "calm", 0.5, rng(1))[:24000], speak(0, 30.0, "calm", 0.5, rng(2))[:24000])


def test_sentences_and_timbres_of_the_test_split_are_never_heard_in_training():
    assert not set(sentences.PREDICATES["train"]) & set(sentences.PREDICATES["test"])
    said = {split: {sentences.sentence(8, rng(seed), split) for seed in range(500)} for split in ("train", "test")}
    assert len(said["train"]) > 300 and not said["train"] & said["test"]
    assert not set(TIMBRES["train"]) & set(TIMBRES["test"])
    patterns = {tuple(timbre(number).frequency) for numbers in TIMBRES.values() for number in numbers}
    assert len(patterns) == 64


def test_sentences_do_not_speak_of_age_or_feelings():
    from runtime.words import find_phrases

    for split in ("train", "test"):
        for seed in range(200):
            found = find_phrases(sentences.sentence(12, rng(seed), split))
            assert found.age is None and found.emotion is None


def test_sex_is_audible_among_adults(listened):
    truths, table = listened
    adults = np.array([truth["age"] >= 18 for truth in truths])
    sex = np.array([truth["sex"] for truth in truths])[adults]
    assert ((predict(table[adults], 2.0 * sex - 1) > 0) == (sex[len(sex) * 3 // 4 :] == 1)).mean() > 0.9


def test_age_is_audible(listened):
    truths, table = listened
    age = np.array([truth["age"] for truth in truths])
    assert np.corrcoef(predict(table, age - 45), age[len(age) * 3 // 4 :])[0, 1] > 0.7


def test_emotion_is_audible(listened):
    truths, table = listened
    label = np.array([EMOTIONS.index(truth["emotion"]) for truth in truths])
    right = predict(table, np.eye(8)[label]).argmax(1) == label[len(label) * 3 // 4 :]
    assert right.mean() > 0.55  # chance is 0.125


def test_intensity_zero_sounds_neutral_for_every_label():
    expected = speak(1, 30.0, "neutral", 1.0, rng(4))
    assert all(np.array_equal(expected, speak(1, 30.0, emotion, 0.0, rng(4))) for emotion in EMOTIONS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sex": 2}, "sex is 2"),
        ({"age": 4.0}, "age is 4.0; use 5..85"),
        ({"age": float("nan")}, "age is nan"),
        ({"emotion": "bored"}, "emotion is 'bored'"),
        ({"intensity": 1.5}, "intensity is 1.5; use 0..1"),
        ({"split": "dev"}, "split is 'dev'"),
    ],
)
def test_a_refused_argument_is_named_with_its_range(change, named):
    arguments = {"sex": 0, "age": 30.0, "emotion": "calm", "intensity": 0.5, "rng": rng(), "split": "train"} | change
    with pytest.raises(ValueError, match=named):
        speak(**arguments)


def test_a_missing_espeak_names_the_extra_to_install(monkeypatch):
    def refuse(name):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(RuntimeError, match=r"pip install \.\[train\]"):
        espeak.Espeak()
