"""One thread owns every response sender: held over a sender that tells when it is misused, as the real one would crash."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from runtime.errors import QueueFullError, RequestCancelledError, UnavailableError
from tests.triton_repo import fake_triton

LIMIT_S = 30  # only a hang takes so long


@pytest.fixture
def log():
    return []


@pytest.fixture
def responder(log):
    with fake_triton.installed(fake_triton.backend(log)):
        yield fake_triton.module("responder")


class Entry:
    def __init__(self):
        self.answers = []

    def answered(self, code, text="", report=None):
        self.answers.append((code, text, report))


def part(step, is_final=False):
    return {"step": np.array([step], np.int32), "final": np.array([is_final]), "report": np.array([b"{}"], object)}


def steps(request):
    return [int(response.arrays["step"][0]) for response in request.sender.sent if not response.error]


def test_many_threads_hand_over_and_each_sender_is_touched_by_one_and_never_after_its_end(responder):
    """Eight threads race parts, ends and failures of the same replies, while callers go away at any time."""
    owner = responder.Responder()
    requests = [fake_triton.Request(str(number)) for number in range(32)]
    replies = [owner.open(request, cancelled=lambda: None, waiting=lambda: part(0)) for request in requests]

    def work(seed):
        rng = np.random.default_rng(seed)
        for number in rng.permutation(len(replies)):
            for action in rng.integers(0, 12, 40):
                if action == 0:
                    replies[number].finish(part(9, True))
                elif action == 1:
                    replies[number].fail(RequestCancelledError("cancelled"))
                elif action == 2:
                    requests[number].sender.caller_has_gone = True
                else:
                    replies[number].send(part(int(action)))
            time.sleep(0.002)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    for reply in replies:
        reply.finish(part(9, True))
    assert all(request.sender.ended.wait(LIMIT_S) for request in requests)
    time.sleep(3 * responder.POLL_S)
    owner.close()
    assert [request.sender.misused for request in requests] == [[]] * len(requests)


def test_parts_arrive_in_order_and_nothing_follows_the_end(responder):
    owner, request = responder.Responder(), fake_triton.Request()
    reply = owner.open(request)
    for step in range(5):
        reply.send(part(step))
    reply.finish(part(5, True))
    reply.send(part(6))
    reply.fail(RuntimeError("late"))
    owner.close()
    assert steps(request) == [0, 1, 2, 3, 4, 5]
    assert request.sender.ended.is_set() and request.sender.misused == []


def test_a_part_that_cannot_be_made_into_an_answer_ends_its_reply_with_a_refusal(responder):
    owner, request = responder.Responder(), fake_triton.Request()
    owner.open(request, Entry()).finish({"step": np.zeros(1, np.int32)})  # without the report that the ledger reads
    assert request.sender.ended.wait(LIMIT_S)
    owner.close()
    (answer,) = request.sender.sent
    assert "generation failed" in answer.error.message and request.sender.misused == []


def test_a_caller_that_has_gone_is_noticed_once_and_only_its_own_job_is_told(responder):
    owner, told = responder.Responder(), []
    requests = [fake_triton.Request(), fake_triton.Request()]
    for number, request in enumerate(requests):
        owner.open(request, cancelled=lambda number=number: told.append(number))
    requests[1].sender.caller_has_gone = True
    deadline = time.monotonic() + LIMIT_S
    while not told and time.monotonic() < deadline:
        time.sleep(responder.POLL_S)
    time.sleep(4 * responder.POLL_S)
    owner.close()
    assert told == [1]


def test_silence_is_broken_by_signs_of_life_and_parts_put_them_off(responder, monkeypatch):
    monkeypatch.setattr(responder, "SIGN_OF_LIFE_S", 0.05)
    owner = responder.Responder()
    quiet, silent = fake_triton.Request(), fake_triton.Request()
    owner.open(quiet, waiting=lambda: part(7))
    owner.open(silent)
    deadline = time.monotonic() + LIMIT_S
    while len(quiet.sender.sent) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    owner.close()
    assert set(steps(quiet)) == {7}
    assert silent.sender.sent == []


def test_every_end_is_booked_once_with_its_status_before_it_is_sent(responder):
    owner, entries = responder.Responder(), [Entry(), Entry(), Entry()]
    requests = [fake_triton.Request(str(number)) for number in range(3)]
    replies = [owner.open(request, entry) for request, entry in zip(requests, entries, strict=True)]
    replies[0].finish(part(1, True))
    replies[1].fail(QueueFullError("queue full: 64 waiting, retry after 2 s"))
    replies[2].fail(KeyError("/secret/path"))
    replies[2].finish(part(1, True))
    owner.close()
    assert [entry.answers for entry in entries] == [
        [("OK", "", {})],
        [("UNAVAILABLE", "queue full: 64 waiting, retry after 2 s", None)],
        [("INTERNAL", "generation failed, id=2", None)],
    ]
    assert [response.error.code for response in requests[1].sender.sent] == ["UNAVAILABLE"]


def test_a_problem_is_everybodys_answer_whoever_waits(responder):
    problems = []
    owner = responder.Responder(problem=lambda: problems[0] if problems else None)
    requests = [fake_triton.Request() for _ in range(3)]
    for request in requests:
        owner.open(request)
    problems.append(UnavailableError("the sampler's process has ended"))
    assert all(request.sender.ended.wait(LIMIT_S) for request in requests)
    owner.close()
    assert {request.sender.sent[0].error.message for request in requests} == {"the sampler's process has ended"}


def test_a_sender_that_fails_costs_the_others_nothing(responder, log):
    owner, broken, sound = responder.Responder(), fake_triton.Request("broken"), fake_triton.Request()

    def fails(*_, **__):
        raise RuntimeError("the caller's stream is gone")

    broken.sender.send = fails
    replies = [owner.open(broken), owner.open(sound)]
    for reply in replies:
        reply.finish(part(1, True))
    owner.close()
    assert steps(sound) == [1]
    assert "id=broken" in log[0] and "the caller's stream is gone" in log[0]
