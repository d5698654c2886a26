"""Deterministic DDIM inversion: from a clean sample up to the noise level t0 from which an edit starts.

Eqs 9 and 10 of the ClipFaceFusion paper (DDIM's ODE run backwards; DiffusionCLIP, Kim et al. 2022), from level t to t' > t:

    x̂0   = (x_t - √(1-ᾱ_t) ε) / √ᾱ_t
    x_t' = √ᾱ_t' x̂0 + √(1-ᾱ_t') ε

x̂0 is never clipped: a clipped one would not lead back. As printed, ε is the model's answer at (x_t, t), though the way back will
ask at (x_t', t'); `fixed_point_iterations` ask there instead, each time at the point found last, and converge to the sample from
which a DDIM step lands on x_t exactly. `noise_pred` of any `Schedule.prediction_type` is turned into ε at the timestep it was
asked at. Nothing here knows engines, guidance (inversion has none) or pictures. Layout: (C, H, W) of one sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from runtime.ddim import DDIMCoefficients
from runtime.errors import EngineError
from runtime.route import Route, table
from runtime.schedule import Schedule
from runtime.trajectory import Evaluation

CLEAN = -1  # the level before timestep 0: the photo itself


def edit_timesteps(t0: int, num_steps: int) -> np.ndarray:
    """(num_steps,) int64, ascending, 0 … t0: DiffusionCLIP's grid `np.linspace(0, 1, num_steps) * t0`, cut to whole timesteps.

    A single step goes to t0 directly. Inversion visits them upwards from the clean level, generation downwards to it.
    Raises ValueError when there are more steps than timesteps.
    """
    if not 1 <= num_steps <= t0 + 1:
        raise ValueError(
            f"got {num_steps}; an edit from timestep {t0} takes 1..{t0 + 1} steps. Take fewer, or a larger t0"
        )
    if num_steps == 1:
        return np.array([t0], np.int64)
    return np.arange(num_steps, dtype=np.int64) * t0 // (num_steps - 1)


@dataclass(frozen=True, eq=False)
class InversionCoefficients:
    """What the steps of eqs 9 and 10 multiply by, float64 rounded once to float32; all arrays (N,), step order.

    timesteps     int64: where each step lands, ascending
    evaluated_at  int64: the timestep at which eq. 9 asks the model before step k: where the step starts, and 0 for the clean sample
    sample_scale  factor of x_t in x_t'
    eps_scale     factor of ε in x_t'
    start_sample, start_output   ε = start_sample x + start_output output, for an answer given at `evaluated_at`
    end_sample, end_output       the same for an answer given at `timesteps`
    """

    timesteps: np.ndarray
    evaluated_at: np.ndarray
    sample_scale: np.ndarray
    eps_scale: np.ndarray
    start_sample: np.ndarray
    start_output: np.ndarray
    end_sample: np.ndarray
    end_output: np.ndarray

    @classmethod
    def for_timesteps(cls, schedule: Schedule, timesteps: np.ndarray) -> InversionCoefficients:
        """Steps CLEAN → timesteps[0] → timesteps[1] → …; they must ascend, or ValueError."""
        timesteps = np.array(timesteps, np.int64)
        if timesteps.ndim != 1 or timesteps.size == 0 or timesteps[0] < 0 or (np.diff(timesteps) <= 0).any():
            raise ValueError(f"inversion: timesteps {timesteps.tolist()} must ascend from 0 or more")
        starts = np.concatenate([[CLEAN], timesteps[:-1]])
        evaluated_at = np.maximum(starts, 0)
        before, after, asked = (
            np.array([schedule.alpha_cumprod_at(int(t)) for t in levels])
            for levels in (starts, timesteps, evaluated_at)
        )
        sample_scale = np.sqrt(after / before)
        eps_scale = np.sqrt(1 - after) - sample_scale * np.sqrt(1 - before)
        factors = (sample_scale, eps_scale, *_to_eps(schedule, asked), *_to_eps(schedule, after))
        return cls(timesteps, evaluated_at, *(factor.astype(np.float32) for factor in factors))

    def __len__(self) -> int:
        return len(self.timesteps)

    def step(self, step_index: int, sample: np.ndarray, output: np.ndarray) -> np.ndarray:
        """Eqs 9 and 10: x_t' from x_t and the model's output at (x_t, `evaluated_at`); a new float32 array."""
        eps = self.start_sample[step_index] * sample + self.start_output[step_index] * output
        return self.sample_scale[step_index] * sample + self.eps_scale[step_index] * eps

    def refine(self, step_index: int, sample: np.ndarray, reached: np.ndarray, output: np.ndarray) -> np.ndarray:
        """A fixed-point iteration: the same step with ε from the model's output at (`reached`, `timesteps`)."""
        eps = self.end_sample[step_index] * reached + self.end_output[step_index] * output
        return self.sample_scale[step_index] * sample + self.eps_scale[step_index] * eps


def steps_back(schedule: Schedule, timesteps: np.ndarray) -> DDIMCoefficients:
    """The way back down: ascending `timesteps` visited from the last one to the clean level, deterministic and, as the way up, unclipped."""
    below = np.concatenate([[CLEAN], timesteps[:-1]])
    return DDIMCoefficients.for_timesteps(replace(schedule, clip_sample=False), timesteps[::-1], below[::-1])


