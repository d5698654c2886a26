"""What the renderer knows: counterfactuals that change one thing, the background, a file that is a real one, impostors who match."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from PIL import Image

from benchmarks.editing.subject import IMPOSTORS, OWN_PICTURES, SAME_PICTURE, Subject, alike, impostors, subjects
from runtime.similarity import psnr_db
from training.data.synthetic.world import World, split_of


@pytest.fixture(scope="module")
def bearded() -> Subject:
    """The first held-out man with a beard."""
    return next(subject for subject in subjects(60, 64) if subject.shot.beard != "none")


def test_everybody_is_held_out_and_nobody_comes_twice():
    numbers = [subject.number for subject in subjects(20, 32)]
    assert len(set(numbers)) == 20
    assert {split_of(number) for number in numbers} == {"test"}


def test_the_photo_is_a_jpeg_file_close_to_the_render(bearded):
    with Image.open(io.BytesIO(bearded.file)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 64))
    assert psnr_db(bearded.photo, bearded.truth(bearded.shot)) > 35


def test_a_counterfactual_changes_the_years_and_nothing_else(bearded):
    older = bearded.aged(bearded.shot.age + 1)
    assert replace(older, age=bearded.shot.age) == bearded.shot
    assert not np.array_equal(bearded.truth(older), bearded.truth(bearded.shot))


def test_a_child_has_no_beard(bearded):
    assert bearded.aged(10.0).beard == "none"
    assert bearded.aged(40.0).beard == bearded.shot.beard


def test_background_is_what_shows_the_paper_and_nothing_of_the_person(bearded):
    paper = bearded.background(bearded.shot)
    assert paper[:8, :8].all()  # a corner
    assert not paper[30:36, 30:36].any()  # the nose
    other = replace(bearded.shot, background="plain", background_colours=((0.1, 0.9, 0.1), (0.1, 0.9, 0.1)))
    differs = (bearded.truth(other) != bearded.truth(bearded.shot)).any(-1)
    assert differs[paper].all()


def test_the_mask_lets_the_whole_person_change(bearded):
    with Image.open(io.BytesIO(bearded.mask())) as picture:
        assert picture.format == "PNG"
        mask = np.asarray(picture)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask[~bearded.background(bearded.shot)] == 255).all()


def test_a_voice_is_a_wav_file_of_its_own_for_each_emotion(bearded):
    angry, rate = soundfile.read(io.BytesIO(bearded.voice("angry")))
    assert rate == 16000 and len(angry) > rate
    assert bearded.voice("angry") == bearded.voice("angry") != bearded.voice("sad")


def test_words_tell_what_they_are_to_tell(bearded):
    shot = bearded.aged(72.0)
    assert any(figure in bearded.words(shot, "age") for figure in ("72", "seventy-two"))
    felt = bearded.words(bearded.feeling("angry"), "emotion")
    assert any(word in felt for word in ("angry", "cross", "mad", "furious", "enraged"))


def test_background_is_background_in_both_pictures(bearded):
    """A child's head is smaller: some of its background is the adult's hair."""
    paper, child = bearded.background(bearded.shot), bearded.background(bearded.aged(6.0))
    assert paper.sum() > 500
    assert not (child & ~paper).any()
    wider = bearded.background(replace(bearded.shot, hair_style="curly"))
    assert not (wider & ~paper).any()
    assert (paper & ~wider).any()


def test_impostors_are_other_people_of_the_same_sex_and_nearly_the_same_skin(bearded):
    world = World()
    found = [world.person(number) for number in alike(bearded)]
    assert len(set(alike(bearded))) == IMPOSTORS and bearded.number not in alike(bearded)
    assert {person.sex for person in found} == {bearded.person.sex}
    assert all(abs(person["skin_tone"] - bearded.person["skin_tone"]) < 0.1 for person in found)


def test_impostors_stand_in_the_photos_place_or_in_pictures_of_their_own(bearded):
    corner = bearded.truth(bearded.shot)[:8, :8]
    same, own = (impostors(bearded)[kind] for kind in (SAME_PICTURE, OWN_PICTURES))
    assert same.shape == own.shape == (IMPOSTORS, 64, 64, 3)
    assert all(np.array_equal(picture[:8, :8], corner) for picture in same)
    assert not any(np.array_equal(picture[:8, :8], corner) for picture in own)
    assert not any(np.array_equal(picture, bearded.truth(bearded.shot)) for picture in same)
