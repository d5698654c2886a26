"""The header `traceparent` as W3C's Trace Context wants it."""

from __future__ import annotations

import re

from runtime.tracing import new_traceparent

FORM = re.compile(r"00-([\da-f]{32})-([\da-f]{16})-01")


def test_a_new_trace_has_ids_of_its_own():
    first, second = (FORM.fullmatch(new_traceparent()) for _ in range(2))
    assert first[1] != second[1] and first[2] != second[2]


def test_a_child_keeps_the_trace_and_its_flags_and_has_a_span_of_its_own():
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    child = new_traceparent(parent)
    assert child.startswith("00-0af7651916cd43dd8448eb211c80319c-") and child.endswith("-00")
    assert child != parent
