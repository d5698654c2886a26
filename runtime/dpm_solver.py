"""DPM-Solver++(2M): fewer steps than DDIM for nearly the same picture. Midpoint form, multistep, second order.

Lu et al. 2022 (DPM-Solver++), algorithm 2. From level s to level t, with h = λ_t - λ_s, r = (λ_s - λ_before) / h, and x̂0 now and
x̂0' one step before:

    x_t = (σ_t / σ_s) x + α_t (1 - e^-h) (x̂0 + (x̂0 - x̂0') / 2r)

The first step has no x̂0' and leaves the last term out, and so does the last one where second order is unstable: at a clean end, where h
is infinite, and at any end of fewer than 15 steps (diffusers' `lower_order_final`). Without that term a step is DDIM's.

Factors in float64 once per request, applied in float32. Layout: any shape; (C, H, W) in a trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.multistep import DataPrediction, NoiseLevels, add_scaled
from runtime.schedule import Schedule

FEW_STEPS = 15  # below this number of steps, the last one is of first order whatever the end


@dataclass(frozen=True, eq=False)
class DPMSolverCoefficients:
    """What each of N steps multiplies by; all arrays (N,).

    timesteps     int64    timestep the model is evaluated at
    sample_scale  float32  factor of x
    x0_scale      float32  factor of x̂0
    last_scale    float32  factor of the x̂0 one step before; 0 in a step of first order
    prediction    x̂0 from the model's output
    """

    timesteps: np.ndarray
    sample_scale: np.ndarray
    x0_scale: np.ndarray
    last_scale: np.ndarray
    prediction: DataPrediction

    @classmethod
    def for_steps(cls, schedule: Schedule, num_inference_steps: int) -> DPMSolverCoefficients:
        """The whole way from noise to picture. Raises ValueError for steps that the schedule cannot take."""
        levels = NoiseLevels.for_steps(schedule, num_inference_steps)
        h = np.diff(levels.lambdas)
        sample_scale = levels.sigma[1:] / levels.sigma[:-1]
        first_order = -levels.alpha[1:] * np.expm1(-h)
        second_order = np.zeros_like(h)
        second_order[1:] = first_order[1:] * h[1:] / (2 * h[:-1])  # of (x̂0 - x̂0'): 1/r is h over the h before
        if levels.sigma[-1] == 0 or num_inference_steps < FEW_STEPS:
            second_order[-1] = 0
        return cls(
            timesteps=levels.timesteps,
            sample_scale=sample_scale.astype(np.float32),
            x0_scale=(first_order + second_order).astype(np.float32),
            last_scale=-second_order.astype(np.float32),
            prediction=DataPrediction.at(schedule, levels),
        )


class DPMSolver:
    """DPM-Solver++(2M) for one sample of `shape`, in place; `runtime.trajectory.Solver` is its contract."""

    def __init__(self, coefficients: DPMSolverCoefficients, shape: tuple[int, ...]) -> None:
        self.timesteps = coefficients.timesteps
        self._coefficients = coefficients
        self._x0, self._last_x0, self._product = (np.empty(shape, np.float32) for _ in range(3))

    def step(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> None:
        factors, k = self._coefficients, step_index
        factors.prediction.write(k, sample, noise_pred, self._x0, self._product)
        sample *= factors.sample_scale[k]
        terms = (factors.x0_scale[k], self._x0), (factors.last_scale[k], self._last_x0)
        add_scaled(sample, terms, self._product)
        self._x0, self._last_x0 = self._last_x0, self._x0

    def pred_x0(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> np.ndarray:
        x0 = np.empty_like(sample)
        self._coefficients.prediction.write(step_index, sample, noise_pred, x0, self._product)
        return x0
