"""Sixteen hundred damaged requests at the gate, in this process: each is prepared, or refused in words that show nothing."""

from __future__ import annotations

import gc
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.soak import fuzz
from runtime.decoding import DecoderProcess
from runtime.errors import RequestError
from runtime.options import OPTIONS
from runtime.preprocess import Preprocessor
from runtime.request import FIELDS
from tests.fakes import GUIDANCE_SCALE, MODEL, write_bundle

SEED, COUNT = 20_261, 1600
GROWTH_LIMIT_BYTES = 20 * 2**20


@pytest.fixture(scope="module")
def decoder() -> Iterator[DecoderProcess]:
    with DecoderProcess() as decoder:
        yield decoder


@pytest.fixture(scope="module")
def preprocess(decoder: DecoderProcess, tmp_path_factory: pytest.TempPathFactory) -> Preprocessor:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    write_bundle(folder)
    return Preprocessor(MODEL, folder / "tokenizer.json", GUIDANCE_SCALE, decoder)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, about EXIF that was damaged here
def test_every_damaged_request_is_prepared_or_refused_and_no_process_is_lost(preprocess, decoder):
    fuzz.check(preprocess, SEED + 1, 200)  # what is loaded with the first requests is no growth
    gc.collect()
    before = resident_bytes()
    found = fuzz.check(preprocess, SEED, COUNT)
    gc.collect()
    assert found.problems == []
    assert found.answered + found.refused == COUNT
    assert found.slowest_s < fuzz.ANSWER_LIMIT_S
    assert decoder.failures == 0
    assert resident_bytes() - before < GROWTH_LIMIT_BYTES


def test_a_good_share_of_the_cases_reaches_every_part_of_the_gate(preprocess):
    """Else the test above would prove nothing: each field and each option is refused, and much is answered."""
    fields: Counter[str] = Counter()
    for case in fuzz.cases(SEED, COUNT):
        try:
            preprocess(fuzz.request_of(case))
            fields["answered"] += 1
        except RequestError as error:
            fields[error.field] += 1
    assert fields["answered"] > COUNT / 5
    expected = {row.name for row in FIELDS} | {"request"} | {f"options.{option.name}" for option in OPTIONS}
    seldom_wrong = {f"options.{option.name}" for option in OPTIONS if option.dtype == "BYTES" or option.dtype == "BOOL"}
    assert expected - seldom_wrong <= fields.keys(), expected - seldom_wrong - fields.keys()


def test_a_case_is_the_same_whoever_asks_for_it():
    some = [fuzz.message(case, "m").SerializeToString(deterministic=True) for case in fuzz.cases(5, 40)]
    again = [fuzz.message(fuzz.case(5, number), "m").SerializeToString(deterministic=True) for number in range(40)]
    assert some == again and len(set(some)) == 40
    assert fuzz.message(fuzz.case(6, 0), "m").SerializeToString(deterministic=True) != some[0]


def test_cases_without_damage_are_answered(preprocess):
    good = [case for case in fuzz.cases(SEED, 200) if not case.damage]
    assert len(good) > 20
    for case in good:
        preprocess(fuzz.request_of(case))


@pytest.mark.parametrize(
    "text",
    [
        "Traceback (most recent call last)",
        'File "model.py", line 3',
        "cannot open /usr/lib/x.so",
        "object at 0x7fa45ff177f0",
        "region in shm",
        "Stub process 'preprocess_0_0' is not healthy.",
        "two\nlines",
    ],
)
def test_an_answer_that_shows_the_machine_is_a_problem(text):
    found = fuzz.Findings()
    found.note(fuzz.case(0, 0), "INVALID_ARGUMENT", text, 0.0)
    assert len(found.problems) == 1


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"])
def test_any_other_status_is_a_problem(code):
    found = fuzz.Findings()
    found.note(fuzz.case(0, 0), code, "age: got -1, allowed 0..120", 0.0)
    assert len(found.problems) == 1 and found.refused == 0


@pytest.mark.parametrize("code", ["CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL"])
def test_being_late_is_right_where_a_deadline_was_asked_for_and_nothing_else_is(code):
    found, made = fuzz.Findings(), fuzz.case(0, 0)
    made.tensors["options"] = np.array([[b'{"deadline_ms": 1.0}']], np.object_)
    found.note(made, code, "deadline exceeded: the 1 ms of the request are over", 0.0)
    assert len(found.problems) == (code == "INTERNAL")


def test_a_gate_that_lets_another_exception_through_is_found():
    def broken(request):
        raise OverflowError("int too large")

    with pytest.raises(OverflowError) as caught:
        fuzz.check(broken, SEED, 10)
    assert caught.value.__notes__[0].startswith("case ")


def test_numbers_of_any_size_are_refused_in_few_words():
    from runtime.request import GenerateRequest

    for name, value in (("seed", 10**400), ("age", 10**400), ("guidance_scale", -(10**400))):
        with pytest.raises(RequestError, match=f"^{name}: got -?1000.*, allowed") as caught:
            GenerateRequest(**{"age": 3, name: value})
        assert len(str(caught.value)) < 200
    with pytest.raises(RequestError, match=r"options\.deadline_ms: got 1000"):
        GenerateRequest(age=np.float32(3), options='{"deadline_ms": ' + "1" + "0" * 400 + "}")
