"""The thread that owns every response sender of a model: whoever has something to say hands it over.

Two threads at one sender, or a touch after its final response, crash tritonserver (2.51, measured; see docs/decisions/0029). So
senders are touched by this thread alone and by nobody after their final response: what comes later is dropped.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.wire import SIGN_OF_LIFE_S
from triton_repo.boundary import refusal, response, status_of
from triton_repo.ledger import OK, Entry

POLL_S = 0.02  # how often callers are asked whether they have gone; asking costs 50 µs

Arrays = Mapping[str, np.ndarray]


@dataclass(eq=False)
class Reply:
    """The answer to one request, in one part or many. Any thread may `send`, `finish` or `fail`; none of them waits.

    entry      the request's line in the ledger, if this model answers the caller itself
    cancelled  called once, by the responder, when the caller has gone; it must be quick, and the reply still ends by `fail`
    waiting    makes the sign of life that goes out whenever nothing else has for `SIGN_OF_LIFE_S`; None: there is none
    """

    responder: Responder
    sender: Any
    request_id: str
    entry: Entry | None = None
    cancelled: Callable[[], None] | None = None
    waiting: Callable[[], Arrays] | None = None
    is_final: bool = field(default=False, init=False)  # these three are the responder's
    sent_at: float = field(default_factory=time.monotonic, init=False)
    is_cancelled: bool = field(default=False, init=False)

    def send(self, arrays: Arrays) -> None:
        """One part; more follow."""
        self.responder.take(self, arrays, False)

    def finish(self, arrays: Arrays) -> None:
        """The last part."""
        self.responder.take(self, arrays, True)

    def fail(self, error: Exception) -> None:
        """The end, with a status instead of arrays."""
        self.responder.take(self, error, True)


class Responder:
    """Owns the senders of one model; made in `initialize`, closed in `finalize`.

    refuse   makes the response that carries a status and a text
    problem  asked at each poll; an exception means that nobody will be answered any more, and it is everybody's answer
    """

    def __init__(
        self,
        refuse: Callable[[str, str], Any] = refusal,
        problem: Callable[[], Exception | None] = lambda: None,
    ) -> None:
        self._refuse = refuse
        self._problem = problem
        self._inbox: queue.SimpleQueue[tuple[Reply, Arrays | Exception | None, bool] | None] = queue.SimpleQueue()
        self._open: set[Reply] = set()
        self._thread = threading.Thread(target=self._run, name="responder", daemon=True)
        self._thread.start()

    def open(
        self,
        request: Any,
        entry: Entry | None = None,
        cancelled: Callable[[], None] | None = None,
        waiting: Callable[[], Arrays] | None = None,
    ) -> Reply:
        """The reply to a request; `execute` calls this, and leaves the request's sender alone."""
        reply = Reply(self, request.get_response_sender(), request.request_id(), entry, cancelled, waiting)
        self.take(reply, None, False)
        return reply

    def take(self, reply: Reply, part: Arrays | Exception | None, is_final: bool) -> None:
        """What `Reply` hands over; None only makes the reply known."""
        self._inbox.put((reply, part, is_final))

    def close(self) -> None:
        """Send what has been handed over, then end the thread."""
        self._inbox.put(None)
        self._thread.join()

    def _run(self) -> None:
        next_poll = 0.0
        while True:
            try:
                message = self._inbox.get(timeout=max(0.0, next_poll - time.monotonic()) if self._open else None)
            except queue.Empty:
                message = None
            else:
                if message is None:
                    return
                self._deliver(*message)
            if self._open and time.monotonic() >= next_poll:
                self._poll()
                next_poll = time.monotonic() + POLL_S

    def _poll(self) -> None:
        problem = self._problem()
        for reply in list(self._open):
            try:
                if problem is not None:
                    self._deliver(reply, problem, True)
                elif reply.cancelled is not None and not reply.is_cancelled and reply.sender.is_cancelled():
                    reply.is_cancelled = True
                    reply.cancelled()
                elif reply.waiting is not None and time.monotonic() - reply.sent_at >= SIGN_OF_LIFE_S:
                    self._deliver(reply, reply.waiting(), False)
            except Exception as error:  # one caller's trouble is not the others'
                status_of(error, reply.request_id)

    def _deliver(self, reply: Reply, part: Arrays | Exception | None, is_final: bool) -> None:
        if reply.is_final:
            return
        if part is None:
            self._open.add(reply)
            return
        flags = 0
        if is_final:
            reply.is_final = True
            self._open.discard(reply)
            flags = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        reply.sent_at = time.monotonic()
        try:
            answer = self._answer(reply, part, is_final)
        except Exception as error:  # a part that cannot be sent must not leave its caller waiting
            answer = self._refuse(*status_of(error, reply.request_id))
        try:
            reply.sender.send(answer, flags=flags)
        except Exception as error:  # a caller that has gone must not cost the others their responder
            status_of(error, reply.request_id)

    def _answer(self, reply: Reply, part: Arrays | Exception, is_final: bool) -> Any:
        """The response, booked in the ledger if it is the last one."""
        if isinstance(part, Exception):
            code, text = status_of(part, reply.request_id)
            if reply.entry is not None:
                reply.entry.answered(code, text)
            return self._refuse(code, text)
        if is_final and reply.entry is not None:
            reply.entry.answered(OK, report=json.loads(part["report"][0]))
        return response(part)
