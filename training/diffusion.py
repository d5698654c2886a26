"""L_simple: predict the noise (Ho et al. 2020) or the velocity (Salimans & Ho 2022), with min-SNR weighting.

Letters: B batch, C H W sample.
"""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.schedule import Schedule

# Half of the timesteps are logit-normal in t / T, where most of a face is decided; half are uniform, because the former alone
# visits t > 0.9 T once in 200 samples, and what goes wrong there (colour, brightness) stays wrong to the end.
LOGIT_MEAN, LOGIT_DEVIATION, UNIFORM = -0.4, 1.0, 0.5
MAX_SNR = 5.0  # min-SNR-γ (Hang et al. 2023)


def sample_timesteps(count: int, schedule: Schedule) -> Tensor:
    """(B,) int64 timesteps over the whole schedule, denser in the middle."""
    position = torch.sigmoid(LOGIT_MEAN + LOGIT_DEVIATION * torch.randn(count))
    position = torch.where(torch.rand(count) < UNIFORM, torch.rand(count), position)
    return (position * schedule.num_train_timesteps).long().clamp(max=schedule.num_train_timesteps - 1)


def add_noise(clean: Tensor, noise: Tensor, timesteps: Tensor, schedule: Schedule) -> Tensor:
    """`x_t = √ᾱ_t x_0 + √(1-ᾱ_t) ε`, float32."""
    alpha = _alpha(timesteps, schedule)
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def simple_loss(prediction: Tensor, clean: Tensor, noise: Tensor, timesteps: Tensor, schedule: Schedule) -> Tensor:
    """(B,) squared error per row of what the schedule's `prediction_type` says the UNet predicts: ε, or v = √ᾱ ε - √(1-ᾱ) x_0.

    Plain, ε weighs an error of x_0 by SNR and v by SNR + 1: both weights are cut at 5, so that the nearly clean does not rule.
    """
    alpha = _alpha(timesteps, schedule)
    snr = (alpha / (1 - alpha)).flatten()
    if schedule.prediction_type == "epsilon":
        target, weight = noise, snr.clamp(max=MAX_SNR) / snr
    elif schedule.prediction_type == "v_prediction":
        target, weight = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean, (snr + 1).clamp(max=MAX_SNR) / (snr + 1)
    else:
        raise ValueError(f"prediction_type {schedule.prediction_type!r} has no loss here; use epsilon or v_prediction")
    return (prediction.float() - target).square().flatten(1).mean(1) * weight


def _alpha(timesteps: Tensor, schedule: Schedule) -> Tensor:
    table = torch.tensor(schedule.alphas_cumprod, dtype=torch.float32, device=timesteps.device)
    return table[timesteps].view(-1, 1, 1, 1)
