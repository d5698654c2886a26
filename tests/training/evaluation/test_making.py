"""What is asked for: different people on both sides, one modality alone or all, words without a parser, seeds that decide everything."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from runtime.spec import SOURCES
from training.data.synthetic.world import split_of
from training.evaluation.making import CONDITIONS, MeasureSettings, autoencoded, halves, is_another, make, plan
from training.examples import Examples

SETTINGS = MeasureSettings(count=36, seeds=(42,), steps=2)
EXPECTED = {
    "text": {"text"},
    "audio": {"audio"},
    "reference": {"image", "identity"},
    "age": {"age"},
    "emotion": {"emotion", "valence_arousal"},
    "changed": {"image", "identity", "age", "emotion", "valence_arousal"},
}


@pytest.fixture(scope="module")
def targets(held_out):
    return halves(held_out, 36)[1]


@pytest.fixture(scope="module")
def asked(examples, targets):
    planned, skipped = plan(examples, targets, SETTINGS, 42)
    assert not skipped
    return {request.condition: request for request in planned}


def test_real_pictures_and_targets_show_different_people_as_many_of_each(held_out):
    real, targets = halves(held_out, 36)
    assert len(real) == len(targets) == 36
    assert not set(held_out.person[real]) & set(held_out.person[targets])


def test_more_than_the_data_has_is_half_of_it(held_out):
    real, targets = halves(held_out, 10_000)
    assert len(real) == len(targets) == len(held_out) // 2


def test_nobody_of_them_has_been_trained_on(held_out):
    assert {split_of(int(person)) for person in held_out.person} == {"test"}


def test_every_condition_gets_an_equal_share_of_different_targets(asked, targets):
    assert tuple(asked) == CONDITIONS
    assert {len(request.rows) for request in asked.values()} == {36 // len(CONDITIONS)}
    together = np.concatenate([request.rows for request in asked.values()])
    assert len(set(together)) == len(together) and set(together) <= set(targets)


def test_a_person_is_asked_for_at_another_age_and_in_another_mood(asked, held_out):
    request = asked["changed"]
    assert (held_out.person[request.reference] == held_out.person[request.rows]).all()
    assert (held_out.emotion[request.reference] != held_out.emotion[request.rows]).all()
    assert (np.abs(held_out.age[request.reference] - held_out.age[request.rows]) >= 10).all()
    assert not request.told["text"].any() and request.told["identity"].all() and request.told["age"].all()


def test_a_reference_is_another_only_if_age_and_label_are_known_and_differ(held_out, monkeypatch):
    monkeypatch.setattr(held_out, "age", np.array([20.0, 29.0, 31.0, 31.0, np.nan]))
    monkeypatch.setattr(held_out, "emotion", np.array([0, 1, 1, 0, 1]))
    found = is_another(held_out, np.zeros(5, int), np.arange(5))
    assert found.tolist() == [False, False, True, False, False]


def test_a_modality_alone_is_alone(asked):
    for condition, sources in EXPECTED.items():
        given = asked[condition].inputs["present"].numpy()
        assert {SOURCES[place] for place in np.flatnonzero(given.any(0))} <= sources
        assert given.any(1).all()


def test_words_are_given_without_their_parsed_phrases(asked):
    for condition in ("text", "all"):
        request = asked[condition]
        present = dict(zip(SOURCES, request.inputs["present"].numpy().T, strict=True))
        assert present["text"].all()
        for phrase in ("age_text", "emotion_text"):
            assert not present[phrase].any()
            assert not request.inputs[f"{phrase}_features"].any()
    said = [asked[name].told[phrase].any() for name in ("text", "all") for phrase in ("age_text", "emotion_text")]
    assert any(said)  # the prompts do speak of them, or nothing was switched off


def test_the_reference_is_another_picture_of_the_person(asked, held_out):
    request = asked["reference"]
    assert request.has_other.all()
    assert (request.reference != request.rows).all()
    assert (held_out.person[request.reference] == held_out.person[request.rows]).all()


def test_a_condition_that_the_model_was_trained_without_is_skipped_with_its_reason(held_out, examples, targets):
    blind = Examples(examples.model, held_out, examples.features, never=("age",))
    planned, skipped = plan(blind, targets, SETTINGS, 42)
    reason = "0 of 36 held-out pictures have what it needs, at least 5 are wanted"
    assert skipped == {"age": reason, "changed": reason}
    everything = next(request for request in planned if request.condition == "all")
    assert not everything.inputs["present"][:, SOURCES.index("age")].any()


def test_pictures_follow_the_seed_and_the_steps(examples, asked):
    first = make(examples, [asked["age"]], SETTINGS, 42)[0].pictures
    assert first.shape == (36 // len(CONDITIONS), 32, 32, 3) and first.dtype == np.uint8
    assert np.array_equal(first, make(examples, [asked["age"]], SETTINGS, 42)[0].pictures)
    assert not np.array_equal(first, make(examples, [asked["age"]], SETTINGS, 43)[0].pictures)
    assert not np.array_equal(
        first, make(examples, [asked["age"]], dataclasses.replace(SETTINGS, steps=3), 42)[0].pictures
    )


def test_the_guidance_scale_changes_the_latents(examples, asked, monkeypatch):
    from training.evaluation import making

    seen = []
    monkeypatch.setattr(
        making,
        "sample_images",
        lambda model, cond, seed, steps, scale, solver, interval: (
            seen.append((scale, solver, interval)) or cond[0].new_zeros(len(cond[0]), 3, 32, 32)
        ),
    )
    make(examples, [asked["age"]], SETTINGS, 42)
    make(
        examples,
        [asked["age"]],
        dataclasses.replace(SETTINGS, guidance_scale=1.5, solver="unipc", guidance_interval=(9, 99)),
        42,
    )
    assert seen == [(examples.model.config.guidance_scale, "ddim", None), (1.5, "unipc", (9, 99))]


def test_the_report_says_how_guidance_acted():
    assert SETTINGS.guidance == "the checkpoint's"
    limited = dataclasses.replace(SETTINGS, guidance_scale=2.5, guidance_interval=(9, 99))
    assert limited.guidance == "2.5 at timesteps 9 to 99"


def test_autoencoded_pictures_went_through_the_models_own_autoencoder(examples, held_out):
    pictures = held_out.images[:3]
    through = autoencoded(examples, pictures)
    assert through.shape == pictures.shape and not np.array_equal(through, pictures)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 10}, "at least 35"),
        ({"solver": "euler"}, "euler"),
        ({"spread": 1}, "spread 1"),
        ({"conditions": ("smell",)}, "smell"),
        ({"never": ("smell",)}, "smell"),
        ({"seeds": (1, 1)}, "none twice"),
        ({"steps": 0}, "steps 0"),
        ({"guidance_interval": (700, 100)}, "guidance interval 700 100"),
        ({"guidance_interval": (0, 1000)}, "0..999"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        MeasureSettings(**change)
