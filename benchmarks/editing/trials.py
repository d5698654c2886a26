"""What is asked of an editor: for each person a list of requests, each with the shot that would fulfil it.

The tables here are the whole experiment. A trial belongs to a row of a series; `who` answers it: the editor, or the same model without the
photo's noise ("from noise"), which tells what falls short in the generator itself. Knows requests, not pictures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.editing.subject import Subject
from runtime.emotions import EMOTIONS
from runtime.options import Options
from runtime.request import GenerateRequest
from training.data.synthetic.ageing import OLDEST, YOUNGEST
from training.data.synthetic.shot import Shot

EDIT, WITH_PHOTO, WITHOUT_PHOTO = "edit", "from noise, with the photo", "from noise, without the photo"
YEARS = (-30, 30)
STRIP = (10, 30, 50, 70)  # ages of the sheet
SPOKEN = 2  # voices and pictures from noise per person: emotions that far apart in EMOTIONS, so that each label comes up equally often

ROUND_TRIP, AGE, EMOTION, VOICE, WORDS, MASKED = "round trip", "age", "emotion", "voice", "words", "age, masked"

# Nothing asked, so the way down should be the way up. The first three show the inversion alone: kept detail would hide what it misses.
ROUND_TRIPS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"keep_detail": False},
    "2 fixed-point iterations": {"keep_detail": False, "fixed_point_iterations": 2},
    "source correction": {"keep_detail": False, "source_correction": True},
    "detail kept, as by default": {},
}

# One setting away from the defaults, for the first people: name of the series -> row -> what changes. The option edit_strength is no series:
# guidance is multiplied by it.
SWEEPS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "edit_from_timestep": {str(t): {"edit_from_timestep": t} for t in (200, 300, 400, 500, 600, 700, 800)},
    "guidance_scale": {f"{g:g}": {"guidance_scale": g} for g in (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)},
    "inversion": {
        "as by default": {},
        "source none": {"options": {"source": "none"}},
        "2 fixed-point iterations": {"options": {"fixed_point_iterations": 2}},
        "source correction": {"options": {"source_correction": True}},
        "detail not kept": {"options": {"keep_detail": False}},
    },
}


@dataclass(frozen=True)
class Settings:
    """What all edits share; `guidance_scale` None is the default of each request."""

    edit_from_timestep: int = 500
    num_inference_steps: int = 50
    guidance_scale: float | None = None


@dataclass(frozen=True, eq=False)
class Trial:
    """One request, and the `shot` that would fulfil it. `change` is "nothing", "age" or "emotion"."""

    series: str
    row: str
    change: str
    request: GenerateRequest
    shot: Shot
    who: str = EDIT


def trials(subject: Subject, settings: Settings) -> Iterator[Trial]:
    """The main experiment for one person."""
    request = edit_request(subject, settings)
    for row, options in ROUND_TRIPS.items():
        yield Trial(ROUND_TRIP, row, "nothing", _changed(request, {"options": options}), subject.shot)
    for years in _years(subject):
        shot = subject.aged(subject.shot.age + years)
        row = f"{years:+d}"
        yield Trial(AGE, row, "age", replace(request, age=shot.age), shot)
        yield Trial(MASKED, row, "age", replace(request, age=shot.age, mask=subject.mask()), shot)
        yield from _from_noise(AGE, row, "age", replace(request, age=shot.age), shot, settings)
        yield Trial(WORDS, row, "age", replace(request, text=subject.words(shot, "age")), shot)
    for emotion in EMOTIONS:
        shot = subject.feeling(emotion)
        asked = replace(request, emotion=emotion)
        yield Trial(EMOTION, emotion, "emotion", asked, shot)
        if emotion in _spoken(subject):
            yield from _from_noise(EMOTION, emotion, "emotion", asked, shot, settings)
            yield Trial(VOICE, emotion, "emotion", replace(request, audio=subject.voice(emotion)), shot)
            yield Trial(WORDS, emotion, "emotion", replace(request, text=subject.words(shot, "emotion")), shot)


def sweeps(subject: Subject, settings: Settings) -> Iterator[Trial]:
    """The curves for one person: one change of age and one of emotion at every row of `SWEEPS`."""
    request = edit_request(subject, settings)
    older, emotion = _years(subject)[-1], _spoken(subject)[0]
    aged, felt = subject.aged(subject.shot.age + older), subject.feeling(emotion)
    for series, rows in SWEEPS.items():
        for row, changes in rows.items():
            changed = _changed(request, changes)
            yield Trial(series, row, "age", replace(changed, age=aged.age), aged)
            yield Trial(series, row, "emotion", replace(changed, emotion=emotion), felt)


def strip(subject: Subject, settings: Settings) -> Iterator[Trial]:
    """The ages of the sheet for one person."""
    request = edit_request(subject, settings)
    for age in STRIP:
        yield Trial("strip", str(age), "age", replace(request, age=float(age)), subject.aged(float(age)))


def edit_request(subject: Subject, settings: Settings) -> GenerateRequest:
    """The photo, and nothing asked of it yet."""
    return GenerateRequest(
        reference=subject.file,
        seed=subject.number,  # of the pictures from noise; an edit has none
        num_inference_steps=settings.num_inference_steps,
        guidance_scale=settings.guidance_scale,
        edit_from_timestep=settings.edit_from_timestep,
        options=Options(assess=False),
    )


def _from_noise(
    series: str, row: str, change: str, asked: GenerateRequest, shot: Shot, settings: Settings
) -> Iterator[Trial]:
    generate = replace(asked, edit_from_timestep=None)
    yield Trial(series, row, change, generate, shot, WITH_PHOTO)
    yield Trial(series, row, change, replace(generate, reference=None, options=Options()), shot, WITHOUT_PHOTO)


def _years(subject: Subject) -> list[int]:
    """Those of YEARS that the world can draw; there is always one."""
    return [years for years in YEARS if YOUNGEST <= subject.shot.age + years <= OLDEST]


def _spoken(subject: Subject) -> list[str]:
    """SPOKEN labels, evenly apart; the next person's are the next ones."""
    apart = len(EMOTIONS) // SPOKEN
    return [EMOTIONS[(subject.number // 10 + k * apart) % len(EMOTIONS)] for k in range(SPOKEN)]


def _changed(request: GenerateRequest, changes: Mapping[str, Any]) -> GenerateRequest:
    fields = dict(changes)
    if "options" in fields:
        fields["options"] = replace(request.options, **fields["options"])
    return replace(request, **fields)
