"""Messages over a pipe arrive as they were sent, and what is no message is refused before memory is taken for it."""

from __future__ import annotations

import io
import struct

import pytest

from runtime.frames import MAX_BODY_BYTES, MAX_HEADER_BYTES, read_frame, write_frame


def sent(*messages: tuple[dict, bytes]) -> io.BytesIO:
    pipe = io.BytesIO()
    for header, body in messages:
        write_frame(pipe, header, body)
    pipe.seek(0)
    return pipe


def test_messages_arrive_one_by_one_and_the_end_is_told():
    pipe = sent(({"field": "audio", "ä": [1]}, b"\x00\xffbody"), ({}, b""))
    assert [read_frame(pipe) for _ in range(3)] == [({"field": "audio", "ä": [1]}, b"\x00\xffbody"), ({}, b""), None]


@pytest.mark.parametrize("missing", [1, 3, 5, 15])
def test_an_end_within_a_message_is_an_error(missing):
    whole = sent(({"a": 1}, b"12")).getvalue()
    with pytest.raises(EOFError, match="ended within a message"):
        read_frame(io.BytesIO(whole[:-missing]))


@pytest.mark.parametrize(("header", "body"), [(MAX_HEADER_BYTES + 1, 0), (2, MAX_BODY_BYTES + 1), (0xFFFFFFFF, 2**63)])
def test_lengths_beyond_the_limits_are_refused_unread(header, body):
    with pytest.raises(ValueError, match="a message of"):
        read_frame(io.BytesIO(struct.pack(">IQ", header, body) + b"{}"))


@pytest.mark.parametrize("header", [b"[]", b"{", b"\xff", b""])
def test_a_header_that_is_no_object_is_refused(header):
    with pytest.raises(ValueError):
        read_frame(io.BytesIO(struct.pack(">IQ", len(header), 0) + header))
