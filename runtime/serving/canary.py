"""One request that goes through every model of a running server, as a caller's would, to learn whether faces come out of it."""

from __future__ import annotations

import threading
import time

from runtime.client import Client
from runtime.errors import ClipFaceFusionError, EngineError
from runtime.request import GenerateRequest
from runtime.retry import Retry
from runtime.wire import CANARY_ID

CANARY = GenerateRequest(text="a face", age=30, seed=0, num_inference_steps=1)


class Canary:
    """On its way from construction on, in a thread of its own; to be asked how it fares. Each uses a connection of its own.

    `timeout_s` bounds its flight. The thread ends with it, and does not keep the interpreter alive.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self.error: ClipFaceFusionError | None = None  # once landed: what came instead of a face
        self.flight_s = 0.0  # once landed: how long it took
        self._url, self._timeout_s = url, timeout_s
        self._landed = threading.Event()
        threading.Thread(target=self._fly, name="canary", daemon=True).start()

    @property
    def has_landed(self) -> bool:
        """Whether there is an answer, be it an error."""
        return self._landed.is_set()

    def _fly(self) -> None:
        start = time.monotonic()
        try:
            with Client(self._url, self._timeout_s, Retry(tries=1)) as client:
                client(CANARY, request_id=CANARY_ID)
        except ClipFaceFusionError as error:
            self.error = error
        except Exception as error:  # no thread left, an answer in no form that we know: no face either
            self.error = EngineError(f"{type(error).__name__}: {error}")
        finally:
            self.flight_s = time.monotonic() - start
            self._landed.set()
