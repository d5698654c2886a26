"""Words for looks: found in prompts as they were meant, looked for in the right picture, and counted by topic."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from training.data.looks import SEX, Looks
from training.data.synthetic.captions import compose
from training.data.synthetic.looks import looks
from training.data.synthetic.world import World
from training.evaluation.looks import rate_looks, recall_and_precision, said
from training.evaluation.making import Made, MeasureSettings, plan
from training.evaluation.panel import Panel, PanelConfig
from training.evaluation.rating import Rating, Skip
from training.evaluation.scene import Scene

HAIR, GREY, LONG, BLUE, EYES = (
    ("hair", "grey hair"),
    ("hair", "long grey hair"),
    ("hair", "long hair"),
    ("background", "blue"),
    ("eyes", "blue eyes"),
)


def found(text: str, *phrases: tuple[str, str]) -> set[tuple[str, str]]:
    true = Looks(phrases, np.ones((1, len(phrases)), np.float32))
    return {phrases[n] for n in np.flatnonzero(said([text], true)[0])}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a woman with long grey hair", {HAIR, GREY}),
        ("a woman with blue eyes", {EYES}),
        ("a woman with blue eyes against a blue wall", {EYES, BLUE}),
        ("here we see a man. behind: blue", {BLUE}),
        ("a man. the background is blue", {BLUE}),
        ("a blue person", set()),
    ],
)
def test_a_phrase_is_said_where_it_stands_for_its_topic(text, expected):
    assert found(text, HAIR, GREY, LONG, BLUE, EYES) == expected


def test_what_is_not_true_of_the_picture_is_not_asked_for():
    assert not said(["a woman with long grey hair"], Looks((HAIR,), np.array([[0.0]], np.float32))).any()
    assert not said(["a woman with long grey hair"], Looks((HAIR,), np.array([[np.nan]], np.float32))).any()


@pytest.mark.parametrize("split", ["train", "test"])
def test_captions_are_read_as_they_were_composed(split):
    """Everything stated is found; what is found besides is part of something stated ("grey hair" of "long grey hair")."""
    world, rng = World(42), np.random.default_rng(0)
    for i in range(150):
        person, shot = world.person(i), world.shot(i, 0)
        caption = compose(person, shot, rng, split)
        true = [(topic, phrase) for topic, phrases in looks(person, shot).items() for phrase in phrases]
        sexes = [(SEX, "woman"), (SEX, "man")]
        holds = [1.0] * len(true) + [float(person.sex == 0), float(person.sex == 1)]
        here = said([caption.text], Looks((*true, *sexes), np.array([holds], np.float32)))[0]
        stated = {pair for pair, is_said in zip((*true, *sexes), here, strict=True) if is_said}
        assert caption.looks <= stated, caption.text
        for topic, phrase in stated - caption.looks:
            if topic == SEX:
                assert caption.sex == person.sex, caption.text
            else:
                assert any(topic == other and phrase in longer for other, longer in caption.looks), caption.text
        assert (caption.sex is None) == (not {(SEX, "woman"), (SEX, "man")} & stated), caption.text


@pytest.fixture
def scene(examples, judges):
    """Judges that look for every phrase of the pictures there are."""
    whole = Scene.of(examples, judges, 40)
    config = dataclasses.replace(judges.config, looks=whole.looks.phrases)
    return Scene.of(examples, Panel(config).eval(), 40)


@pytest.fixture
def made(scene):
    settings = MeasureSettings(count=20, conditions=("text",))
    (asked,), _ = plan(scene.examples, scene.targets, settings, seed=1)
    return Made(asked, scene.cache.images[asked.rows])


def test_a_picture_that_shows_what_was_said_scores_one(scene, made):
    """The judge is replaced by the truth itself."""
    truth = dataclasses.replace(scene.readings.of(made.asked.rows), looks=scene.looks.true[made.asked.rows])
    ratings = rate_looks(scene, made, truth)
    whole = ratings["looks.text"]
    assert whole.value == 1 and 0 < whole.beside["chance"] < 1 and 0 < whole.count <= len(made.pictures)
    topics = {key.partition(" ")[2] for key in ratings} - {""}
    assert {SEX, "hair", "background"} <= topics
    none = rate_looks(scene, made, dataclasses.replace(truth, looks=np.zeros_like(truth.looks)))
    assert none["looks.text"].value == 0


def test_real_is_the_target_in_the_judge_s_eyes(scene, made):
    reading = scene.readings.of(made.asked.rows)
    for rating in rate_looks(scene, made, reading).values():
        if isinstance(rating, Rating):
            assert rating.value == rating.beside["real"]


def test_judges_of_photographs_are_not_asked(scene, made, judges):
    blind = Scene.of(scene.examples, judges, 40)
    assert isinstance(rate_looks(blind, made, judges.read(made.pictures))["looks.text"], Skip)


def test_recall_and_precision_leave_out_what_is_unknown():
    true = np.array([[1, 1, 0], [np.nan] * 3, [0, 1, 0]], np.float32)
    judged = np.array([[0.9, 0.2, 0.8], [0.9] * 3, [0.1, 0.6, 0.4]], np.float32)
    assert recall_and_precision(true, judged) == pytest.approx((2 / 3, 2 / 3))


def test_a_panel_reads_as_many_probabilities_as_it_has_phrases():
    config = PanelConfig(image_size=32, channels=(8, 12), features=16, look=8, looks=(HAIR, BLUE))
    read = Panel(config).read(np.zeros((3, 32, 32, 3), np.uint8)).looks
    assert read.shape == (3, 2) and ((read > 0) & (read < 1)).all()
