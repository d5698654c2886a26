"""Words about age and emotion are found in prompts, and only there."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.emotions import EMOTIONS
from runtime.words import LONGEST_PROMPT, Phrases, find_phrases


@pytest.mark.parametrize(
    ("prompt", "age"),
    [
        ("a woman, 72 years old, with glasses", "72 years old"),
        ("Seventy-Two-year-old woman", "seventy-two-year-old"),
        ("a 12-year-old boy", "12-year-old"),
        ("about 40 years of age", "about 40 years of age"),
        ("a nun aged 65 with a veil", "aged 65"),
        ("a man of 60", "of 60"),
        ("man, 45, beard", "45"),
        ("a photo of a 30yo guy", "30yo"),
        ("a man in his forties", "in his forties"),
        ("a lady in her late 70s", "in her late 70s"),
        ("an old man", "old man"),
        ("a very old, kind woman", "very old"),
        ("teenage girl with green eyes", "teenage girl"),
        ("a girl laughing", "girl"),
        ("middle aged man, frowning", "middle aged man"),
        ("elderly", "elderly"),
        ("she looks young.", "looks young"),
        ("a senior citizen", "senior citizen"),
    ],
)
def test_words_about_age_are_found(prompt, age):
    assert find_phrases(prompt).age == age


@pytest.mark.parametrize(
    ("prompt", "emotion"),
    [
        ("a smiling old man", "smiling"),
        ("a woman, very angry", "very angry"),
        ("a man who looks surprised", "looks surprised"),
        ("she looks a little sad and tired", "looks a little sad"),
        ("a person with an angry expression", "with an angry expression"),
        ("a terrified thirty-year-old woman", "terrified"),
        ("a girl smiling broadly in the rain", "smiling broadly"),
        ("a face full of joy", "full of joy"),
        ("he smiles", "smiles"),
        ("Happy", "happy"),
        ("a calm elderly nurse", "calm"),
    ],
)
def test_words_about_emotion_are_found(prompt, emotion):
    assert find_phrases(prompt).emotion == emotion


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a man with red hair",
        "an old house by the sea",
        "a woman wearing an old coat",
        "old-fashioned wallpaper",
        "a 300-year-old tree",
        "a 12-year-old whisky",
        "happy birthday",
        "a calm sea under an angry sky",
        "a sad song",
        "a man in front of a neutral background",
        "a portrait from the 1970s",
        "a person with no smile",
        "a man who is not smiling",
        "a lady who isn't very angry",
        "a gentleman no longer young",
        "a baby blue dress on a mannequin",
    ],
)
def test_prompts_that_say_nothing_about_a_face_give_nothing(prompt):
    assert find_phrases(prompt) == Phrases(age=None, emotion=None)


def test_figures_win_over_words():
    assert find_phrases("an old man, 72 years old").age == "72 years old"


def test_a_phrase_is_a_part_of_the_prompt_in_lower_case():
    prompt = "A  Very\nOld   Lady, looking EXTREMELY Happy"
    found = find_phrases(prompt)
    assert found == Phrases(age="very old lady", emotion="looking extremely happy")


def test_any_string_is_answered():
    draw = np.random.default_rng(0)
    for _ in range(300):
        find_phrases("".join(chr(int(code)) for code in draw.integers(1, 0x2FFF, 60)))
    for hostile in (
        "very ",
        "old ",
        "twenty-",
        "a little ",
        ", ",
        "is looking ",
        "not ",
        "(",
        "\\",
        "\x00",
        "😀",
        "in his ",
    ):
        find_phrases(hostile * 20000)


def test_words_beyond_the_longest_prompt_are_not_read():
    assert find_phrases("x" * LONGEST_PROMPT + " an old man") == Phrases(None, None)


@pytest.mark.parametrize("split", ["train", "test"])
def test_what_captions_say_is_found_and_nothing_else(split):
    captions = pytest.importorskip("training.data.synthetic.captions")
    from training.data.synthetic.shot import sample_shot
    from training.data.synthetic.traits import sample_person

    draw = np.random.default_rng(3)
    ages, emotions, invented = [], [], []
    for _ in range(1500):
        person = sample_person(draw)
        said = captions.compose(person, sample_shot(draw, person), draw, split)
        found = find_phrases(said.text)
        # "woman" excludes children, but is not what people call an age.
        tells_age = any(words.words not in {"man", "woman", "lady", "gentleman", "guy"} for words in said.ages)
        (ages if tells_age else invented).append(found.age is not None)
        if said.emotion:
            emotions.append(found.emotion is not None and said.emotion.words.split()[-1] in found.emotion)
        else:
            invented.append(found.emotion is not None)
    assert np.mean(ages) >= 0.95 and np.mean(emotions) >= 0.95
    assert np.mean(invented) <= 0.01


def test_the_phrases_of_training_are_found_whole():
    captions = pytest.importorskip("training.data.synthetic.captions")
    draw = np.random.default_rng(4)
    for age in np.linspace(5, 85, 200):
        assert find_phrases(captions.age_phrase(float(age), draw)).age
    for emotion in EMOTIONS:
        for intensity in np.linspace(0, 1, 25):
            phrase = captions.emotion_phrase(emotion, float(intensity), draw)
            assert find_phrases(phrase).emotion == phrase
