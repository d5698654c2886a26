"""What `--sweep` accepts, what it means, and what it refuses; every row of the tables can be swept."""

from __future__ import annotations

import math

import pytest

from runtime.emotions import EMOTIONS
from runtime.errors import RequestError
from runtime.options import OPTIONS
from runtime.request import FIELDS, GenerateRequest
from runtime.sweep import FIXED, MAX_PICTURES, SWEPT, Sweep, changed, variations

BASE = GenerateRequest(reference=b"photo", age=30, edit_from_timestep=500, seed=1)


def values(text: str) -> tuple:
    return Sweep.parse(text).values


def test_a_range_holds_both_ends_and_even_steps_between_them():
    assert values("age=20:70:6") == (20, 30, 40, 50, 60, 70)
    assert values("age=70:20:3") == (70, 45, 20)
    assert values("edit_strength=0:1:5") == (0, 0.25, 0.5, 0.75, 1)
    assert values("t0=300:600:4") == (300, 400, 500, 600) and isinstance(values("t0=300:600:4")[0], int)
    assert values("t0=1:4:3") == (1, 2, 4), "integers stay integers"


def test_lists_choices_words_and_several_numbers():
    assert values("age=20,45.5,70") == (20, 45.5, 70)
    assert values("emotion=happy,sad") == ("happy", "sad") and values("emotion=all") == EMOTIONS
    assert values("text=a man, old|with glasses") == ("a man, old", "with glasses")
    assert values("valence_arousal=0.5/-1,0/0.25") == ((0.5, -1), (0, 0.25))
    assert values("source_correction=all") == (False, True) and values("source_correction=true") == (True,)


def test_short_flags_are_names_as_well():
    names = {text: Sweep.parse(text).name for text in ("t0=500", "steps=9,10", "guidance=1:3:2")}
    assert list(names.values()) == ["edit_from_timestep", "num_inference_steps", "guidance_scale"]


def test_the_circumplex_is_a_circle_that_closes():
    sweep = Sweep.parse("circumplex=8")
    assert sweep.name == "valence_arousal" and sweep.is_cycle and len(sweep.values) == 8
    assert {round(math.hypot(*point), 3) for point in sweep.values} == {0.85}
    assert sweep.values[0] == pytest.approx((0.85, 0)) and sweep.values[2] == pytest.approx((0, 0.85), abs=1e-6)


def test_files_are_read_and_named_after_themselves(tmp_path):
    for name in ("angry", "happy"):
        (tmp_path / f"{name}.wav").write_bytes(name.encode())
    sweep = Sweep.parse(f"audio={tmp_path}/angry.wav,{tmp_path}/happy.wav")
    assert sweep.values == (b"angry", b"happy") and sweep.labels == ("angry", "happy")


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("age=20:21:3", ("20 years", "20.5 years", "21 years")),
        ("emotion=calm", ("calm",)),
        ("edit_strength=0:1:4", ("0", "0.333", "0.667", "1")),
        ("t0=300,500", ("300", "500")),
        ("source_correction=all", ("off", "on")),
        ("circumplex=2", ("valence\u00a0+0.85, arousal\u00a0+0", "valence\u00a0-0.85, arousal\u00a0+0")),
    ],
)
def test_every_value_has_a_word(text, labels):
    assert Sweep.parse(text).labels == labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age", "sweep: got 'age', expected NAME=VALUES"),
        ("age=", "sweep: got 'age=', expected"),
        ("height=1,2", "sweep: got 'height', allowed circumplex, text, audio, age,"),
        ("reference=a.jpg", "sweep: got 'reference', allowed"),
        ("age=20:70", "sweep: age: got '20:70', expected FIRST:LAST:COUNT with a count of 2..200"),
        ("age=20:70:1", "sweep: age: got '20:70:1'"),
        ("age=20:70:6:2", "sweep: age: got"),
        ("age=old", "sweep: age: got 'old', expected a number"),
        ("t0=1.5", "sweep: edit_from_timestep: got '1.5', expected an integer"),
        ("age=20,130", "age: got 130, allowed 0..120"),
        ("age=nan", "age: got nan, allowed 0..120"),
        ("emotion=happy,bored", "emotion: got 'bored', allowed neutral"),
        ("source_correction=maybe", "source_correction: got 'maybe', expected true or false"),
        ("circumplex=1", "sweep: circumplex: got '1', allowed 2..200 points"),
        ("circumplex=x", "sweep: circumplex: got 'x'"),
        ("audio=/nowhere/a.wav", "audio: cannot read /nowhere/a.wav"),
    ],
)
def test_what_cannot_be_swept_is_refused_by_name_and_value(text, message):
    with pytest.raises(RequestError) as caught:
        Sweep.parse(text)
    assert str(caught.value).startswith(message)


def test_one_thing_varies_and_everything_else_stays():
    ages = variations(BASE, [Sweep.parse("age=20:70:6")])
    assert [each.request.age for each in ages] == [20, 30, 40, 50, 60, 70]
    assert {changed(each.request, {"age": 30}) for each in ages} == {BASE}


def test_a_grid_is_every_combination_with_the_last_sweep_fastest():
    grid = variations(BASE, [Sweep.parse("emotion=happy,sad"), Sweep.parse("emotion_intensity=0.5,1")])
    assert [(each.request.emotion, each.request.emotion_intensity) for each in grid] == [
        ("happy", 0.5),
        ("happy", 1),
        ("sad", 0.5),
        ("sad", 1),
    ]
    assert [each.labels for each in grid] == [("happy", "0.5"), ("happy", "1"), ("sad", "0.5"), ("sad", "1")]


def test_what_needs_another_thing_is_checked_with_it_and_refused_without():
    assert len(variations(BASE, [Sweep.parse("emotion_intensity=0.5,1"), Sweep.parse("emotion=sad")])) == 2
    with pytest.raises(RequestError, match="emotion_intensity: given without emotion"):
        variations(BASE, [Sweep.parse("emotion_intensity=0.5,1")])


def test_options_are_swept_beside_fields():
    strengths = variations(BASE, [Sweep.parse("edit_strength=0,0.5"), Sweep.parse("age=40,60")])
    assert [(each.request.options.edit_strength, each.request.age) for each in strengths] == [
        (0, 40),
        (0, 60),
        (0.5, 40),
        (0.5, 60),
    ]


def test_no_sweep_is_one_picture_and_too_many_are_refused():
    assert [each.request for each in variations(BASE, [])] == [BASE]
    many = [Sweep.parse("age=1:100:50"), Sweep.parse("t0=1:500:50")]
    with pytest.raises(RequestError, match=f"sweep: makes 2500 pictures, allowed at most {MAX_PICTURES}"):
        variations(BASE, many)
    with pytest.raises(RequestError, match="sweep: age is given twice"):
        variations(BASE, [Sweep.parse("age=1,2"), Sweep.parse("age=3,4")])


def test_every_row_of_the_tables_can_be_swept_but_what_a_sweep_is_about():
    assert set(SWEPT) | set(FIXED) == {row.name for row in (*FIELDS, *OPTIONS)}


def test_provenance_holds_numbers_and_labels_but_nothing_that_a_person_wrote():
    assert Sweep.parse("age=20,30").provenance == [20, 30]
    assert Sweep.parse("emotion=happy,sad").provenance == ["happy", "sad"]
    assert Sweep.parse("text=my neighbour|my aunt").provenance == 2
