"""Callers who give up: streams that are closed, or whose time runs out, at a step that a seed draws. One cycle is one such caller.

For soaks and for tests: what each caller saw is given back, and `wrong` holds what must not be. It needs a running server only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from runtime.client import Client
from runtime.errors import ClipFaceFusionError, DeadlineExceededError
from runtime.options import Options
from runtime.request import GenerateRequest, GenerateResult, Preview

STEPS = 60
CLOSED, EXPIRED, DONE = "closed", "expired", "done"


@dataclass
class Ledger:
    """How the cycles ended: `closed` early by the caller, `expired`, or `done` because the face was faster."""

    ended: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def cycles(client: Client, count: int, seed: int) -> Ledger:
    """`count` callers, one after the other; every second one sets itself a deadline instead of closing its stream."""
    rng, ledger = np.random.default_rng(seed), Ledger()
    for cycle in range(count):
        last_step = int(rng.integers(1, STEPS))
        deadline_ms = int(rng.integers(1, 400)) if cycle % 2 else None
        request = GenerateRequest(
            age=float(rng.integers(1, 90)),
            seed=cycle,
            num_inference_steps=STEPS,
            preview_every=1,
            options=Options(deadline_ms=deadline_ms),
        )
        try:
            with closing(client.stream(request)) as parts:
                ledger.ended[_give_up(parts, STEPS if deadline_ms else last_step)] += 1
        except DeadlineExceededError:
            ledger.ended[EXPIRED] += 1
            if not deadline_ms:
                ledger.wrong.append(f"cycle {cycle}: a deadline nobody had set")
        except ClipFaceFusionError as error:
            ledger.wrong.append(f"cycle {cycle}: {type(error).__name__}: {error}")
    return ledger


def _give_up(parts: Iterator[Preview | GenerateResult], last_step: int) -> str:
    """Read until the preview of `last_step`, or of a later one if that was skipped."""
    for part in parts:
        if isinstance(part, GenerateResult):
            return DONE
        if part.step >= last_step:
            return CLOSED
    raise AssertionError("a stream ends with a result or an error")
