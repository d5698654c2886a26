"""Classifier-free guidance (Ho & Salimans 2022) around a denoiser.

    noise_pred = uncond + guidance_scale (cond - uncond)

Conditional and unconditional rows go through the model in one call. guidance_scale 1 is off and costs nothing. `Guidance` is
for one sample and its trajectory; `guide` makes a denoiser of a batch, itself a `Denoise`, for loops that do not know about
guidance. B is the number of samples.

Guidance helps at middle noise levels; at the highest it drives samples together, at the lowest it does nothing (Kynkäänniemi et
al. 2024). An interval of timesteps limits it, and saves the unconditional row outside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from runtime.denoise import Denoise

GUIDANCE_OFF = 1.0


Layout = tuple[tuple[str, tuple[int, ...], str], ...]
"""(name, shape, dtype) of each array of a mapping, by name."""


@dataclass(frozen=True, eq=False)
class Guidance:
    """What one sample is conditioned on, and how strongly. Arrays are copied on construction.

    cond            name -> array without batch dimension
    uncond          the same names, shapes and dtypes; may be empty when guidance_scale is 1
    guidance_scale  finite; 1 is off and saves the unconditional row
    interval        (low, high), timesteps between which guidance acts, both included; None: at all

    Raises ValueError for what cannot be combined.
    """

    cond: Mapping[str, np.ndarray]
    uncond: Mapping[str, np.ndarray] = field(default_factory=dict)
    guidance_scale: float = GUIDANCE_OFF
    interval: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("cond", "uncond"):
            object.__setattr__(self, name, _owned(getattr(self, name)))
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance: guidance_scale={self.guidance_scale!r} must be finite")
        if self.interval is not None and not self.interval[0] <= self.interval[1]:
            raise ValueError(f"guidance: interval={self.interval!r} must be (low, high) with low <= high")
        if self.max_rows > 1 and layout_of(self.uncond) != layout_of(self.cond):
            raise ValueError(
                f"guidance: guidance_scale={self.guidance_scale} needs uncond arrays like cond; cond is "
                f"{layout_of(self.cond)}, uncond is {layout_of(self.uncond)}"
            )

    @property
    def max_rows(self) -> int:
        """Rows where guidance acts."""
        return 1 if self.guidance_scale == GUIDANCE_OFF else 2

    @property
    def rows(self) -> tuple[Mapping[str, np.ndarray], ...]:
        """What each row is conditioned on where guidance acts."""
        return (self.cond,) if self.max_rows == 1 else (self.cond, self.uncond)

    def scale_at(self, timestep: int) -> float:
        """How strongly it acts at a timestep; GUIDANCE_OFF where it does not."""
        return self.guidance_scale if self._acts_at(timestep) else GUIDANCE_OFF

    def conds(self, timestep: int) -> tuple[Mapping[str, np.ndarray], ...]:
        """What each row is conditioned on at a timestep: cond, and uncond as well where guidance acts."""
        return self.rows if self._acts_at(timestep) else (self.cond,)

    def combined(self, outputs: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The prediction from the model's rows, (R, ...) float32 in the order of `conds`: written to `out`, or a row of `outputs` itself."""
        if len(outputs) == 1:
            return outputs[0]
        return combine(outputs[1], outputs[0], self.guidance_scale, out)

    def _acts_at(self, timestep: int) -> bool:
        return self.interval is None or self.interval[0] <= timestep <= self.interval[1]


def layout_of(arrays: Mapping[str, np.ndarray]) -> Layout:
    """What must agree between two mappings whose arrays share a call of the model."""
    return tuple((name, array.shape, array.dtype.str) for name, array in sorted(arrays.items()))


def combine(
    noise_uncond: np.ndarray,
    noise_cond: np.ndarray,
    guidance_scale: float | np.ndarray,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """The formula above, float32, in `out` or a new array; a scale array must broadcast against the predictions."""
    noise_pred = np.subtract(noise_cond, noise_uncond, out=out)
    noise_pred *= np.asarray(guidance_scale, dtype=np.float32)
    noise_pred += noise_uncond
    return noise_pred


def guide(denoise: Denoise, uncond: Mapping[str, np.ndarray], guidance_scale: float | np.ndarray) -> Denoise:
    """A denoiser whose prediction is pushed away from the unconditional one.

    uncond          the same names as cond; arrays of (1, ...) or (B, ...)
    guidance_scale  one finite number, or (B,) with one per row; rows at 1 add no unconditional row to the call

    Raises ValueError for a scale that is not finite or not (B,), or for uncond arrays that do not match cond.
    """
    scales = np.asarray(guidance_scale, dtype=np.float32)
    if scales.ndim > 1 or not np.isfinite(scales).all():
        raise ValueError(f"guidance: guidance_scale={guidance_scale!r} must be finite, one number or one per row")

    def guided(sample: np.ndarray, timestep: np.ndarray, cond: Mapping[str, np.ndarray]) -> np.ndarray:
        batch = len(sample)
        if scales.ndim == 1 and len(scales) != batch:
            raise ValueError(
                f"guidance: {len(scales)} values of guidance_scale for {batch} rows; give one, or one each"
            )
        row_scales = np.broadcast_to(scales, (batch,))
        rows = np.flatnonzero(row_scales != GUIDANCE_OFF)
        if rows.size == 0:
            return denoise(sample, timestep, cond)
        both = {name: np.concatenate([array, _rows_of(uncond, name, array)[rows]]) for name, array in cond.items()}
        output = denoise(np.concatenate([sample, sample[rows]]), np.concatenate([timestep, timestep[rows]]), both)
        noise_pred = np.array(output[:batch], dtype=np.float32)
        scale_column = row_scales[rows].reshape((-1,) + (1,) * (sample.ndim - 1))
        noise_pred[rows] = combine(output[batch:], noise_pred[rows], scale_column)
        return noise_pred

    return guided


def _rows_of(uncond: Mapping[str, np.ndarray], name: str, cond_array: np.ndarray) -> np.ndarray:
    if name not in uncond:
        raise ValueError(f"guidance: cond has '{name}' and uncond has only {sorted(uncond)}; give both the same names")
    if uncond[name].shape not in (cond_array.shape, (1, *cond_array.shape[1:])):
        raise ValueError(
            f"guidance: uncond '{name}' has shape {uncond[name].shape}; cond has {cond_array.shape}, "
            "and uncond must have as many rows, or one"
        )
    return np.broadcast_to(uncond[name], cond_array.shape)


def _owned(arrays: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
    copies = {name: np.array(array, order="C") for name, array in arrays.items()}
    for copy in copies.values():
        copy.flags.writeable = False
    return MappingProxyType(copies)
