"""The callers' side of the books: every request that is sent gets an id and ends in exactly one outcome, with the right picture.

At the end it is held against the server's own books: its counters, and the line that it wrote for each id. It knows no scenario.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.errors import ClipFaceFusionError
from runtime.wire import LIVE_REQUESTS, MODEL, OUTCOME_BY_CODE, STREAM_MODEL

OK, REFUSED, CANCELLED, FAILED, KILLED = "ok", "refused", "cancelled", "failed", "killed"
# What the server may say of a request, by what its caller saw: who gives up, or dies, may do so when the answer is on its way.
SERVER_SAYS: Mapping[str, set[str | None]] = {
    OK: {OK},
    REFUSED: {REFUSED},
    FAILED: {FAILED},
    CANCELLED: {CANCELLED, OK},
    KILLED: {CANCELLED, OK, REFUSED, FAILED, None},
}
_COUNTER = re.compile(r"^clipfacefusion_requests_total\{(.*)\} (\S+)$", re.MULTILINE)
_LIVE = re.compile(rf"^{LIVE_REQUESTS} (\S+)$", re.MULTILINE)
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Record:
    """One request: what was meant (`kind`, with the outcomes that it may have), and what came of it after `seconds`."""

    kind: str
    allowed: frozenset[str]
    outcome: str | None = None
    text: str = ""
    seconds: float = 0.0
    is_wrong_picture: bool = False


@dataclass
class Ledger:
    """The records, by request id. Thread-safe; an id that is ended twice is a problem, as is one that never ends."""

    records: dict[str, Record] = field(default_factory=dict)
    problems_met: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def opened(self, kind: str, *allowed: str) -> str:
        """The id of a new request."""
        request_id = f"{kind}-{secrets.token_hex(8)}"
        with self._lock:
            self.records[request_id] = Record(kind, frozenset(allowed))
        return request_id

    def ended(
        self, request_id: str, outcome: str, text: str = "", seconds: float = 0.0, is_wrong: bool = False
    ) -> None:
        """The one end of a request."""
        with self._lock:
            record = self.records[request_id]
            if record.outcome is not None:
                self.problems_met.append(f"{request_id}: ended as {record.outcome} and again as {outcome}")
            record.outcome, record.text, record.seconds, record.is_wrong_picture = outcome, text, seconds, is_wrong

    def book(
        self, kind: str, call: Callable[[str], np.ndarray | None], expected: np.ndarray | None, *allowed: str
    ) -> Record:
        """Make a request by `call(request id)`, which gives its picture, and book how it ends: by what it raises, or as OK.

        `call` gives None when it has cancelled by itself.
        """
        request_id, start = self.opened(kind, *allowed), time.perf_counter()
        outcome, text, is_wrong = OK, "", False
        try:
            picture = call(request_id)
            if picture is None:
                outcome = CANCELLED
            else:
                is_wrong = expected is not None and not np.array_equal(picture, expected)
        except ClipFaceFusionError as error:
            outcome, text = OUTCOME_BY_CODE.get(error.code, FAILED), str(error)
        except Exception as error:  # a fault of the generator's own is in the books as well
            outcome, text = FAILED, f"{type(error).__name__}: {error}"
        self.ended(request_id, outcome, text, time.perf_counter() - start, is_wrong)
        return self.records[request_id]

    def counts(self) -> dict[str, int]:
        """Requests by outcome; "open" are those without one."""
        return dict(Counter(record.outcome or "open" for record in self.records.values()))

    def problems(self) -> list[str]:
        """What must not be: a request without an end, with two, with one that it may not have, or with a wrong picture."""
        found = list(self.problems_met)
        for request_id, record in self.records.items():
            if record.outcome is None:
                found.append(f"{request_id}: never ended")
            elif record.outcome not in record.allowed:
                found.append(
                    f"{request_id}: {record.outcome}, allowed {', '.join(sorted(record.allowed))}: {record.text}"
                )
            elif record.is_wrong_picture:
                found.append(f"{request_id}: another picture than alone")
        return found

    def against_log(self, lines: Iterable[str]) -> list[str]:
        """What the server's log says otherwise: of an id twice, not at all, or another outcome than its caller saw."""
        said: dict[str, list[str | None]] = {}
        for facts in answers_in(lines):
            said.setdefault(facts.get("request_id", ""), []).append(facts["outcome"])
        found = []
        for request_id, record in self.records.items():
            told = said.get(request_id, [])
            if len(told) > 1:
                found.append(f"{request_id}: answered {len(told)} times")
            elif record.outcome is not None and (told or [None])[0] not in SERVER_SAYS[record.outcome]:
                found.append(
                    f"{request_id}: {record.outcome} to its caller, {told[0] if told else 'unknown'} to the server"
                )
        return found


def answers_in(lines: Iterable[str]) -> Iterable[dict[str, Any]]:
    """The answers among the lines of a server's log."""
    for line in lines:
        if line.startswith("{"):
            facts = json.loads(line)
            if "outcome" in facts:
                yield facts


def never_answered(metrics_url: str, patience_s: float = 30.0) -> int:
    """Requests that the server has taken and not answered, once nobody asks any more: 0, as soon as it is, or what remains."""
    deadline = time.monotonic() + patience_s
    while live := int(float(_LIVE.findall(_page(metrics_url))[0])):
        if time.monotonic() > deadline:
            return live
        time.sleep(0.05)
    return 0


def server_counts(metrics_url: str) -> dict[str, int]:
    """Requests by outcome that the server has counted for its public models, those of its own supervisor left out."""
    counts: Counter[str] = Counter()
    for labels, value in _COUNTER.findall(_page(metrics_url)):
        named = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        if named["model"] in (MODEL, STREAM_MODEL):
            counts[named["outcome"]] += int(float(value))
    return dict(counts)


def gained(before: Mapping[str, int], after: Mapping[str, int]) -> dict[str, int]:
    """Counts that rose, by how much."""
    return {name: n - before.get(name, 0) for name, n in after.items() if n != before.get(name, 0)}


def _page(metrics_url: str) -> str:
    with _DIRECT.open(metrics_url, timeout=30) as answer:
        return answer.read().decode()
