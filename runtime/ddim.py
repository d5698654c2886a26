"""The DDIM update as a table of coefficients, the solver that applies it in place, and the plain loop over it.

DDIM (Song et al. 2021, eq. 12 and 16; eqs 10 and 29 of the ClipFaceFusion paper) moves a sample from timestep t to t':

    x̂0   = (x - √(1-ᾱ_t) ε) / √ᾱ_t
    σ    = eta √((1-ᾱ_t') / (1-ᾱ_t)) √(1 - ᾱ_t / ᾱ_t')
    x_t' = √ᾱ_t' x̂0 + √(1-ᾱ_t'-σ²) ε + σ noise

For all three prediction types x̂0 and ε are linear in (x, model output), so without clipping a step is
`a x + b output + σ noise`. The factors are computed once per request in float64 and applied in float32: two
multiplications and an addition per element, elementwise, hence independent of how rows are batched.

t' > t is allowed when eta is 0: with t' above t the same formula is deterministic inversion (eq. 9). Nothing here
knows guidance or engines. Layout: any shape; (B, C, H, W) in the loop, (C, H, W) in a trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from runtime.denoise import Denoise
from runtime.noise import SEED_LIMIT, gaussian, step_stream
from runtime.route import table
from runtime.schedule import Schedule

OnStep = Callable[[int, int, np.ndarray], None]
"""Called as on_step(step_index, num_steps, sample) after each step, step_index from 0; `sample` is only lent."""


@dataclass(frozen=True, eq=False)
class DDIMCoefficients:
    """What a request's steps multiply by. Build with `for_steps` or `for_timesteps`; all arrays are (N,), step order.

    timesteps      int64    timestep the model is evaluated at
    sample_scale   float32  factor of x in x_t'; with clipping, without the part that passes through x̂0
    output_scale   float32  factor of the model output, likewise
    noise_scale    float32  σ
    x0_sample      float32  factor of x in x̂0
    x0_output      float32  factor of the model output in x̂0
    x0_scale       float32  √ᾱ_t', factor of the clipped x̂0
    clip_range     x̂0 is clipped to ± this; None leaves it alone
    """

    timesteps: np.ndarray
    sample_scale: np.ndarray
    output_scale: np.ndarray
    noise_scale: np.ndarray
    x0_sample: np.ndarray
    x0_output: np.ndarray
    x0_scale: np.ndarray
    clip_range: float | None

    @classmethod
    def for_steps(cls, schedule: Schedule, num_inference_steps: int, eta: float = 0.0) -> DDIMCoefficients:
        """The whole way from noise to picture in `num_inference_steps` steps."""
        timesteps = schedule.timesteps(num_inference_steps)
        return cls.for_timesteps(schedule, timesteps, schedule.prev_timesteps(num_inference_steps), eta)

    @classmethod
    def for_timesteps(
        cls, schedule: Schedule, timesteps: np.ndarray, prev_timesteps: np.ndarray, eta: float = 0.0
    ) -> DDIMCoefficients:
        """Steps timesteps[k] → prev_timesteps[k]; a negative target is the clean end of the schedule.

        timesteps, prev_timesteps  (N,) integers, N >= 1; eta in [0, 1]: 0 is deterministic, 1 has DDPM's variance.
        Raises ValueError for lengths that differ, values out of range, or eta > 0 on a step towards more noise.
        """
        timesteps = np.array(timesteps, dtype=np.int64)
        targets = np.array(prev_timesteps, dtype=np.int64)
        if timesteps.ndim != 1 or timesteps.size == 0 or timesteps.shape != targets.shape:
            raise ValueError(
                f"ddim: timesteps {timesteps.shape} and prev_timesteps {targets.shape} must be two lists of one length >= 1"
            )
        if timesteps.min() < 0:
            raise ValueError(f"ddim: timestep {timesteps.min()} is outside 0..{schedule.num_train_timesteps - 1}")
        if not 0.0 <= eta <= 1.0:
            raise ValueError(f"ddim: eta={eta!r} is outside 0..1")
        if eta > 0 and (targets >= timesteps).any():
            raise ValueError(f"ddim: eta={eta!r} on a step towards more noise; inversion is deterministic, use eta=0")

        alpha = np.array([schedule.alpha_cumprod_at(int(t)) for t in timesteps])
        alpha_prev = np.array([schedule.alpha_cumprod_at(int(t)) for t in targets])
        sigma = np.zeros_like(alpha)
        if eta > 0:
            sigma = eta * np.sqrt((1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev))
        x0_sample, x0_output, eps_sample, eps_output = prediction_factors(schedule.prediction_type, alpha)
        x0_scale = np.sqrt(alpha_prev)
        eps_scale = np.sqrt(np.maximum(1 - alpha_prev - sigma**2, 0.0))  # eta = 1 can round to just below zero
        sample_scale = eps_scale * eps_sample
        output_scale = eps_scale * eps_output
        if not schedule.clip_sample:
            sample_scale += x0_scale * x0_sample
            output_scale += x0_scale * x0_output
        return cls(
            timesteps=timesteps,
            sample_scale=sample_scale.astype(np.float32),
            output_scale=output_scale.astype(np.float32),
            noise_scale=sigma.astype(np.float32),
            x0_sample=x0_sample.astype(np.float32),
            x0_output=x0_output.astype(np.float32),
            x0_scale=x0_scale.astype(np.float32),
            clip_range=float(schedule.clip_sample_range) if schedule.clip_sample else None,
        )

    def __len__(self) -> int:
        return len(self.timesteps)

    def needs_noise(self, step_index: int) -> bool:
        """Whether this step adds noise: eta > 0, and it does not land on a noise-free sample."""
        return bool(self.noise_scale[step_index] != 0)

    def pred_x0(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> np.ndarray:
        """x̂0, the clean sample that the model's output implies; a new float32 array, clipped if the schedule clips."""
        return self._pred_x0(step_index, sample, noise_pred, np.empty_like(sample), np.empty_like(sample))

    def step(
        self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray, noise: np.ndarray | None = None
    ) -> np.ndarray:
        """x_t' from x_t: arrays of one shape, float32, in; a new array of that shape out.

        `noise` is standard normal, read only where `needs_noise(step_index)`; there its absence raises ValueError.
        """
        prev_sample = np.array(sample)
        self.step_in_place(step_index, prev_sample, noise_pred, Scratch.like(prev_sample), noise)
        return prev_sample

    def step_in_place(
        self,
        step_index: int,
        sample: np.ndarray,
        noise_pred: np.ndarray,
        scratch: Scratch,
        noise: np.ndarray | None = None,
    ) -> None:
        """`step` that leaves its result in `sample` and allocates nothing; `scratch` is of the sample's shape."""
        x0, product = scratch
        clips = self.clip_range is not None
        if clips:  # first, because it reads the sample
            self._pred_x0(step_index, sample, noise_pred, x0, product)
            x0 *= self.x0_scale[step_index]
        if self.sample_scale[step_index] == 0:  # all of x is in x̂0: a clipped step of an ε model
            np.multiply(noise_pred, self.output_scale[step_index], out=sample)
        else:
            sample *= self.sample_scale[step_index]
            np.multiply(noise_pred, self.output_scale[step_index], out=product)
            sample += product
        if clips:
            sample += x0
        if self.needs_noise(step_index):
            if noise is None:
                raise ValueError(f"ddim: step {step_index} has eta > 0 and needs noise; pass it, or use eta=0")
            np.multiply(noise, self.noise_scale[step_index], out=product)
            sample += product

    def _pred_x0(
        self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray, out: np.ndarray, product: np.ndarray
    ) -> np.ndarray:
        factors = self.x0_sample[step_index], self.x0_output[step_index]
        write_pred_x0(factors, sample, noise_pred, self.clip_range, out, product)
        return out


