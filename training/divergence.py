"""When a training has gone wrong: a loss or a gradient that is no number, or that stays far above what it was.

One outlier is no reason to stop, and gradients are clipped; weights that have blown up stay bad. So the rule asks for several
steps in a row over a multiple of the running median, and nothing is saved while it has doubts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import median

WINDOW = 100  # healthy steps that the median is taken over
FEWEST = 20  # before that many there is nothing to compare with
LOSS_FACTOR, GRADIENT_FACTOR = 20.0, 100.0  # gradients scatter more than losses
GRADIENT = "gradient norm"
PATIENCE = 10  # suspicious steps in a row


class TrainingDivergedError(Exception):
    """Loss or gradient is no number any more, or has exploded; the last saved state is intact."""


class Watch:
    """Looks at every step's losses and gradient norm. What it remembers is part of a saved state."""

    def __init__(self) -> None:
        self.recent: dict[str, list[float]] = {}
        self.suspicious = 0

    @property
    def is_healthy(self) -> bool:
        """Whether the last step was like those before it: only then may a state be saved."""
        return self.suspicious == 0

    def fault(self, losses: Mapping[str, float], gradient_norm: float) -> str | None:
        """What is wrong after a step with these `losses` ("loss" is their sum), or None."""
        if not math.isfinite(losses["loss"]):
            terms = [name for name, value in losses.items() if name != "loss" and not math.isfinite(value)]
            return f"loss is {losses['loss']}" + (f" (terms {', '.join(terms)})" if terms else "")
        if not math.isfinite(gradient_norm):
            return f"gradient norm is {gradient_norm} at loss {losses['loss']:.4g}"
        values = {name: abs(value) for name, value in losses.items() if math.isfinite(value)}
        values[GRADIENT] = gradient_norm
        if not self._is_suspicious(values):
            self.suspicious = 0
            for name, value in values.items():
                self.recent[name] = [*self.recent.get(name, [])[-WINDOW + 1 :], value]
            return None
        self.suspicious += 1
        if self.suspicious < PATIENCE:
            return None
        terms = [name for name in values if name not in ("loss", GRADIENT)]
        if self._times("loss", values["loss"]) <= LOSS_FACTOR:
            terms = [GRADIENT]
        worst = max(terms or ["loss"], key=lambda name: self._times(name, values[name]))
        return (
            f"loss is {losses['loss']:.4g}, {self._times('loss', values['loss']):.0f} times its running median, "
            f"gradient norm {gradient_norm:.4g}, {PATIENCE} steps in a row; "
            f"most of all {worst}, {self._times(worst, values[worst]):.0f} times"
        )

    def _is_suspicious(self, values: Mapping[str, float]) -> bool:
        if len(self.recent.get("loss", ())) < FEWEST:
            return False
        return (
            self._times("loss", values["loss"]) > LOSS_FACTOR
            or self._times(GRADIENT, values[GRADIENT]) > GRADIENT_FACTOR
        )

    def _times(self, name: str, value: float) -> float:
        usual = median(self.recent[name]) if self.recent.get(name) else 0.0
        return value / usual if usual > 0 else 1.0
