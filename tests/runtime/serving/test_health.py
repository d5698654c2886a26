"""What is judged ready, not ready and failed, told by a clock, a server and canaries that are given."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from runtime.errors import DeadlineExceededError, EngineError, QueueFullError, UnavailableError
from runtime.serving.health import (
    ERRORS_IN_A_ROW,
    HUNG,
    HUNG_AT_LEAST_S,
    RETRY_S,
    SLOW,
    SLOW_AT_LEAST_S,
    Examination,
    Health,
)

INTERVAL_S = 5.0


@dataclass
class Canary:
    """Has landed once the test says so."""

    has_landed: bool = False
    error: Exception | None = None


@dataclass
class Ward:
    """A server, its canaries, and time."""

    now: float = 100.0
    dead: str | None = None
    done: float | None = 0.0
    sent: list[Canary] = field(default_factory=list)

    def problem(self) -> str | None:
        return self.dead

    def progress(self) -> float | None:
        return self.done

    def send(self) -> Canary:
        self.sent.append(Canary())
        return self.sent[-1]

    def examination(self, first_flight_s: float = 0.1) -> Examination:
        return Examination(self, self.send, lambda: self.now, INTERVAL_S, first_flight_s)

    def land(self, error: Exception | None = None) -> None:
        self.sent[-1].has_landed, self.sent[-1].error = True, error


@pytest.fixture
def ward() -> Ward:
    return Ward()


def test_a_server_that_answers_its_canaries_is_ready_and_gets_one_each_interval(ward):
    examine = ward.examination()
    for number in range(3):
        assert examine() == Health(True)
        ward.now += INTERVAL_S - 0.1
        assert examine() == Health(True)
        assert len(ward.sent) == number
        ward.now += 0.1
        assert examine() == Health(True)
        assert len(ward.sent) == number + 1
        ward.land()


def test_a_dead_process_has_failed_at_once_whatever_canaries_say(ward):
    examine = ward.examination()
    assert examine().is_ready
    ward.dead = "the process of model sampler died"
    assert examine() == Health(False, "the process of model sampler died", has_failed=True)
    assert not ward.sent


def test_one_failed_canary_makes_it_unready_and_the_next_decides(ward):
    for next_error, expected_failure in ((None, False), (EngineError("fusion: failed"), True)):
        patient = Ward()
        examine = patient.examination()
        patient.now += INTERVAL_S
        examine()
        patient.land(EngineError("unet output not finite at step 0"))
        health = examine()
        assert health == Health(False, "a canary failed: unet output not finite at step 0")
        examine()  # sends the next one without waiting for the interval
        assert len(patient.sent) == 2 == ERRORS_IN_A_ROW
        patient.land(next_error)
        health = examine()
        assert (health.is_ready, health.has_failed) == (not expected_failure, expected_failure)


@pytest.mark.parametrize("first_flight_s", [0.1, 4.0])
def test_a_canary_without_an_answer_makes_it_unready_and_then_failed(ward, first_flight_s):
    examine = ward.examination(first_flight_s)
    slow_s, hung_s = max(SLOW_AT_LEAST_S, SLOW * first_flight_s), max(HUNG_AT_LEAST_S, HUNG * first_flight_s)
    ward.now += INTERVAL_S
    examine()
    sent_at = ward.now
    ward.now = sent_at + slow_s
    assert examine() == Health(True)
    ward.now = sent_at + slow_s + 1
    assert examine() == Health(False, f"no face and no progress for {slow_s + 1:.0f} s")
    ward.now = sent_at + hung_s + 1
    assert examine().has_failed


def test_a_canary_that_waits_while_others_are_served_is_no_sign_of_failure(ward):
    examine = ward.examination()
    ward.now += INTERVAL_S
    for second in range(600):
        ward.done = second // 2  # a piece of work every two seconds
        assert examine() == Health(True), second
        ward.now += 1.0
    assert len(ward.sent) == 1


@pytest.mark.parametrize("nothing", [None, 7.0], ids=["silent", "unchanged"])
def test_the_end_of_progress_is_noticed_under_load_too(ward, nothing):
    examine = ward.examination()
    ward.now += INTERVAL_S
    for second in range(60):
        ward.done = second
        examine()
        ward.now += 1.0
    ward.done = nothing
    examine()
    ward.now += HUNG_AT_LEAST_S + 1
    examine()
    assert examine().has_failed


@pytest.mark.parametrize(
    "error",
    [QueueFullError("queue full"), DeadlineExceededError("no answer"), UnavailableError("connection refused")],
    ids=lambda error: error.code.lower(),
)
def test_a_canary_that_is_not_taken_is_sent_again_and_its_wait_goes_on(ward, error):
    examine = ward.examination()
    ward.now += INTERVAL_S
    examine()
    first_sent_at = ward.now
    while ward.now < first_sent_at + SLOW_AT_LEAST_S:
        ward.land(error)
        assert examine() == Health(True)
        ward.now += RETRY_S
        examine()
    assert len(ward.sent) > 2
    ward.now = first_sent_at + HUNG_AT_LEAST_S + 1
    assert examine().has_failed
    ward.land()
    assert examine() == Health(True)


def test_a_failed_canary_does_not_hide_that_the_next_one_hangs(ward):
    examine = ward.examination()
    ward.now += INTERVAL_S
    examine()
    ward.land(EngineError("failed"))
    examine()
    ward.now += HUNG_AT_LEAST_S + 1
    assert examine().has_failed
