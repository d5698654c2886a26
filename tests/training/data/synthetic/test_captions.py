"""Captions: true of their picture, varied, deterministic, with templates held out."""

from __future__ import annotations

from dataclasses import replace
from string import Formatter

import numpy as np
import pytest

from runtime.emotions import EMOTIONS
from training.data.synthetic.ages import VOCABULARY, age_phrase, number_in_words
from training.data.synthetic.captions import TEMPLATES, caption, compose
from training.data.synthetic.feelings import emotion_phrase, feeling
from training.data.synthetic.looks import colour_names, looks
from training.data.synthetic.shot import Shot, sample_shot
from training.data.synthetic.traits import Person, sample_person

SPLITS = ("train", "test")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pictures(count: int) -> list[tuple[Person, Shot]]:
    draw = rng(11)
    return [(person := sample_person(draw), sample_shot(draw, person)) for _ in range(count)]


def captions_of(person: Person, shot: Shot, count: int = 60) -> list[str]:
    return [caption(person, shot, rng(seed), split) for seed in range(count) for split in SPLITS]


@pytest.mark.parametrize("split", SPLITS)
def test_every_statement_is_true_of_the_picture(split):
    draw = rng(1)
    for person, shot in pictures(1500):
        said = compose(person, shot, draw, split)
        assert said.fits(person, shot), said


def test_a_caption_does_not_fit_a_picture_that_contradicts_it():
    contradicted = 0
    for seed, (person, shot) in enumerate(pictures(300)):
        said = compose(person, shot, rng(seed))
        other_emotion = EMOTIONS[(EMOTIONS.index(shot.emotion) + 1) % 8]
        if said.emotion:
            contradicted += 1
            assert not said.fits(person, replace(shot, emotion=other_emotion))
        if said.sex is not None:
            assert not said.fits(Person(1 - person.sex, person.values), shot)
    assert contradicted > 150


def test_hair_on_the_chin_and_glasses_are_named_only_where_they_are():
    words = {"stubble", "stubbly", "moustache", "goatee", "beard"}
    seen = set()
    for seed, (person, shot) in enumerate(pictures(2000)):
        text = caption(person, shot, rng(seed))
        named = {word for word in words if word in text}
        seen |= named
        assert not named or shot.beard != "none", text
        assert "glasses" not in text or shot.glasses != "none", text
        assert "clean-shaven" not in text or (person.sex == 1 and shot.age >= 18 and shot.beard == "none"), text
    assert words <= seen


def test_words_for_the_sex_match_the_person():
    for seed, (person, shot) in enumerate(pictures(1500)):
        words = set(caption(person, shot, rng(seed)).replace(".", " ").replace(",", " ").replace(";", " ").split())
        wrong = (
            {"woman", "lady", "girl", "she", "her"}
            if person.sex == 1
            else {"man", "gentleman", "guy", "boy", "he", "his"}
        )
        assert not words & wrong


def test_a_figure_in_a_caption_is_the_age_or_says_that_it_is_rounded():
    for seed, (person, shot) in enumerate(pictures(1500)):
        text = caption(person, shot, rng(seed))
        figures = [int("".join(filter(str.isdigit, word))) for word in text.split() if any(map(str.isdigit, word))]
        for figure in figures:
            rounded = "about" in text or "around" in text or "roughly" in text or f"{figure}s" in text
            assert abs(figure - shot.age) < (10 if rounded else 1), text


def test_hair_colour_follows_age_unless_dyed():
    person = sample_person(rng(2))
    old = Shot(age=84.0, hair_colour="red", hair_style="long")
    assert "long white hair" in looks(person, old)["hair"]
    assert not any("red" in phrase for phrase in looks(person, old)["hair"])
    assert "long red hair" in looks(person, replace(old, dyed=True))["hair"]
    assert "long red hair" in looks(person, replace(old, age=20.0))["hair"]


