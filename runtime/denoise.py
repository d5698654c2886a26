"""What it means to denoise: the one callable that samplers, guidance and the batcher are written over.

An engine, a guidance closure and a test's lambda all satisfy `Denoise`. Nothing here knows what computes the answer.

    noise_pred = denoise(sample, timestep, cond)

    sample      (B, C, H, W) float32   the array being denoised, at the noise level of `timestep`
    timestep    (B,) int64             training timestep of each row, 0..num_train_timesteps-1; rows may differ
    cond        name -> (B, ...)       the conditioning arrays; their names are the model's, not this project's
    noise_pred  (B, C, H, W) float32   the model's output; `Schedule.prediction_type` says what it predicts

The caller owns the three inputs, which the callee only reads, and may reuse their memory after the call; the output is
the callee's and is read before the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

Denoise = Callable[[np.ndarray, np.ndarray, Mapping[str, np.ndarray]], np.ndarray]
