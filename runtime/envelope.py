"""What comes with a request beside its fields: an id, a tenant, and other parameters of the protocol. Checked as fields are.

Fields are `runtime/request.py`'s business. An in-process call has an empty envelope.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass

from runtime.errors import RequestError
from runtime.fields import shown
from runtime.wire import INNER, TENANT, TRACEPARENT

MAX_CHARACTERS = 128
# Triton keeps its own (`priority`, `timeout`, `sequence_…`) from models and refuses unknown ones that begin with `triton_`.
PARAMETERS = (TRACEPARENT, TENANT)


@dataclass(frozen=True)
class Envelope:
    """Checked on construction. Raises RequestError naming `request`.

    request_id  the caller's own name for the request, echoed and logged
    tenant      whom the request is made for: nothing is remembered across tenants. "" is one tenant like any other
    """

    request_id: str = ""
    tenant: str = ""

    def __post_init__(self) -> None:
        _check_name("id", self.request_id)
        _check_name(TENANT, self.tenant)

    @classmethod
    def from_triton(cls, request_id: str, parameters: str) -> Envelope:
        """From what Triton tells of a request: its id, and its parameters as a JSON object.

        A header comes after a parameter of the same name that the caller wrote, and counts; so it does where the gateway sets it.
        A `traceparent` that is none is not an error, as W3C Trace Context demands: a new trace begins.
        """
        given = json.loads(parameters or "{}")
        for name, value in given.items():
            if name not in (*PARAMETERS, INNER):
                raise RequestError("request", f"unknown parameter {shown(name)}; known are {', '.join(PARAMETERS)}")
            if not isinstance(value, str):
                raise RequestError("request", f"{name}: got {shown(value)}, expected text")
        return cls(request_id, given.get(TENANT, ""))


def _check_name(what: str, name: str) -> None:
    if len(name) > MAX_CHARACTERS:
        raise RequestError("request", f"{what}: got {len(name)} characters, allowed at most {MAX_CHARACTERS}")
    if any(unicodedata.category(character).startswith("C") for character in name):
        raise RequestError("request", f"{what}: got {shown(name)}, allowed are characters that can be printed")
