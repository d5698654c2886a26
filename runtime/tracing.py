"""The trace context that a call carries: W3C Trace Context, level 1, header `traceparent`. It records nothing itself."""

from __future__ import annotations

import secrets

SAMPLED = "01"


def new_traceparent(parent: str | None = None) -> str:
    """A new span: of the trace that `parent` belongs to, or of a new trace. "00-<trace id>-<span id>-<flags>"."""
    trace_id, flags = (parent.split("-")[1], parent.split("-")[3]) if parent else (secrets.token_hex(16), SAMPLED)
    return f"00-{trace_id}-{secrets.token_hex(8)}-{flags}"
