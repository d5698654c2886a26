"""A sample that another model's process waits for: its parts, fetched from `sampler` one call after the other, and its cancellation.

Every call is of the plain kind, one answer each. Triton's own way to many answers, a decoupled call, locks up its caller's process when
a second one begins while a first one is read (2.51, measured; docs/decisions/0036). Triton tells no cancel to a model that another
model has called, so a cancel is a call of its own, which names the job.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.errors import ClipFaceFusionError, UnavailableError
from runtime.wire import CANCEL, FINAL, JOB, NEXT
from triton_repo.calls import call

SAMPLER = "sampler"


class Job:
    """One job. `parts` belongs to one thread; `cancel` may be called from any other. `inner` are parameters that our calls carry."""

    def __init__(self, request_id: str, inner: Mapping[str, str]) -> None:
        self._id = secrets.token_hex(16)
        self._request_id = request_id
        self._parameters = {**inner, JOB: self._id}
        self._lock = threading.Lock()
        self._is_known = False  # to the sampler
        self._is_cancelled = False

    @property
    def is_cancelled(self) -> bool:
        return self._is_cancelled

    def parts(self, conditioned: Mapping[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """What the sampler makes of it: that it has begun, previews or steps done, and the image, whose `FINAL` is true.

        Raises what the sampler failed with, UnavailableError if it cannot be reached.
        """
        part = self._called(conditioned)
        self._now_known()
        while not part[FINAL][0]:
            yield part
            try:
                part = self._called({NEXT: self._named()})
            except UnavailableError:  # the call has failed and not the job, which would run on for nobody
                threading.Thread(target=self._abandon, name="abandon", daemon=True).start()
                raise
        yield part

    def cancel(self) -> None:
        """Have the sampler stop at its next step; the parts end with RequestCancelledError. Returns at once."""
        with self._lock:
            self._is_cancelled = True
            is_known = self._is_known
        if is_known:
            self._tell()

    def _now_known(self) -> None:
        """A cancel that came before could have overtaken the job, so it waited."""
        with self._lock:
            self._is_known = True
            is_cancelled = self._is_cancelled
        if is_cancelled:
            self._tell()

    def _tell(self) -> None:
        """In a thread of its own: it is for nobody to wait for a sampler that may be hanging."""
        threading.Thread(target=self._send_cancel, name="cancel", daemon=True).start()

    def _send_cancel(self) -> None:
        try:
            self._called({CANCEL: self._named()})
        except Exception as error:  # a dead sampler: its callers are answered by whoever watches it
            pb_utils.Logger.log_error(f"cannot cancel at the sampler: {error}")

    def _abandon(self) -> None:
        """End the job and fetch what is left of it: the sampler keeps that until somebody does."""
        self._send_cancel()
        with suppress(ClipFaceFusionError):  # how a cancelled job ends, or a sampler that is gone
            while not self._called({NEXT: self._named()})[FINAL][0]:
                pass

    def _called(self, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return call(SAMPLER, tensors, self._request_id, self._parameters)

    def _named(self) -> np.ndarray:
        return np.array([self._id.encode()], np.object_)
