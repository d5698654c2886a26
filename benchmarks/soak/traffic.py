"""What callers do to a server, each as one call: ask for a face, ask wrongly, give up, have no time, or die in the middle.

Good requests are few and different, and their pictures are known: each was made alone, in this process, before.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from benchmarks.inputs import requests
from benchmarks.soak.ledger import CANCELLED, KILLED, OK, REFUSED, Ledger
from runtime.client import Client, channel_arguments, infer_inputs
from runtime.pipeline import Pipeline
from runtime.request import MAX_PREVIEWS, GenerateRequest, GenerateResult
from runtime.retry import Retry
from runtime.statuses import typed_error
from runtime.wire import MODEL, STREAM_MODEL

ANSWER_LIMIT_S = 300.0  # only a hang is longer
ONCE = Retry(tries=1)  # the books are of single tries
ENDLESS_STEPS = 1000
GONE_WRONG: Mapping[str, dict[str, Any]] = {
    "empty text": {"text": b""},
    "age out of range": {"age": 130.0},
    "no picture": {"reference": b"no picture"},
    "no voice": {"audio": b"RIFF\x00\x00\x00\x00WAVE"},
    "not finite": {"valence_arousal": (np.nan, 0.0)},
    "unknown option": {"age": 30.0, "options": b'{"no_such_option": 1}'},
    "no steps": {"age": 30.0, "num_inference_steps": 0},
    "nothing": {"seed": 1},
}


@dataclass(frozen=True)
class Known:
    """A good request and the picture that it has when it is alone."""

    request: GenerateRequest
    picture: np.ndarray


def known(bundle: Path, steps: int) -> list[Known]:
    """The different requests, from one condition to all of them, with one to `steps` steps."""
    asked = [
        replace(request, seed=number, num_inference_steps=max(1, steps - number))
        for number, request in enumerate(requests(steps, guidance_scale=3.0).values())
    ]
    with Pipeline.open(bundle) as pipeline:
        return [Known(request, pipeline(request).image) for request in asked]


@dataclass(frozen=True)
class Traffic:
    """Calls to one server, each booked in one ledger. Thread-safe."""

    url: str
    ledger: Ledger
    good: list[Known]

    def kinds(self) -> dict[str, Callable[[np.random.Generator], None]]:
        """The calls by what they are; each draws what is random about it."""
        return {
            "good": self.ask,
            "bad": self.ask_wrongly,
            "cancel": self.give_up,
            "deadline": self.have_no_time,
            "killed": self.die,
        }

    def ask(self, rng: np.random.Generator) -> None:
        """One of the known faces, from the ensemble or on a stream with previews."""
        chosen = self.good[rng.integers(len(self.good))]
        previews = int(rng.integers(1, 5)) if rng.random() < 0.5 else None

        def call(request_id: str) -> np.ndarray | None:
            with Client(self.url, ANSWER_LIMIT_S, ONCE) as client:
                if previews is None:
                    return client(chosen.request, request_id=request_id).image
                request = replace(chosen.request, preview_every=previews)
                *_, last = client.stream(request, inactivity_s=ANSWER_LIMIT_S, request_id=request_id)
                return last.image

        self.ledger.book("good", call, chosen.picture, OK)

    def ask_wrongly(self, rng: np.random.Generator) -> None:
        """One of `GONE_WRONG`, sent past our client's own checks."""
        wrong = list(GONE_WRONG.values())[rng.integers(len(GONE_WRONG))]
        model = MODEL if rng.random() < 0.5 else STREAM_MODEL

        def call(request_id: str) -> np.ndarray | None:
            send_raw(self.url, model, {name: _tensor(name, value) for name, value in wrong.items()}, request_id)
            return np.zeros(0)

        self.ledger.book("bad", call, None, REFUSED)

    def give_up(self, rng: np.random.Generator, after: int | None = None) -> None:
        """A stream that its caller closes after some previews of a face that would take very long."""
        wanted = int(rng.integers(1, 4)) if after is None else after
        request = GenerateRequest(
            age=40,
            seed=int(rng.integers(2**31)),
            num_inference_steps=ENDLESS_STEPS,
            preview_every=ENDLESS_STEPS // MAX_PREVIEWS,
        )

        def call(request_id: str) -> np.ndarray | None:
            with Client(self.url, ANSWER_LIMIT_S, ONCE) as client:
                parts = client.stream(request, inactivity_s=ANSWER_LIMIT_S, request_id=request_id)
                for _ in range(wanted):
                    if isinstance(part := next(parts), GenerateResult):
                        return part.image
                parts.close()  # type: ignore[attr-defined]
            return None

        self.ledger.book("cancel", call, None, CANCELLED)

    def have_no_time(self, rng: np.random.Generator) -> None:
        """A face that would take very long, within some hundred milliseconds."""
        deadline_ms = int(rng.integers(20, 400))
        request = GenerateRequest(
            age=50,
            seed=1,
            num_inference_steps=ENDLESS_STEPS,
            options={"deadline_ms": deadline_ms},  # type: ignore[arg-type]
        )
        is_stream = rng.random() < 0.5

        def call(request_id: str) -> np.ndarray | None:
            with Client(self.url, ANSWER_LIMIT_S, ONCE) as client:
                if not is_stream:
                    return client(request, request_id=request_id).image
                *_, last = client.stream(request, inactivity_s=ANSWER_LIMIT_S, request_id=request_id)
                return last.image

        self.ledger.book("deadline", call, None, CANCELLED)

    def die(self, rng: np.random.Generator) -> None:
        """A caller in a process of its own that is killed while its face is made."""
        request_id = self.ledger.opened("killed", KILLED)
        command = [sys.executable, "-m", "benchmarks.soak.victim", self.url, request_id]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as victim:
            assert victim.stdout is not None
            victim.stdout.readline()  # its face is being made
            victim.kill()
        self.ledger.ended(request_id, KILLED)


def send_raw(url: str, model: str, arrays: Mapping[str, np.ndarray], request_id: str) -> None:
    """Send any tensors to a public model and wait for the end. Raises as a client does."""
    with grpcclient.InferenceServerClient(url, channel_args=channel_arguments(url)) as transport:
        try:
            if model == MODEL:
                transport.infer(model, infer_inputs(dict(arrays)), request_id=request_id, client_timeout=ANSWER_LIMIT_S)
                return
            answers: list[tuple[Any, InferenceServerException | None]] = []
            transport.start_stream(lambda result, error: answers.append((result, error)), stream_timeout=ANSWER_LIMIT_S)
            transport.async_stream_infer(model, infer_inputs(dict(arrays)), request_id=request_id)
            transport.stop_stream()  # waits for the answers
            for _, error in answers:
                if error is not None:
                    raise error
        except InferenceServerException as error:
            raise typed_error(error.status(), error.message(), url, ANSWER_LIMIT_S) from None


def _tensor(name: str, value: Any) -> np.ndarray:
    dtypes = {"age": np.float32, "valence_arousal": np.float32, "seed": np.int64, "num_inference_steps": np.int32}
    return np.array([value if isinstance(value, tuple) else (value,)], dtypes.get(name, np.object_))
