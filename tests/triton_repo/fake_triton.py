"""A stand-in for `triton_python_backend_utils`, which exists in Triton's processes only: enough of it to answer requests with.

Its sender breaks as the real one does, without taking the process along: two threads at one sender, or a touch after its final
response, is remembered in `Sender.misused`.
"""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np

FINAL = 1


class Tensor:
    def __init__(self, name, array):
        self._name, self._array = name, array

    def name(self):
        return self._name

    def as_numpy(self):
        return self._array


class Response:
    def __init__(self, tensors=(), error=None):
        self.arrays = {tensor.name(): tensor.as_numpy()[0] for tensor in tensors}
        self.error = error


class Sender:
    """`sent` are the responses in order; `caller_has_gone` is what `is_cancelled` answers."""

    def __init__(self):
        self.sent: list[Response] = []
        self.misused: list[str] = []
        self.ended = threading.Event()
        self.caller_has_gone = False
        self._thread: int | None = None

    def send(self, response=None, flags=0):
        self._touch("send")
        if response is not None:
            self.sent.append(response)
        if flags & FINAL:
            self.ended.set()

    def is_cancelled(self):
        self._touch("is_cancelled")
        return self.caller_has_gone

    def _touch(self, what):
        here = threading.get_ident()
        self._thread = self._thread or here
        if self._thread != here:
            self.misused.append(f"{what} from a second thread")
        if self.ended.is_set():
            self.misused.append(f"{what} after the final response")


class Request:
    """What `execute` gets; `sender` is its caller's end."""

    def __init__(self, request_id="", parameters="", **arrays):
        self.sender = Sender()
        self._id, self._parameters, self._arrays = request_id, parameters, arrays

    def get_response_sender(self):
        return self.sender

    def request_id(self):
        return self._id

    def parameters(self):
        return self._parameters

    def inputs(self):
        return [Tensor(name, np.asarray(array)[None]) for name, array in self._arrays.items()]


def backend(log: list[str]) -> SimpleNamespace:
    """The module's stand-in; what is logged as an error goes to `log`."""

    class TritonError(SimpleNamespace):
        INVALID_ARG, UNAVAILABLE, CANCELLED, INTERNAL = "INVALID_ARG", "UNAVAILABLE", "CANCELLED", "INTERNAL"

        def __init__(self, message, code="INTERNAL"):
            super().__init__(message=message, code=code)

    return SimpleNamespace(
        Tensor=Tensor,
        InferenceResponse=Response,
        TritonError=TritonError,
        TritonModelException=type("TritonModelException", (Exception,), {}),
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL,
        Logger=SimpleNamespace(log_error=log.append, log_info=lambda text: None),
    )


@contextmanager
def installed(fake: SimpleNamespace) -> Iterator[None]:
    """While it lasts, modules of `triton_repo` are imported anew, over the stand-in."""
    name = "triton_python_backend_utils"

    def forget() -> dict[str, ModuleType]:
        ours = [each for each in sys.modules if each.startswith("triton_repo.") or each == name]
        return {each: sys.modules.pop(each) for each in ours}

    before = forget()
    sys.modules[name] = fake  # type: ignore[assignment]
    try:
        yield
    finally:
        forget()
        sys.modules.update(before)


def module(name: str) -> ModuleType:
    """`triton_repo.<name>`, within `installed`."""
    return importlib.import_module(f"triton_repo.{name}")
