"""A sample that another model's process waits for: one call into `sampler`, its parts, and its cancellation.

Triton tells no cancel to a model that another model has called (measured; docs/decisions/0029). So a cancel is a call of its own,
which names the job; the sampler first says that it knows the job, because the two calls may overtake each other.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.errors import ClipFaceFusionError, UnavailableError
from runtime.wire import CANCEL, FAILURE, FINAL, JOB, STREAM_OUTPUTS
from triton_repo.calls import arrays_of_answer, error_from, gone, inputs_of

SAMPLER = "sampler"
HELD_S = 5.0  # a thread of Triton's needs some microseconds, or as long as the machine makes it wait


class EndedCalls:
    """Holds on to calls that have ended, one of these per model, until Triton has let go of them.

    A thread of Triton's forgets an ended call without Python's lock. If it is the last one to do so, it frees Python objects that way,
    and the process dies of a broken heap some hundred requests later (2.51, measured; docs/decisions/0029).
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: deque[tuple[float, Any]] = deque()

    def hold(self, call: Any) -> None:
        """Keep a call for `HELD_S`, and drop those that have been kept so long."""
        now = time.monotonic()
        with self._lock:
            self._held.append((now, call))
            while self._held[0][0] < now - HELD_S:
                self._held.popleft()


class Job:
    """One job. `parts` belongs to one thread; `cancel` may be called from any other."""

    def __init__(self, request_id: str, ended: EndedCalls) -> None:
        self._ended = ended
        self._id = secrets.token_hex(16)
        self._request_id = request_id
        self._lock = threading.Lock()
        self._is_known = False  # to the sampler
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    def parts(self, conditioned: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """What the sampler sends: previews and signs of life, then the image.

        Raises what the sampler failed with, UnavailableError if it cannot be reached.
        """
        call = pb_utils.InferenceRequest(
            model_name=SAMPLER,
            request_id=self._request_id,
            requested_output_names=[*STREAM_OUTPUTS, FAILURE],
            inputs=inputs_of(conditioned),
            parameters={JOB: self._id},
        )
        failure: ClipFaceFusionError | None = None
        answers = call.exec(decoupled=True)
        try:
            for answer in answers:  # to the end: Triton waits for a reader that leaves before it
                try:
                    part = arrays_of_answer(SAMPLER, answer)
                except UnavailableError as error:
                    failure = error
                    continue
                if FAILURE in part:
                    failure = error_from(part[FAILURE][0].decode())
                elif part:
                    self._now_known()
                    yield part
        except pb_utils.TritonModelException as error:
            raise gone(SAMPLER, error) from None
        finally:
            self._ended.hold(answers)
        if failure is not None:
            raise failure

    def cancel(self) -> None:
        """Have the sampler stop at its next step; the parts end with RequestCancelledError. Returns at once."""
        with self._lock:
            self._is_cancelled = True
            is_known = self._is_known
        if is_known:
            self._tell()

    def _now_known(self) -> None:
        with self._lock:
            is_first, self._is_known = not self._is_known, True
            is_cancelled = self._is_cancelled
        if is_first and is_cancelled:
            self._tell()

    def _tell(self) -> None:
        """In a thread of its own: it is for nobody to wait for a sampler that may be hanging."""
        threading.Thread(target=self._send_cancel, name="cancel", daemon=True).start()

    def _send_cancel(self) -> None:
        call = pb_utils.InferenceRequest(
            model_name=SAMPLER,
            request_id=self._request_id,
            requested_output_names=[FINAL],
            inputs=[pb_utils.Tensor(CANCEL, np.array([[self._id.encode()]], np.object_))],
        )
        try:
            answers = call.exec(decoupled=True)
            list(answers)
            self._ended.hold(answers)
        except Exception as error:  # a dead sampler: its callers are answered by whoever watches it
            pb_utils.Logger.log_error(f"cannot cancel at the sampler: {error}")
