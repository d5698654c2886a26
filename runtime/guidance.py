"""Classifier-free guidance (Ho & Salimans 2022) around a denoiser.

    noise_pred = uncond + guidance_scale (cond - uncond)

Conditional and unconditional rows go through the model in one call. guidance_scale 1 is off and costs nothing. A guided
denoiser is itself a `Denoise`, so samplers do not know about guidance. B is the number of samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtime.denoise import Denoise

GUIDANCE_OFF = 1.0


def combine(noise_uncond: np.ndarray, noise_cond: np.ndarray, guidance_scale: float | np.ndarray) -> np.ndarray:
    """The formula above, float32, as a new array; a scale array must broadcast against the predictions."""
    noise_pred = noise_cond - noise_uncond
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
