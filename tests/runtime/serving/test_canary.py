"""A canary against a client that is a stand-in: whatever happens to it, it lands, and says so."""

from __future__ import annotations

import time

import pytest

from runtime.errors import EngineError, UnavailableError
from runtime.serving import canary


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (UnavailableError("the server is stopping"), UnavailableError),
        (RuntimeError("can't start new thread"), EngineError),
        (None, type(None)),
    ],
)
def test_only_a_face_is_no_error(monkeypatch, raised, expected):
    class Client:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def __call__(self, *_, **__):
            if raised is not None:
                raise raised

    monkeypatch.setattr(canary, "Client", Client)
    bird = canary.Canary("host:1", 1.0)
    deadline = time.monotonic() + 30
    while not bird.has_landed:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    assert type(bird.error) is expected
    assert raised is None or str(raised) in str(bird.error)
