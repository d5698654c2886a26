"""Parts that wait for their reader, and a reader that waits for its part; over a fake of Triton."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from runtime.errors import EngineError, RequestError
from tests.triton_repo import fake_triton

LIMIT_S = 30


class Reply:
    """What a reader is answered with, once."""

    def __init__(self):
        self.answers = []
        self.answered = threading.Event()

    def finish(self, arrays):
        self._answer(int(arrays["step"][0]))

    def fail(self, error):
        self._answer(str(error))

    def _answer(self, answer):
        self.answers.append(answer)
        self.answered.set()


@pytest.fixture
def emptied():
    return []


@pytest.fixture
def box(emptied):
    with fake_triton.installed(fake_triton.backend([])):
        mailbox = fake_triton.module("mailbox")
        yield mailbox.Mailbox(lambda part: "image" in part, lambda: emptied.append(True))


def part(step, **arrays):
    return {"step": np.array([step], np.int32), **arrays}


def fetched(box):
    reply = Reply()
    box.fetch(reply)
    return reply


def test_a_part_is_answered_when_it_comes_and_what_comes_before_its_reader_waits(box):
    early = fetched(box)
    assert early.answers == []
    box.send(part(1, image=0))
    assert early.answers == [1]
    box.send(part(2, image=0))
    box.send(part(3, image=0))
    assert [fetched(box).answers for _ in range(2)] == [[2], [3]]


def test_the_last_part_ends_it_once(box, emptied):
    box.send(part(1, image=0))
    box.finish(part(2, image=0))
    assert fetched(box).answers == [1] and emptied == []
    assert fetched(box).answers == [2] and emptied == [True]


def test_a_failure_is_the_last_part_for_who_waits_and_for_who_comes_later(box, emptied):
    waits = fetched(box)
    box.fail(EngineError("unet output not finite at step 3"))
    assert waits.answers == ["unet output not finite at step 3"] and emptied == [True]


def test_of_the_steps_done_the_newest_is_kept_and_of_previews_each(box):
    for step in range(3):
        box.send(part(step))
    box.send(part(7, image=0))
    box.send(part(8))
    box.finish(part(9, image=0))
    assert [fetched(box).answers for _ in range(2)] == [[7], [9]]


def test_a_second_reader_is_refused_and_the_first_one_answered(box):
    first = fetched(box)
    with pytest.raises(RequestError, match=r"^next: somebody waits for this job already$"):
        fetched(box)
    box.send(part(1))
    assert first.answers == [1]


def test_many_parts_from_a_thread_reach_a_reader_in_another_in_order(box):
    def fill():
        for step in range(500):
            box.send(part(step, image=0))
        box.finish(part(500))

    threading.Thread(target=fill).start()
    seen = []
    while not seen or seen[-1] != 500:
        reply = fetched(box)
        assert reply.answered.wait(LIMIT_S)
        seen += reply.answers
    assert seen == list(range(501))
