"""The test of the test: the truth scores as well as anything can, the unedited photo moves by nothing, and the arithmetic between."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.editing.experiment import PICTURES, RECORDS, Instruments, collect, measure
from benchmarks.editing.figures import (
    AUTOENCODED,
    TRUTH,
    UNEDITED,
    Record,
    all_figures,
    figure,
    goals,
    heard,
    measured,
    thresholds,
    values_of,
)
from benchmarks.editing.report import markdown
from benchmarks.editing.sheets import draw, file_name
from benchmarks.editing.subject import OWN_PICTURES, SAME_PICTURE, Subject, subjects
from benchmarks.editing.trials import (
    AGE,
    EDIT,
    EMOTION,
    MASKED,
    ROUND_TRIP,
    VOICE,
    Settings,
    Trial,
    strip,
    sweeps,
    trials,
)
from runtime.emotions import EMOTIONS
from runtime.errors import ClipFaceFusionError
from training.evaluation.panel import Panel, load

JUDGES = Path(__file__).parents[3] / "bundles/judges"
PEOPLE = 2


@pytest.fixture(scope="module")
def judges() -> Panel:
    return load(JUDGES)


@pytest.fixture(scope="module")
def people() -> list[Subject]:
    return subjects(PEOPLE, 128)


def truths(subject: Subject, asked: Sequence[Trial]) -> list[np.ndarray]:
    return [subject.photo if trial.change == "nothing" else subject.truth(trial.shot) for trial in asked]


def photos(subject: Subject, asked: Sequence[Trial]) -> list[np.ndarray]:
    return [subject.photo] * len(asked)


@pytest.fixture(scope="module")
def records(judges: Panel, people: list[Subject]) -> dict[str, list[Record]]:
    """Of an editor who always gives the truth, and of one who gives the photo back."""
    instruments = Instruments(lambda asked: [], judges, hear=lambda voice: "angry")
    asked = {subject: [t for t in trials(subject, Settings()) if t.who == EDIT] for subject in people}
    return {
        name: [measure(instruments, subject, asked[subject], answer(subject, asked[subject])) for subject in people]
        for name, answer in (("truth", truths), ("photo", photos))
    }


def mean(records: Sequence[Record], name: str, series: str, who: str = EDIT) -> float:
    found = measured(records, values_of(records)[name], series, who)
    assert found is not None
    return found.mean


def test_who_gives_the_truth_scores_as_the_truth_does(records):
    for name in ("identity", "kept", "moved", "age_error", "emotion", "psnr_db", "background"):
        assert mean(records["truth"], name, AGE) == mean(records["truth"], name, AGE, TRUTH)
    assert mean(records["truth"], "ssim", AGE) == 1
    assert mean(records["truth"], "look", EMOTION) == 0
    assert mean(records["truth"], "age_error_to_truth", AGE) == 0


def test_the_truth_does_what_was_asked_by_the_judges_reading(records):
    assert mean(records["truth"], "moved", AGE) > 0.8
    assert mean(records["truth"], "emotion", EMOTION) > 0.9
    assert mean(records["truth"], "age_error", AGE) < 10


def test_who_gives_the_photo_back_moves_by_nothing_and_keeps_everything(records):
    assert mean(records["photo"], "moved", AGE) == 0
    assert mean(records["photo"], "age_error", AGE) > 20
    assert mean(records["photo"], "emotion", EMOTION) < 0.3  # one label in eight is the photo's own
    assert mean(records["photo"], "identity", AGE) == pytest.approx(1)
    assert mean(records["photo"], "kept", AGE) == 1
    assert mean(records["photo"], "background", MASKED) == 0
    assert mean(records["photo"], "psnr_db", ROUND_TRIP) == 100
    assert mean(records["photo"], "psnr_db", AGE) == mean(records["truth"], "psnr_db", AGE, UNEDITED) < 25


def test_a_goal_is_reached_by_the_truth_and_not_by_the_photo(records):
    reached = {name: {goal.wish: goal.reached for goal in goals(each)} for name, each in records.items()}
    assert reached["truth"]["age ±30: share of the years moved"]
    assert reached["truth"]["eight emotions: share recognised"]
    assert not reached["photo"]["age ±30: share of the years moved"]
    assert not reached["photo"]["eight emotions: share recognised"]


def test_every_emotion_is_asked_of_everybody_and_years_stay_in_the_world(people):
    for subject in people:
        asked = list(trials(subject, Settings()))
        assert [t.row for t in asked if (t.series, t.who) == (EMOTION, EDIT)] == list(EMOTIONS)
        years = [t.shot.age - subject.shot.age for t in asked if (t.series, t.who) == (AGE, EDIT)]
        assert years and {round(abs(each)) for each in years} == {30}
        assert all(t.request.age == pytest.approx(t.shot.age) for t in asked if t.request.age is not None)


def test_no_two_trials_of_a_person_share_a_place(people):
    """Their pictures are kept by series, row, change and who."""
    for subject in people:
        asked = [*trials(subject, Settings()), *sweeps(subject, Settings()), *strip(subject, Settings())]
        assert len({file_name(subject, trial) for trial in asked}) == len(asked)


def test_what_comes_from_noise_is_no_edit_and_shares_its_wish(people):
    for trial in trials(people[0], Settings()):
        assert (trial.request.edit_from_timestep is None) == (trial.who != EDIT)


def test_a_sweep_changes_one_setting(people):
    asked = list(sweeps(people[0], Settings()))
    starts = {t.row: t.request.edit_from_timestep for t in asked if t.series == "edit_from_timestep"}
    assert starts["300"] == 300 and starts["700"] == 700
    assert all(t.request.edit_from_timestep == 500 for t in asked if t.series != "edit_from_timestep")
    assert len({t.request for t in asked if t.series == "inversion"}) == len(
        [t for t in asked if t.series == "inversion"]
    )


def test_a_mean_is_over_pictures_and_its_interval_over_people():
    found = figure([[1.0, 1.0, 1.0], [0.0], []])
    assert found is not None
    assert (found.mean, found.people, found.pictures) == (0.75, 2, 4)
    assert (found.low, found.high) == (0.0, 1.0)  # two people only: a resample may hold one of them twice
    assert figure([[], []]) is None


def test_the_threshold_is_what_one_impostor_in_a_hundred_exceeds():
    cosines = [k / 100 for k in range(101)]
    record = {"person": 9, "impostors": {SAME_PICTURE: cosines, OWN_PICTURES: [0.5] * 10}, "scores": []}
    assert thresholds([record]) == {SAME_PICTURE: 0.99, OWN_PICTURES: 0.5}


def test_what_a_voice_can_tell_is_what_the_recogniser_hears(records, people):
    spoken = [t.row for subject in people for t in trials(subject, Settings()) if t.series == VOICE]
    found = heard(records["photo"])
    assert found is not None
    assert found.mean == spoken.count("angry") / len(spoken)


def test_a_second_run_goes_on_and_other_settings_are_refused(judges, people, tmp_path):
    calls: list[int] = []

    def edit(asked: Sequence[Trial]) -> list[np.ndarray]:
        calls.append(len(asked))
        return [people[0].photo] * len(asked)

    instruments = Instruments(edit, judges)
    facts = {"bundle_sha256": "a", "settings": {"steps": 50}}
    first = collect(people[:1], 0, Settings(), instruments, tmp_path, facts)
    again = collect(people[:1], 0, Settings(), instruments, tmp_path, facts)
    assert len(calls) == 1
    assert again == first
    draw(people[:1], tmp_path / PICTURES, tmp_path)
    assert {path.name for path in tmp_path.glob("*.jpg")} == {
        "ages.jpg",
        "emotions.jpg",
        "ways.jpg",
    }  # no sweeps, no levels
    with pytest.raises(ClipFaceFusionError, match="choose another --out"):
        collect(people[:1], 0, Settings(), instruments, tmp_path, {**facts, "bundle_sha256": "b"})


@pytest.mark.parametrize("lost", [1, 100], ids=["the end of the line", "half a record"])
def test_a_record_that_a_kill_cut_is_made_again_and_the_others_stay(judges, people, tmp_path, lost):
    calls: list[int] = []

    def edit(asked: Sequence[Trial]) -> list[np.ndarray]:
        calls.append(len(asked))
        return [people[0].photo] * len(asked)

    whole = collect(people, 0, Settings(), Instruments(edit, judges), tmp_path, {})
    text = (tmp_path / RECORDS).read_text()
    (tmp_path / RECORDS).write_text(text[:-lost])
    for _ in range(2):  # the second time, nothing is missing
        assert collect(people, 0, Settings(), Instruments(edit, judges), tmp_path, {}) == whole
    assert len(calls) == PEOPLE + 1 and (tmp_path / RECORDS).read_text() == text


def test_the_page_holds_floor_ceiling_and_what_is_missed(records):
    page = markdown("python -m benchmarks editing bundles/demo", records["photo"])
    assert "| age ±30: share of the years moved | ≥ 0.8 | 0.00 (0.00 … 0.00) | – | ✗ |" in page
    assert UNEDITED in page and AUTOENCODED in page
    assert all_figures(records["photo"])["edits"]["age ±30"][TRUTH]["moved"]["mean"] > 0.8
