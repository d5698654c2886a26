"""One prompt many times: the words are read as a request's, and the renders beside them show nothing that the prompt denies."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from runtime.spec import SOURCES
from training.evaluation import diversity
from training.evaluation.diversity import PROMPT, drawn, rate_spread, same_words
from training.evaluation.making import MeasureSettings
from training.evaluation.rating import Skip
from training.evaluation.scene import Scene

SETTINGS = MeasureSettings(count=36, seeds=(42,), steps=2, spread=6)


@pytest.fixture
def scene(examples, judges):
    return Scene.of(examples, judges, 36)


def test_a_request_says_the_prompt_and_the_phrases_in_it(examples):
    inputs = same_words(examples.model, 3)
    said = {SOURCES[place] for place in np.flatnonzero(inputs["present"][0].numpy())}
    assert said == {"text", "age_text", "emotion_text"}
    assert (inputs["text_features"][0] == inputs["text_features"][2]).all()
    assert not inputs["age"].any() and not inputs["identity_features"].any()


def test_renders_are_of_whom_the_prompt_tells(monkeypatch):
    seen = []
    monkeypatch.setattr(diversity, "render", lambda *shown: seen.append(shown) or np.zeros((8, 8, 3), np.uint8))
    drawn(5, 8, 0)
    assert {(person.sex, int(shot.age), shot.emotion) for person, shot, _ in seen} == {(0, 35, "happy")}
    assert "a woman, 35 years old, happy" in PROMPT
    assert len({person.values for person, _, _ in seen}) == 5


def test_a_model_that_paints_renders_is_as_varied_as_they_are_and_one_that_repeats_itself_not_at_all(
    scene, monkeypatch
):
    size = scene.model.config.image_size
    monkeypatch.setattr(diversity, "paint", lambda *_: drawn(6, size, 0))
    assert rate_spread(scene, SETTINGS, 42)["spread"].value == pytest.approx(1)
    monkeypatch.setattr(diversity, "paint", lambda *_: np.repeat(drawn(1, size, 0), 6, axis=0))
    assert rate_spread(scene, SETTINGS, 42)["spread"].value == pytest.approx(0, abs=1e-3)


def test_what_was_not_asked_for_is_said(scene):
    found = rate_spread(scene, dataclasses.replace(SETTINGS, spread=0), 42)["spread"]
    assert isinstance(found, Skip) and "--spread" in found.reason
