"""Edits to look at: what was asked, what was made, and what it should have been, person under person."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.editing.subject import Subject
from benchmarks.editing.trials import (
    EMOTION,
    MASKED,
    VOICE,
    WORDS,
    Settings,
    Trial,
    strip,
    sweeps,
    trials,
)
from runtime.sheet import Cell, Row, draw_sheet

SHOWN = 4  # people whose pictures are kept and drawn
JPEG_QUALITY = 85  # of a sheet

Choose = Callable[[Subject], list[tuple[str, Trial]]]
"""The trials of a sheet for one person, each with its label."""


def file_name(subject: Subject, trial: Trial) -> str:
    """Where the answer to a trial is kept."""
    return f"{subject.number:04d} {trial.series} {trial.row} {trial.change} {trial.who}.png"


def draw(people: Sequence[Subject], pictures: Path, folder: Path) -> None:
    """Draw ages.jpg, emotions.jpg, ways.jpg and levels.jpg into `folder`, from the answers kept in `pictures`."""
    below = "below each edit what the renderer draws"
    drawings: dict[str, tuple[str, str, Choose]] = {
        "ages": ("Ages", f"the photo, and the same picture at other ages; {below}", _strips),
        "emotions": ("Emotions", f"the photo, and the same picture in eight moods; {below}", _emotions),
        "ways": ("Other ways to ask", f"with a mask, in words, by a voice; {below}", _ways),
    }
    for name, (title, subtitle, choose) in drawings.items():
        rows = [row for subject in people for row in _rows(subject, _answered(subject, pictures, choose))]
        _save(folder / f"{name}.jpg", title, subtitle, rows)
    levels = [_level_row(subject, kept) for subject in people if (kept := _answered(subject, pictures, _levels))]
    _save(
        folder / "levels.jpg", "How far the photo is undone", "one change of age, begun at seven noise levels", levels
    )


def _save(path: Path, title: str, subtitle: str, rows: Sequence[Row]) -> None:
    if rows:
        draw_sheet(title, subtitle, rows).save(path, quality=JPEG_QUALITY)


def _answered(subject: Subject, pictures: Path, choose: Choose) -> list[tuple[str, Trial, np.ndarray]]:
    """The chosen trials, each with its label and the answer to it, as far as there are any."""
    chosen = [(label, trial, pictures / file_name(subject, trial)) for label, trial in choose(subject)]
    return [(label, trial, _picture(path)) for label, trial, path in chosen if path.is_file()]


def _rows(subject: Subject, answered: Sequence[tuple[str, Trial, np.ndarray]]) -> list[Row]:
    """An edited and a true row for one person; none where nothing was answered."""
    if not answered:
        return []
    photo = Cell(subject.photo, "photo")
    made = [Cell(picture, label) for label, _, picture in answered]
    true = [Cell(subject.truth(trial.shot), "truth") for _, trial, _ in answered]
    return [Row(*_who(subject), [photo, *made]), Row("", "what the renderer draws", [photo, *true])]


def _level_row(subject: Subject, answered: Sequence[tuple[str, Trial, np.ndarray]]) -> Row:
    made = [Cell(picture, label) for label, _, picture in answered]
    shot = answered[0][1].shot
    truth = Cell(subject.truth(shot), f"truth: {shot.age:.0f} years")
    return Row(*_who(subject), [Cell(subject.photo, "photo"), *made, truth])


def _who(subject: Subject) -> tuple[str, str]:
    return f"person {subject.number}", f"{subject.shot.age:.0f} years old, {subject.shot.emotion}"


def _strips(subject: Subject) -> list[tuple[str, Trial]]:
    return [(f"{trial.row} years", trial) for trial in strip(subject, Settings())]


def _emotions(subject: Subject) -> list[tuple[str, Trial]]:
    return [
        (trial.row, trial) for trial in trials(subject, Settings()) if trial.series == EMOTION and trial.who == "edit"
    ]


def _ways(subject: Subject) -> list[tuple[str, Trial]]:
    found = [trial for trial in trials(subject, Settings()) if trial.series in (VOICE, WORDS, MASKED)]
    return [(f"{trial.series}: {_wish(trial)}", trial) for trial in found]


def _levels(subject: Subject) -> list[tuple[str, Trial]]:
    found = [
        trial for trial in sweeps(subject, Settings()) if trial.series == "edit_from_timestep" and trial.change == "age"
    ]
    return [(f"from {trial.row}", trial) for trial in found]


def _wish(trial: Trial) -> str:
    return f"{trial.shot.age:.0f} years" if trial.change == "age" else trial.shot.emotion


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))