@dataclass(frozen=True, eq=False)
class Inverted:
    """An inverted photo: what a cache keeps, and many edits start from. Arrays are read-only.

    clean      (C, H, W) float32, what was inverted
    sample     (C, H, W) at level t0
    levels     (N + 1, C, H, W): the clean sample, then where each step landed; None unless asked for
    residuals  (N, C, H, W): what the DDIM step timesteps[k] → the level below misses of the inversion's own sample there, under the
               condition of the inversion; None unless asked for
    """

    clean: np.ndarray
    sample: np.ndarray
    levels: np.ndarray | None = None
    residuals: np.ndarray | None = None

    @property
    def num_bytes(self) -> int:
        """Memory that the arrays take."""
        arrays = (self.clean, self.sample, self.levels, self.residuals)
        return sum(array.nbytes for array in arrays if array is not None)


class Inversion:
    """One photo on its way up: a `Trajectory` of one row per evaluation, unguided. `result` once it is finished.

    sample                  (C, H, W) float32, clean: pixels, or latents
    cond                    name -> array without batch dimension: the unconditional one, or what describes the photo
    timesteps               of `edit_timesteps`
    fixed_point_iterations  further evaluations per step, from 0; two leave 1e-3 of the error (docs/editing.md)
    keep_levels             for edits under a mask
    keep_residuals          for source correction; costs one more evaluation, at t0
    """

    max_rows = 1

    def __init__(
        self,
        schedule: Schedule,
        sample: np.ndarray,
        cond: Mapping[str, np.ndarray],
        timesteps: np.ndarray,
        fixed_point_iterations: int = 0,
        keep_levels: bool = False,
        keep_residuals: bool = False,
    ) -> None:
        if fixed_point_iterations < 0:
            raise ValueError(f"inversion: fixed_point_iterations is {fixed_point_iterations}; it must be 0 or more")
        self.sample = self._clean = _frozen(sample.copy())
        self.steps_done = 0
        self._coefficients = InversionCoefficients.for_timesteps(schedule, timesteps)
        self._conds = (cond,)
        self._iterations = fixed_point_iterations
        self._iteration = 0  # of the step under way; 0 is eq. 9 itself
        self._reached = self.sample  # where the step under way has landed so far
        self._levels = np.empty((self.num_steps + 1, *sample.shape), np.float32) if keep_levels else None
        if self._levels is not None:
            self._levels[0] = self.sample
        self._residuals = np.empty((self.num_steps, *sample.shape), np.float32) if keep_residuals else None
        self._num_residuals = 0
        self._back = steps_back(schedule, self._coefficients.timesteps)
        self._below = self.sample  # the level below `sample`

    @property
    def num_steps(self) -> int:
        return len(self._coefficients)

    @property
    def result(self) -> Inverted:
        """What was found. Raises ValueError before the end."""
        if self.evaluation() is not None:
            raise ValueError(f"inversion: {self.steps_done} of {self.num_steps} steps done; there is no result yet")
        levels, residuals = (None if kept is None else _frozen(kept) for kept in (self._levels, self._residuals))
        return Inverted(self._clean, _frozen(self.sample), levels, residuals)

    def evaluation(self) -> Evaluation | None:
        if self.steps_done == self.num_steps:
            if self._residuals is None or self._num_residuals == self.num_steps:
                return None
            return Evaluation(self.sample, int(self._coefficients.timesteps[-1]), self._conds)
        if self._iteration:
            return Evaluation(self._reached, int(self._coefficients.timesteps[self.steps_done]), self._conds)
        return Evaluation(self.sample, int(self._coefficients.evaluated_at[self.steps_done]), self._conds)

    def advance(self, outputs: np.ndarray) -> None:
        output = outputs[0]
        if self._residuals is not None and self._iteration == 0 and self.steps_done > 0:
            # The answer at a level and its own timestep: what the way back will be given there under the same condition.
            back = self._back.step(self.num_steps - self.steps_done, self.sample, output)
            self._residuals[self._num_residuals] = self._below - back
            self._num_residuals += 1
            if self.steps_done == self.num_steps:
                return
        if self._iteration == 0:
            self._reached = self._coefficients.step(self.steps_done, self.sample, output)
        else:
            self._reached = self._coefficients.refine(self.steps_done, self.sample, self._reached, output)
        if not np.isfinite(self._reached).all():
            raise EngineError(f"unet output not finite at inversion step {self.steps_done}")
        if self._iteration < self._iterations:
            self._iteration += 1
            return
        self._below, self.sample, self._iteration = self.sample, self._reached, 0
        self.steps_done += 1
        if self._levels is not None:
            self._levels[self.steps_done] = self.sample

    def route(self) -> Route | None:
        """See `runtime.route.Foreseeable`: eqs 9 and 10 as printed, if nothing is kept or asked again on the way."""
        if self.steps_done or self._iterations or self._levels is not None or self._residuals is not None:
            return None
        c = self._coefficients
        sample = c.sample_scale + c.eps_scale * c.start_sample
        factors = table(c.timesteps, sample=sample, output=c.eps_scale * c.start_output)
        return Route(self.sample, self._conds, c.evaluated_at, factors)

    def arrive(self, sample: np.ndarray) -> None:
        """See `runtime.route.Foreseeable`."""
        self.sample, self.steps_done = sample, self.num_steps

    def pred_x0(self, outputs: np.ndarray) -> np.ndarray:
        """The photo's own clean sample: inversion starts from it, so nothing has to be predicted."""
        return self._clean.copy()


def _to_eps(schedule: Schedule, alphas_cumprod: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors (of the sample, of the output) in ε, float64, for what the model predicts."""
    signal, spread = np.sqrt(alphas_cumprod), np.sqrt(1 - alphas_cumprod)
    if schedule.prediction_type == "epsilon":
        return np.zeros_like(signal), np.ones_like(signal)
    if schedule.prediction_type == "sample":
        return 1 / spread, -signal / spread
    return spread, signal  # v = √ᾱ ε - √(1-ᾱ) x0


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array