class Scratch(NamedTuple):
    """Memory that a step writes to, so that it need not allocate: float32 arrays of the sample's shape."""

    x0: np.ndarray
    product: np.ndarray

    @classmethod
    def like(cls, sample: np.ndarray) -> Scratch:
        return cls(np.empty_like(sample), np.empty_like(sample))


class DDIMSolver:
    """DDIM for one sample of `shape`, in place; `runtime.trajectory.Solver` is its contract.

    seed  0..2**63-1, of the noise that steps with eta > 0 add (streams `step_stream(k)`)
    """

    def __init__(self, coefficients: DDIMCoefficients, shape: tuple[int, ...], seed: int = 0) -> None:
        if not 0 <= seed < SEED_LIMIT:
            raise ValueError(f"ddim: seed={seed} is outside 0..{SEED_LIMIT - 1}")
        self.timesteps = coefficients.timesteps
        self._coefficients = coefficients
        self._scratch = Scratch(np.empty(shape, np.float32), np.empty(shape, np.float32))
        self._seed = seed

    def step(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> None:
        noise = None
        if self._coefficients.needs_noise(step_index):
            noise = gaussian(self._seed, step_stream(step_index), sample.shape)
        self._coefficients.step_in_place(step_index, sample, noise_pred, self._scratch, noise)

    def pred_x0(self, step_index: int, sample: np.ndarray, noise_pred: np.ndarray) -> np.ndarray:
        return self._coefficients.pred_x0(step_index, sample, noise_pred)

    def factors(self) -> np.ndarray | None:
        """See `runtime.trajectory.Tabulated`."""
        c = self._coefficients
        if c.noise_scale.any():
            return None
        factors: dict[str, np.ndarray | float] = {"sample": c.sample_scale, "output": c.output_scale}
        if c.clip_range is not None:
            factors |= {"x0_sample": c.x0_sample, "x0_output": c.x0_output, "x0": c.x0_scale, "clip": c.clip_range}
        return table(c.timesteps, **factors)


def ddim_step(
    schedule: Schedule,
    noise_pred: np.ndarray,
    timestep: int,
    prev_timestep: int,
    sample: np.ndarray,
    eta: float = 0.0,
    noise: np.ndarray | None = None,
) -> np.ndarray:
    """One step timestep → prev_timestep (negative: to the clean end). A loop builds `DDIMCoefficients` once instead."""
    one_step = DDIMCoefficients.for_timesteps(schedule, np.array([timestep]), np.array([prev_timestep]), eta)
    return one_step.step(0, sample, noise_pred, noise)


def sample_loop(
    denoise: Denoise,
    sample: np.ndarray,
    cond: Mapping[str, np.ndarray],
    coefficients: DDIMCoefficients,
    noise: Callable[[int], np.ndarray] | None = None,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """All steps for one batch whose rows share their timesteps: the algorithm in its plainest form.

    sample  (B, C, H, W) float32, at the noise level of the first timestep; not modified
    cond    name -> (B, ...)
    noise   step_index -> array shaped like sample, for the steps where `coefficients.needs_noise`
    Returns the final sample, (B, C, H, W) float32. Requests that come and go are what `batcher.py` is for.
    """
    for step_index, timestep in enumerate(coefficients.timesteps):
        noise_pred = denoise(sample, np.full(len(sample), timestep, dtype=np.int64), cond)
        added = noise(step_index) if noise is not None and coefficients.needs_noise(step_index) else None
        sample = coefficients.step(step_index, sample, noise_pred, added)
        if on_step is not None:
            on_step(step_index, len(coefficients), sample)
    return sample


def write_pred_x0(
    factors: tuple[np.float32, np.float32],
    sample: np.ndarray,
    noise_pred: np.ndarray,
    clip_range: float | None,
    out: np.ndarray,
    product: np.ndarray,
) -> None:
    """x̂0 = factors[0] sample + factors[1] output, clipped to ± clip_range, into `out`; `product` is scratch of its shape."""
    np.multiply(sample, factors[0], out=out)
    np.multiply(noise_pred, factors[1], out=product)
    out += product
    if clip_range is not None:
        np.clip(out, -clip_range, clip_range, out=out)


def prediction_factors(
    prediction_type: str, alpha: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Factors (of x in x̂0, of output in x̂0, of x in ε, of output in ε) at ᾱ `alpha` for what the model predicts, float64."""
    signal, spread = np.sqrt(alpha), np.sqrt(1 - alpha)
    zero, one = np.zeros_like(alpha), np.ones_like(alpha)
    if prediction_type == "epsilon":
        return one / signal, -spread / signal, zero, one
    if prediction_type == "sample":
        return zero, one, one / spread, -signal / spread
    return signal, -spread, spread, signal  # v = √ᾱ ε - √(1-ᾱ) x0
