"""L_simple: predict the noise (Ho et al. 2020), with the timestep distribution and the weighting the demo is trained with.

Letters: B batch, C H W sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.schedule import Schedule

LOGIT_MEAN, LOGIT_DEVIATION = (
    -0.4,
    1.0,
)  # t / T ~ logit-normal: most of a face is decided in the middle of the trajectory
MAX_SNR = 5.0  # min-SNR-γ (Hang et al. 2023)


def sample_timesteps(count: int, schedule: Schedule) -> Tensor:
    """(B,) int64 timesteps, logit-normal over the schedule."""
    position = torch.sigmoid(LOGIT_MEAN + LOGIT_DEVIATION * torch.randn(count))
    return (position * schedule.num_train_timesteps).long().clamp(max=schedule.num_train_timesteps - 1)


def add_noise(clean: Tensor, noise: Tensor, timesteps: Tensor, schedule: Schedule) -> Tensor:
    """`x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε`, float32."""
    alpha = _alpha(timesteps, schedule)
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def simple_loss(noise_pred: Tensor, noise: Tensor, timesteps: Tensor, schedule: Schedule) -> Tensor:
    """(B,) squared error of ε per row, weighted by min(SNR, 5) / SNR."""
    alpha = _alpha(timesteps, schedule).flatten()
    snr = alpha / (1 - alpha)
    error = (noise_pred.float() - noise).square().flatten(1).mean(1)
    return error * snr.clamp(max=MAX_SNR) / snr


def _alpha(timesteps: Tensor, schedule: Schedule) -> Tensor:
    table = torch.tensor(schedule.alphas_cumprod, dtype=torch.float32)
    return table[timesteps].view(-1, 1, 1, 1)
