"""L_simple against diffusers and by arithmetic."""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler

from runtime.schedule import Schedule
from training.diffusion import add_noise, sample_timesteps, simple_loss

SCHEDULE = Schedule()


def test_noising_equals_diffusers() -> None:
    torch.manual_seed(0)
    clean, noise = torch.randn(2, 4, 3, 8, 8)
    timesteps = torch.tensor([0, 10, 500, 999])
    expected = DDIMScheduler(**SCHEDULE.to_dict()).add_noise(clean, noise, timesteps)
    assert torch.allclose(add_noise(clean, noise, timesteps, SCHEDULE), expected, atol=1e-6)


VELOCITY = Schedule(prediction_type="v_prediction")


def test_a_perfect_prediction_has_no_loss() -> None:
    clean, noise = torch.randn(2, 2, 3, 4, 4)
    timesteps = torch.tensor([3, 900])
    assert not simple_loss(noise, clean, noise, timesteps, SCHEDULE).any()
    velocity = DDIMScheduler(**VELOCITY.to_dict()).get_velocity(clean, noise, timesteps)
    assert simple_loss(velocity, clean, noise, timesteps, VELOCITY).max() < 1e-10


def test_min_snr_weights_only_the_nearly_clean() -> None:
    noise, timesteps = torch.zeros(2, 1, 2, 2), torch.tensor([1, 900])
    alpha = torch.tensor(SCHEDULE.alphas_cumprod[1])
    early, late = simple_loss(torch.ones(2, 1, 2, 2), noise, noise, timesteps, SCHEDULE)
    assert torch.isclose(early, (5 * (1 - alpha) / alpha).float()) and late == 1


def test_what_an_error_of_the_clean_sample_costs() -> None:
    """x̂0 = (x - √(1-ᾱ) ε) / √ᾱ = √ᾱ x - √(1-ᾱ) v: wrong by 1 means ε wrong by √SNR and v by √(SNR + 1)."""
    zero, timesteps = torch.zeros(3, 1, 2, 2), torch.tensor([5, 400, 990])
    alpha = torch.tensor(SCHEDULE.alphas_cumprod, dtype=torch.float32)[timesteps].view(-1, 1, 1, 1)
    snr = alpha / (1 - alpha)
    by_noise = simple_loss(snr.sqrt() + zero, zero, zero, timesteps, SCHEDULE)
    by_velocity = simple_loss((snr + 1).sqrt() + zero, zero, zero, timesteps, VELOCITY)
    assert torch.allclose(by_noise, snr.clamp(max=5).flatten(), rtol=1e-4)
    assert torch.allclose(by_velocity, (snr + 1).clamp(max=5).flatten(), rtol=1e-4)


def test_timesteps_cover_the_schedule_and_stay_inside() -> None:
    torch.manual_seed(0)
    timesteps = sample_timesteps(20_000, SCHEDULE)
    assert timesteps.min() >= 0 and timesteps.max() <= 999
    assert timesteps.float().quantile(0.01) < 80 and timesteps.float().quantile(0.99) > 850
