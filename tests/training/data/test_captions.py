"""Composed captions: true, of the labels alone, and understood by the parser that requests meet."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from runtime.emotions import EMOTIONS
from runtime.words import find_phrases
from training.data.captions import EMOTION, compose
from training.data.record import Record


def captions(count: int = 60, **labels: object) -> set[str]:
    rng = np.random.default_rng(0)
    record = Record("folder", "a", image=Path("a.png"), **labels)
    return {text for _ in range(count) for text in compose(record, rng)}


def test_without_labels_there_is_no_caption() -> None:
    assert captions() == set()


@pytest.mark.parametrize("emotion", EMOTIONS)
def test_every_emotion_is_found_again_in_every_caption_that_names_it(emotion: str) -> None:
    for text in captions(emotion=emotion):
        phrase = find_phrases(text).emotion
        assert phrase is not None and EMOTION[emotion] in phrase, text


def test_an_age_is_said_as_its_number_or_its_decade_and_found_again() -> None:
    found = captions(age=34.4, sex=0)
    aged = [text for text in found if find_phrases(text).age]
    assert {re.sub(r"\D", "", text) for text in aged} == {"34", ""}
    assert all("34" in text or "in her thirties" in text or "person in their thirties" in text for text in aged)
    assert not any({"man", "his"} & set(text.split()) for text in found)


def test_a_child_is_a_girl_a_boy_or_a_child() -> None:
    assert all("girl" in text or "child" in text for text in captions(age=8.0, sex=0))
    assert all("boy" in text or "child" in text for text in captions(age=8.0, sex=1))
    assert all("child" in text for text in captions(age=3.0))
    assert all("boy" in text or "person" in text for text in captions(age=16.0, sex=1))


def test_some_captions_leave_a_label_out_so_that_words_are_learned_apart() -> None:
    found = captions(age=50.0, sex=1, emotion="angry")
    said = [(find_phrases(t).age is not None, find_phrases(t).emotion is not None, " man" in t) for t in found]
    assert {(True, True, True), (False, True, True), (True, False, True), (True, True, False)} <= set(said)


def test_one_picture_has_few_different_captions() -> None:
    for seed in range(20):
        texts = compose(
            Record("folder", "a", image=Path("a"), age=30.0, sex=1, emotion="sad"), np.random.default_rng(seed)
        )
        assert 1 <= len(texts) == len(set(texts)) <= 3
