"""From the UNet's prediction to a clean sample, with gradients: x̂0 in one step, or the end of a short DDIM chain (eqs 9, 29).

The factors are the runtime's own, so training sees the pictures that sampling makes. Rows may be at different timesteps.
Letters: B batch, C H W sample.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from runtime.ddim import DDIMCoefficients
from runtime.schedule import Schedule

CLEAN = -1  # the runtime's timestep after the last


def predict_clean(prediction: Tensor, sample: Tensor, timesteps: Tensor, schedule: Schedule) -> Tensor:
    """x̂0 (B, C, H, W) float32 that the UNet's `prediction` at `timesteps` (B,) implies, clipped if the schedule clips."""
    rows = timesteps.cpu().numpy()
    factors = DDIMCoefficients.for_timesteps(schedule, rows, np.full_like(rows, CLEAN))
    clean = _scaled(sample, factors.x0_sample) + _scaled(prediction, factors.x0_output)
    return clean if factors.clip_range is None else clean.clamp(-factors.clip_range, factors.clip_range)


def ddim_step(prediction: Tensor, sample: Tensor, timesteps: Tensor, targets: np.ndarray, schedule: Schedule) -> Tensor:
    """The deterministic step of each row from `timesteps` (B,) to `targets` (B,), where -1 is the clean end."""
    factors = DDIMCoefficients.for_timesteps(schedule, timesteps.cpu().numpy(), targets)
    moved = _scaled(sample, factors.sample_scale) + _scaled(prediction, factors.output_scale)
    if factors.clip_range is None:
        return moved
    return moved + _scaled(predict_clean(prediction, sample, timesteps, schedule), factors.x0_scale)


def ddim_chain(
    denoise: Callable[[Tensor, Tensor], Tensor], sample: Tensor, timesteps: Tensor, steps: int, schedule: Schedule
) -> Tensor:
    """The clean end (B, C, H, W) of `steps` DDIM steps, evenly spaced from each row's own timestep.

    `denoise(sample, timesteps)` is the UNet under its conditions. Every step is a gradient checkpoint: memory holds one step's
    activations, however long the chain, for one more forward pass of each. One step gives exactly `predict_clean`.
    """
    start = timesteps.cpu().numpy()
    visited = [start * (steps - k) // steps for k in range(steps)] + [np.full_like(start, CLEAN)]
    for now, after in pairwise(visited):
        sample = checkpoint(_denoised_step, denoise, sample, now, after, schedule, use_reentrant=False)
    return sample


def _denoised_step(
    denoise: Callable[[Tensor, Tensor], Tensor], sample: Tensor, now: np.ndarray, after: np.ndarray, schedule: Schedule
) -> Tensor:
    timesteps = torch.from_numpy(now).to(sample.device)
    return ddim_step(denoise(sample, timesteps), sample, timesteps, after, schedule)


def _scaled(sample: Tensor, factor: np.ndarray) -> Tensor:
    return sample.float() * torch.from_numpy(factor).to(sample.device).view(-1, 1, 1, 1)
