"""What DPM-Solver++ and UniPC share: the noise levels of a run, and the clean samples that the model's outputs imply.

Both solve the probability-flow ODE in λ = log(√ᾱ / √(1-ᾱ)), half the log of the signal-to-noise ratio, with the clean sample x̂0 as
what is integrated; a step combines the sample with the last few x̂0, elementwise, by factors that depend on the levels alone.

Timesteps follow diffusers' DPMSolverMultistepScheduler and UniPCMultistepScheduler: N steps need N+1 levels, the last of which is
the end of the schedule and not a timestep of the grid. So "linspace" and "leading" visit other timesteps than DDIM's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.ddim import prediction_factors, write_pred_x0
from runtime.schedule import Schedule

CLEAN_END = -1


@dataclass(frozen=True, eq=False)
class NoiseLevels:
    """The levels that N steps visit and, last, the one they end at; float64.

    timesteps  (N,) int64, strictly descending: where the model is evaluated
    alpha      (N+1,) √ᾱ
    sigma      (N+1,) √(1-ᾱ), 0 at a clean end
    lambdas    (N+1,) log(alpha / sigma), infinite at a clean end
    """

    timesteps: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    lambdas: np.ndarray

    @classmethod
    def for_steps(cls, schedule: Schedule, num_inference_steps: int) -> NoiseLevels:
        """Raises ValueError for a number of steps that the spacing cannot give distinct timesteps."""
        timesteps = _timesteps(schedule, num_inference_steps)
        last = schedule.num_train_timesteps - 1
        if timesteps[0] > last or (np.diff(timesteps) >= 0).any():
            raise ValueError(
                f"num_inference_steps={num_inference_steps} is more than this solver can take with '{schedule.timestep_spacing}' "
                f"spacing over {schedule.num_train_timesteps} timesteps and steps_offset={schedule.steps_offset}; take fewer steps"
            )
        alphas = np.array([schedule.alpha_cumprod_at(int(t)) for t in (*timesteps, CLEAN_END)])
        alpha, sigma = np.sqrt(alphas), np.sqrt(1 - alphas)
        with np.errstate(divide="ignore"):
            return cls(timesteps, alpha, sigma, np.log(alpha) - np.log(sigma))


@dataclass(frozen=True, eq=False)
class DataPrediction:
    """x̂0 from the model's outputs, float32: x0_sample (N,) and x0_output (N,) are the factors of sample and output, by step."""

    x0_sample: np.ndarray
    x0_output: np.ndarray
    clip_range: float | None

    @classmethod
    def at(cls, schedule: Schedule, levels: NoiseLevels) -> DataPrediction:
        """At each level but the last, for what the schedule says the model predicts; clipped if it clips."""
        x0_sample, x0_output, _, _ = prediction_factors(schedule.prediction_type, levels.alpha[:-1] ** 2)
        clip_range = schedule.clip_sample_range if schedule.clip_sample else None
        return cls(x0_sample.astype(np.float32), x0_output.astype(np.float32), clip_range)

    def write(
        self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray, out: np.ndarray, product: np.ndarray
    ) -> None:
        """x̂0 into `out`; `product` is scratch of the same shape."""
        factors = self.x0_sample[step_index], self.x0_output[step_index]
        write_pred_x0(factors, sample, noise_pred, self.clip_range, out, product)


def add_scaled(out: np.ndarray, terms: Sequence[tuple[np.float32, np.ndarray]], product: np.ndarray) -> None:
    """out += factor × array for each term; what has the factor 0 is not touched, so it may be anything."""
    for factor, array in terms:
        if factor != 0:
            np.multiply(array, factor, out=product)
            out += product


def _timesteps(schedule: Schedule, num_inference_steps: int) -> np.ndarray:
    if schedule.timestep_spacing == "trailing":
        return schedule.timesteps(num_inference_steps)
    if not 1 <= num_inference_steps < schedule.num_train_timesteps:
        raise ValueError(
            f"num_inference_steps={num_inference_steps} must be in 1..{schedule.num_train_timesteps - 1} for this solver"
        )
    count = num_inference_steps + 1
    if schedule.timestep_spacing == "linspace":
        grid = np.round(np.linspace(0, schedule.num_train_timesteps - 1, count))
    else:
        grid = np.arange(count) * (schedule.num_train_timesteps // count) + schedule.steps_offset
    return grid[:0:-1].astype(np.int64)
