"""UniPC: a predictor and a corrector that share the model's calls. Second order, B(h) = e^h - 1 ("bh2"), data prediction.

Zhao et al. 2023 (UniPC), algorithms 1 and 2. From level s to level t, with h = λ_t - λ_s, B = e^-h - 1, r = (λ_before - λ_s) / h, x̂0 at s
and x̂0' at the level before:

    predicted x_t = (σ_t / σ_s) x_s - α_t B (x̂0 + (x̂0' - x̂0) / 2r)

The model's next call, at the predicted x_t, gives x̂0_t; it is used first to correct the sample that it was asked about:

    corrected x_t = (σ_t / σ_s) x_s - α_t B (x̂0 + ρ₁ (x̂0' - x̂0) / r + ρ₂ (x̂0_t - x̂0))

with ρ from the order conditions [1 1; r 1] ρ = [b₁ b₂]. The first step and the last one are of first order: without the terms in
x̂0', and ρ₂ = 1/2. The corrected sample is where the next prediction starts.

Factors in float64 once per request, applied in float32. Layout: any shape; (C, H, W) in a trajectory.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.multistep import DataPrediction, NoiseLevels, add_scaled
from runtime.schedule import Schedule

ORDER = 2


@dataclass(frozen=True, eq=False)
class UniPCCoefficients:
    """What each of N steps multiplies by.

    timesteps   (N,) int64: where the model is evaluated
    corrector   (N, 4) float32: factors of the sample corrected last, of x̂0 now, of x̂0 one and two steps before; row 0 is not used
    predictor   (N, 3) float32: factors of the corrected sample, of x̂0 now and one step before
    prediction  x̂0 from the model's output
    """

    timesteps: np.ndarray
    corrector: np.ndarray
    predictor: np.ndarray
    prediction: DataPrediction

    @classmethod
    def for_steps(cls, schedule: Schedule, num_inference_steps: int) -> UniPCCoefficients:
        """The whole way from noise to picture. Raises ValueError for steps that the schedule cannot take."""
        levels = NoiseLevels.for_steps(schedule, num_inference_steps)
        corrector, predictor = np.zeros((num_inference_steps, 4)), np.zeros((num_inference_steps, 3))
        for k in range(num_inference_steps):
            order = min(ORDER, k + 1, num_inference_steps - k)
            predictor[k] = _predictor(levels, k, order)
            if k + 1 < num_inference_steps:  # what this step predicts, the next one corrects, at the same order
                corrector[k + 1] = _corrector(levels, k, order)
        prediction = DataPrediction.at(schedule, levels)
        return cls(levels.timesteps, corrector.astype(np.float32), predictor.astype(np.float32), prediction)


class UniPCSolver:
    """UniPC for one sample of `shape`, in place; `runtime.trajectory.Solver` is its contract."""

    def __init__(self, coefficients: UniPCCoefficients, shape: tuple[int, ...]) -> None:
        self.timesteps = coefficients.timesteps
        self._coefficients = coefficients
        self._corrected, self._product = (np.empty(shape, np.float32) for _ in range(2))
        self._x0 = [np.empty(shape, np.float32) for _ in range(1 + ORDER)]  # now, and one and two steps before

    def step(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> None:
        factors, corrected, product = self._coefficients, self._corrected, self._product
        self._x0.insert(0, self._x0.pop())
        factors.prediction.write(step_index, sample, noise_pred, self._x0[0], product)
        if step_index == 0:
            corrected[...] = sample
        else:
            corrected *= factors.corrector[step_index, 0]
            add_scaled(corrected, tuple(zip(factors.corrector[step_index, 1:], self._x0, strict=True)), product)
        np.multiply(corrected, factors.predictor[step_index, 0], out=sample)
        add_scaled(sample, tuple(zip(factors.predictor[step_index, 1:], self._x0, strict=False)), product)

    def pred_x0(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> np.ndarray:
        x0 = np.empty_like(sample)
        self._coefficients.prediction.write(step_index, sample, noise_pred, x0, self._product)
        return x0


def _predictor(levels: NoiseLevels, k: int, order: int) -> tuple[float, float, float]:
    """Factors of (x at level k, x̂0 there, x̂0 at the level before) in the predicted x at level k + 1."""
    scale, weight = _first_order(levels, k)
    if order == 1:
        return scale, weight, 0.0
    before = weight / (2 * _ratio(levels, k))
    return scale, weight - before, before


def _corrector(levels: NoiseLevels, k: int, order: int) -> tuple[float, float, float, float]:
    """Factors of (x at level k, x̂0 at level k + 1, at level k, at the level before) in the corrected x at level k + 1."""
    scale, weight = _first_order(levels, k)
    if order == 1:
        return scale, weight / 2, weight / 2, 0.0
    h, r = levels.lambdas[k + 1] - levels.lambdas[k], _ratio(levels, k)
    phi_1 = np.expm1(-h)
    phi_2 = phi_1 / -h - 1
    phi_3 = phi_2 / -h - 1 / 2
    rho_before, rho_here = np.linalg.solve(np.array([[1, 1], [r, 1]]), np.array([phi_2, 2 * phi_3]) / phi_1)
    before, here = weight * rho_before / r, weight * rho_here
    return scale, here, weight - before - here, before


def _first_order(levels: NoiseLevels, k: int) -> tuple[float, float]:
    """σ_t / σ_s and -α_t B of the step from level k."""
    h = levels.lambdas[k + 1] - levels.lambdas[k]
    return levels.sigma[k + 1] / levels.sigma[k], -levels.alpha[k + 1] * np.expm1(-h)


def _ratio(levels: NoiseLevels, k: int) -> float:
    """r: where the level before level k lies, in units of the step; negative."""
    before, here, after = levels.lambdas[k - 1 : k + 2]
    return (before - here) / (after - here)