def test_a_colour_between_two_names_has_both():
    assert colour_names((0.2, 0.3, 0.9)) == {"blue"}
    assert colour_names((0.5, 0.5, 0.5)) == {"grey"}
    assert len(colour_names((0.9, 0.44, 0.2))) >= 1


@pytest.mark.parametrize("split", SPLITS)
def test_every_template_has_a_place_for_each_statement(split):
    for template in TEMPLATES[split]:
        slots = {name for piece in template for _, name, _, _ in Formatter().parse(piece) if name}
        for either in ({"who"}, {"age"}, {"feeling", "feels"}, {"looks", "things"}, {"place", "background"}):
            assert slots & either, template


def test_test_templates_are_not_used_in_training():
    assert not set(TEMPLATES["train"]) & set(TEMPLATES["test"])
    openings = ("here we see", "a close-up", "in this image")
    trained = [caption(person, shot, rng(seed)) for seed, (person, shot) in enumerate(pictures(500))]
    assert not any(text.startswith(openings) for text in trained)
    tested = [caption(person, shot, rng(seed), "test") for seed, (person, shot) in enumerate(pictures(100))]
    assert any(text.startswith(openings) for text in tested)


def test_the_same_generator_gives_the_same_caption_and_another_a_different_one():
    person, shot = pictures(1)[0]
    assert caption(person, shot, rng(3)) == caption(person, shot, rng(3))
    assert len(set(captions_of(person, shot))) > 60


def test_a_caption_mentions_a_random_subset():
    person, shot = pictures(1)[0]
    said = [compose(person, shot, rng(seed)) for seed in range(300)]
    for share in (
        np.mean([words.sex is not None for words in said]),
        np.mean([words.emotion is not None for words in said]),
        np.mean([bool(words.looks) for words in said]),
    ):
        assert 0.3 < share < 0.95


def test_captions_have_no_holes():
    for seed, (person, shot) in enumerate(pictures(1000)):
        for split in SPLITS:
            text = caption(person, shot, rng(seed), split)
            assert text and not any(mark in text for mark in ("{", "}", "  ", " ,", ", ,", "..", "None", " a a "))


def test_every_age_has_a_phrase_and_no_word_is_used_outside_its_range():
    draw = rng(4)
    for age in np.linspace(5, 85, 400):
        phrase = age_phrase(float(age), draw)
        assert phrase
        for words in VOCABULARY:
            if phrase.split(" ", 1)[-1] in (words.words, f"{words.words} person", f"{words.words} face"):
                assert words.fits(age), (phrase, age)


def test_every_emotion_has_a_phrase_and_intensity_chooses_it():
    for emotion in EMOTIONS:
        for intensity in (0.0, 0.3, 0.6, 1.0):
            assert emotion_phrase(emotion, intensity, rng(1))
    faint = {emotion_phrase("angry", 0.3, rng(seed)) for seed in range(80)}
    full = {emotion_phrase("angry", 1.0, rng(seed)) for seed in range(80)}
    assert any("furious" in phrase for phrase in full) and not any("furious" in phrase for phrase in faint)
    assert any("slightly" in phrase for phrase in faint) and not any("slightly" in phrase for phrase in full)
    assert not faint & full


def test_an_emotion_too_faint_to_see_is_not_mentioned():
    assert feeling("angry", 0.1, ("adjective",), rng()) is None


def test_numbers_are_written_as_english_does():
    assert [number_in_words(number) for number in (5, 13, 20, 72)] == ["five", "thirteen", "twenty", "seventy-two"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: caption(*pictures(1)[0], rng(), "dev"),
        lambda: age_phrase(4.0, rng()),
        lambda: emotion_phrase("bored", 0.5, rng()),
        lambda: emotion_phrase("sad", 2.0, rng()),
        lambda: number_in_words(100),
    ],
)
def test_arguments_out_of_range_are_refused(call):
    with pytest.raises(ValueError):
        call()
