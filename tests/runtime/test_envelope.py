"""What may surround a request: ids and tenants that can be logged, and no parameter that nobody reads."""

from __future__ import annotations

import json

import pytest

from runtime.envelope import Envelope
from runtime.errors import RequestError


def test_an_id_and_a_tenant_of_printable_characters_are_taken():
    envelope = Envelope.from_triton("job 7/ä", '{"x-tenant":"acme","traceparent":"00-1"}')
    assert envelope == Envelope("job 7/ä", "acme")
    assert Envelope.from_triton("x" * 128, "{}") == Envelope("x" * 128)
    assert Envelope.from_triton("", "") == Envelope() == Envelope("", "")


def test_a_header_wins_over_a_parameter_that_the_caller_wrote():
    """Triton puts headers last, under a name that may then be there twice."""
    assert Envelope.from_triton("", '{"x-tenant":"forged","x-tenant":"true"}').tenant == "true"


@pytest.mark.parametrize("parameters", ["", "no trace", "00-" + "g" * 32 + "-1-1", "x" * 1000])
def test_a_traceparent_that_is_none_is_no_error(parameters):
    assert Envelope.from_triton("", json.dumps({"traceparent": parameters})) == Envelope()


@pytest.mark.parametrize(
    ("request_id", "parameters", "message"),
    [
        ("x" * 129, {}, "request: id: got 129 characters, allowed at most 128"),
        ("a\nE1120 forged line", {}, r"request: id: got 'a\nE1120 forged line', allowed are characters that can be printed"),
        ("\x1b[31m", {}, r"request: id: got '\x1b[31m', allowed"),
        ("\x00", {}, "request: id: got"),
        ("\u202eexe", {}, r"request: id: got '\u202eexe', allowed"),
        ("", {"x-tenant": "x" * 129}, "request: x-tenant: got 129 characters, allowed at most 128"),
        ("", {"x-tenant": "a\r\nb"}, "request: x-tenant: got"),
        ("", {"x-tenant": 5}, "request: x-tenant: got 5, expected text"),
        ("", {"traceparent": 1.5}, "request: traceparent: got 1.5, expected text"),
        ("", {"x-tenant": None}, "request: x-tenant: got None, expected text"),
        ("", {"tenant": "a"}, "request: unknown parameter 'tenant'; known are traceparent, x-tenant"),
        ("", {"": 1}, "request: unknown parameter ''"),
        ("", {"y" * 1000: 1}, "request: unknown parameter 'yyyy"),
    ],
)  # fmt: skip
def test_what_could_disturb_a_log_or_has_no_meaning_is_refused(request_id, parameters, message):
    with pytest.raises(RequestError) as caught:
        Envelope.from_triton(request_id, json.dumps(parameters))
    assert str(caught.value).startswith(message) and len(str(caught.value)) < 250
    assert str(caught.value).isprintable()
