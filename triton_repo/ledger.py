"""The server's ledger: every request taken is answered exactly once, and then it is counted and written to the log.

A log line is one JSON object on standard error, in one write, so that lines of several processes never mix. What a caller sent
stands in it escaped and cut; what it asked for (words, photo, voice) does not.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from runtime.errors import ClipFaceFusionError
from runtime.report import TIMINGS
from runtime.wire import CANARY_ID, INNER, OUTCOME_BY_CODE, TENANT, TRACEPARENT
from triton_repo.metrics import RequestMetrics

OK = "OK"
CANARY = "canary"  # how requests of the server's own supervisor are counted, apart from everybody's
SHOWN = 128  # characters of an id, 512 of a text
_TRACE_ID = re.compile(r"[\da-f]{2}-([\da-f]{32})-[\da-f]{16}-[\da-f]{2}")


class Ledger:
    """The ledger of one public model, in one process; made in `initialize`.

    Who takes a request first gets its entry from `taken`, models behind it from `passed_on`, and whoever answers it says so with
    `Entry.answered`, before the answer is sent.
    """

    def __init__(self, model: str, inner_key: str | None = None) -> None:
        """`inner_key` is the value of the parameter `INNER` on calls of our own models, which answer for their requests themselves."""
        self._model = model
        self._inner_key = inner_key
        self._metrics = {model: RequestMetrics(model), CANARY: RequestMetrics(CANARY)}

    def taken(self, request: Any) -> Entry:
        """The entry of a request that has just come in; it is live from now on."""
        entry = self.passed_on(request)
        if entry.metrics is not None:
            entry.live = entry.metrics.take()
        return entry

    def passed_on(self, request: Any) -> Entry:
        """The entry of a request that another process has taken."""
        parameters = json.loads(request.parameters() or "{}")
        if self._inner_key is not None and parameters.get(INNER) == self._inner_key:
            return Entry(self._model, None, request.request_id(), parameters)
        model = CANARY if request.request_id() == CANARY_ID else self._model
        return Entry(model, self._metrics[model], request.request_id(), parameters)


class Entry:
    """One request. `live` is how many there were when it came in, itself included; 0 if others have taken it."""

    def __init__(
        self, model: str, metrics: RequestMetrics | None, request_id: str, parameters: Mapping[str, Any]
    ) -> None:
        self.metrics = metrics
        self.live = 0
        self._is_answered = metrics is None  # our own model answers for it
        traced = _TRACE_ID.fullmatch(str(parameters.get(TRACEPARENT, "")))
        self._facts = {
            "model": model,
            "request_id": request_id[:SHOWN],
            "trace_id": traced[1] if traced else None,
            "tenant": str(parameters[TENANT])[:SHOWN] if TENANT in parameters else None,
        }

    def answered(self, code: str, text: str = "", report: Mapping[str, Any] | None = None) -> None:
        """The request is about to be answered: with "OK" and its report, or with another gRPC status and its text.

        The first answer counts; a second one, such as a cancel that lost a race, changes nothing.
        """
        if self._is_answered or self.metrics is None:
            return
        self._is_answered = True
        self.metrics.answer(code)
        report = report or {}
        facts = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            **self._facts,
            "outcome": OUTCOME_BY_CODE.get(code, "failed"),
            "code": code,
            "text": text[: 4 * SHOWN],
            "seed": report.get("seed"),
            "steps": report.get("num_inference_steps"),
            TIMINGS: report.get(TIMINGS),
        }
        line = json.dumps({name: value for name, value in facts.items() if value not in (None, "")})
        with suppress(OSError):  # the log's disk is full: that costs the line, and not the answer
            os.write(sys.stderr.fileno(), line.encode() + b"\n")

    @contextmanager
    def answered_on_failure(self) -> Iterator[None]:
        """If the block raises, the request is answered with that: no later model will see it."""
        try:
            yield
        except BaseException as error:
            if isinstance(error, ClipFaceFusionError):
                self.answered(error.code, str(error))
            else:
                self.answered("INTERNAL", type(error).__name__)
            raise
