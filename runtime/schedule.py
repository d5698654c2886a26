"""The noise schedule: betas, alphas_cumprod, and which timesteps an inference run visits.

The one definition shared by training (which noises with it) and runtime (which denoises with it). It knows no model,
no sampler and no file: `ddim.py` turns it into update coefficients, a manifest stores `to_dict()`.

Field names and defaults are those of diffusers' scheduler configuration, so `from_diffusers` reads the
`scheduler_config.json` of published weights and `DDIMScheduler(**schedule.to_dict())` builds the same schedule there.

The tables are float64 arrays that hold float32 values, bit for bit those of diffusers: published models were trained
and sampled with them. Near t = 0, where ᾱ is 0.9999, float32 leaves 1 - ᾱ only three digits, so an exact table would
differ from theirs by 3e-4 there, not by 1e-7.

Source: DDPM (Ho et al. 2020) for `linear`, latent diffusion for `scaled_linear`, improved DDPM (Nichol & Dhariwal 2021)
for `squaredcos_cap_v2`; timestep spacings after Lin et al. 2023, table 2. ᾱ_t is `alphas_cumprod[t]`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")

COSINE_OFFSET = 0.008  # keeps the first betas of the cosine schedule above zero
COSINE_MAX_BETA = 0.999  # keeps the last one below one

# Classes whose configuration describes the same forward process and differs only in how it is reversed.
DIFFUSERS_CLASSES = ("DDIMScheduler", "DDIMInverseScheduler", "DDPMScheduler")
# Keys that select something only in combination with a key that `from_diffusers` refuses, or only in DDPM's own sampler.
DIFFUSERS_INERT_KEYS = frozenset({"dynamic_thresholding_ratio", "sample_max_value", "variance_type"})


@dataclass(frozen=True)
class Schedule:
    """A discrete diffusion process of `num_train_timesteps` steps and the way inference walks back through it.

    beta_start, beta_end   in (0, 1), increasing; `squaredcos_cap_v2` is defined without them
    prediction_type        what the model's output is: the noise ε, the velocity v, or the clean sample x̂0
    timestep_spacing       how `timesteps` are chosen out of 0..num_train_timesteps-1
    steps_offset           added to every timestep of the `leading` spacing (1 in latent-diffusion checkpoints)
    set_alpha_to_one       ᾱ after the last step is 1 (True) or ᾱ_0 (False)
    clip_sample            whether x̂0 is clipped to ±clip_sample_range at each step: right for pixels, wrong for latents

    Raises ValueError naming the field, its value and what is allowed.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    beta_schedule: str = "linear"
    prediction_type: str = "epsilon"
    timestep_spacing: str = "leading"
    steps_offset: int = 0
    set_alpha_to_one: bool = True
    clip_sample: bool = True
    clip_sample_range: float = 1.0

    def __post_init__(self) -> None:
        _check_integer("num_train_timesteps", self.num_train_timesteps, minimum=1)
        _check_integer("steps_offset", self.steps_offset, minimum=0)
        _check_choice("beta_schedule", self.beta_schedule, BETA_SCHEDULES)
        _check_choice("prediction_type", self.prediction_type, PREDICTION_TYPES)
        _check_choice("timestep_spacing", self.timestep_spacing, TIMESTEP_SPACINGS)
        _check_flag("set_alpha_to_one", self.set_alpha_to_one)
        _check_flag("clip_sample", self.clip_sample)
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"schedule: beta_start={self.beta_start!r} and beta_end={self.beta_end!r} must satisfy "
                "0 < beta_start <= beta_end < 1"
            )
        if not 0 < self.clip_sample_range < math.inf:
            raise ValueError(
                f"schedule: clip_sample_range={self.clip_sample_range!r} must be positive and finite; "
                "to switch clipping off, set clip_sample=False"
            )

    @cached_property
    def betas(self) -> np.ndarray:
        """(num_train_timesteps,) float64, read-only, values rounded to float32: variance each forward step adds."""
        if self.beta_schedule == "linear":
            betas = _even_float32(self.beta_start, self.beta_end, self.num_train_timesteps)
        elif self.beta_schedule == "scaled_linear":
            betas = _even_float32(self.beta_start**0.5, self.beta_end**0.5, self.num_train_timesteps) ** 2
        else:
            edges = np.arange(self.num_train_timesteps + 1) / self.num_train_timesteps
            alpha_bar = np.cos((edges + COSINE_OFFSET) / (1 + COSINE_OFFSET) * np.pi / 2) ** 2
            betas = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], COSINE_MAX_BETA)
        return _read_only(_rounded_to_float32(betas))

    @cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """(num_train_timesteps,) float64, read-only, decreasing, values rounded to float32: ᾱ_t, the signal's share."""
        alphas = _rounded_to_float32(1.0 - self.betas)
        return _read_only(_rounded_to_float32(np.cumprod(alphas)))

    def alpha_cumprod_at(self, timestep: int) -> float:
        """ᾱ at a timestep; a negative timestep means "after the last step", which `set_alpha_to_one` defines."""
        if timestep >= self.num_train_timesteps:
            raise ValueError(f"schedule: timestep {timestep} is outside 0..{self.num_train_timesteps - 1}")
        if timestep < 0:
            return 1.0 if self.set_alpha_to_one else float(self.alphas_cumprod[0])
        return float(self.alphas_cumprod[timestep])

    def timesteps(self, num_inference_steps: int) -> np.ndarray:
        """(num_inference_steps,) int64, strictly descending: where the model is evaluated.

        Raises ValueError if the number is outside 1..num_train_timesteps, or if `steps_offset` pushes the first
        timestep past the end of training.
        """
        _check_integer("num_inference_steps", num_inference_steps, minimum=1, maximum=self.num_train_timesteps)
        last = self.num_train_timesteps - 1
        if self.timestep_spacing == "linspace":
            chosen = np.round(np.linspace(0, last, num_inference_steps))[::-1]
        elif self.timestep_spacing == "leading":
            chosen = np.arange(num_inference_steps)[::-1] * self.stride(num_inference_steps) + self.steps_offset
        else:
            # arange and not i * ratio: ties of round() then fall as they do in the published schedules. Cut to length,
            # because arange with a fractional stride returns one element too many for some numbers (61, 103, ...).
            ratio = self.num_train_timesteps / num_inference_steps
            chosen = np.round(np.arange(self.num_train_timesteps, 0, -ratio))[:num_inference_steps] - 1
        if chosen[0] > last:
            raise ValueError(
                f"schedule: num_inference_steps={num_inference_steps} with steps_offset={self.steps_offset} starts at "
                f"timestep {int(chosen[0])}, but training ended at {last}; take fewer steps"
            )
        return chosen.astype(np.int64)

    def prev_timesteps(self, num_inference_steps: int) -> np.ndarray:
        """(num_inference_steps,) int64: the timestep that each step lands on; negative after the last one.

        `timesteps - stride`, as in diffusers, so that pictures agree with it. It is the next element of `timesteps`
        whenever the spacing is `leading`, or `trailing` with a number that divides num_train_timesteps; otherwise the
        two may differ by one timestep.
        """
        return self.timesteps(num_inference_steps) - self.stride(num_inference_steps)

    def stride(self, num_inference_steps: int) -> int:
        """Training timesteps that one inference step covers."""
        return self.num_train_timesteps // num_inference_steps

    def to_dict(self) -> dict[str, Any]:
        """All fields, JSON-ready, under diffusers' names."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Schedule:
        """The inverse of `to_dict`. Raises ValueError for a field that does not exist."""
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise ValueError(f"schedule: unknown field {', '.join(unknown)}; the fields are {', '.join(known)}")
        return cls(**fields)

    @classmethod
    def from_diffusers(cls, config: Mapping[str, Any]) -> Schedule:
        """Read a parsed `scheduler_config.json`; absent keys take diffusers' defaults, which are this class's.

        Raises ValueError for a class, a feature or a key that would change the pictures and that we do not have.
        Unknown keys that are null or false ask for nothing and pass.
        """
        name = config.get("_class_name", "DDIMScheduler")
        if name not in DIFFUSERS_CLASSES:
            raise ValueError(
                f"scheduler config: _class_name={name!r} is not one of {', '.join(DIFFUSERS_CLASSES)}; if the model was "
                "trained with discrete DDPM noise, save it again with DDIMScheduler.from_config(...)"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        asked = {key: value for key, value in config.items() if not key.startswith("_")}
        for key, value in asked.items():
            inert = value is None or value is False or key in DIFFUSERS_INERT_KEYS
            if key not in known and not inert:
                raise ValueError(
                    f"scheduler config: {key}={_short(value)} is not supported; only null or false is. Supported keys: "
                    f"{', '.join(sorted(known))}"
                )
        return cls.from_dict({key: value for key, value in asked.items() if key in known})


def _check_integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> None:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_integer or value < minimum or (maximum is not None and value > maximum):
        allowed = f"at least {minimum}" if maximum is None else f"in {minimum}..{maximum}"
        raise ValueError(f"schedule: {name}={value!r} must be an integer {allowed}")


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"schedule: {name}={value!r} must be one of {', '.join(choices)}")


def _check_flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"schedule: {name}={value!r} must be true or false")


def _even_float32(start: float, stop: float, count: int) -> np.ndarray:
    """(count,) float64 holding float32 values: evenly spaced by a float32 stride, walked from both ends to the middle."""
    first, last = np.float32(start), np.float32(stop)
    stride = float((last - first) / np.float32(max(count - 1, 1)))
    i = np.arange(count)
    from_first = float(first) + stride * i
    from_last = float(last) - stride * (count - 1 - i)
    return _rounded_to_float32(np.where(i < max(count // 2, 1), from_first, from_last))


def _rounded_to_float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)


def _read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False  # cached and shared by every user of the schedule
    return array


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
