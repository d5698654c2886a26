"""x̂0 and the differentiable DDIM chain against the runtime's sampler, and checkpointing against plain autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from runtime.ddim import DDIMCoefficients, sample_loop
from runtime.schedule import Schedule
from training.chain import ddim_chain, ddim_step, predict_clean
from training.diffusion import add_noise

NOISE = Schedule(clip_sample=False)
VELOCITY = Schedule(prediction_type="v_prediction", clip_sample=False)
CLIPPED = Schedule(clip_sample=True)
TIMESTEPS = torch.tensor([3, 250, 330])


class Network(nn.Module):
    """A denoiser with dropout, whose output depends on the timestep."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.dropout = nn.Conv2d(2, 2, 3, padding=1), nn.Dropout(0.3)

    def forward(self, sample: Tensor, timesteps: Tensor) -> Tensor:
        return self.dropout(torch.tanh(self.convolution(sample) + timesteps.view(-1, 1, 1, 1) / 1000))


def noised(schedule: Schedule) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(1)
    clean, noise = torch.randn(2, 3, 2, 4, 4)
    return clean, noise, add_noise(clean, noise, TIMESTEPS, schedule)


@pytest.mark.parametrize("schedule", [NOISE, VELOCITY])
def test_a_perfect_prediction_gives_back_the_clean_sample(schedule: Schedule) -> None:
    clean, noise, noisy = noised(schedule)
    alpha = torch.tensor(schedule.alphas_cumprod)[TIMESTEPS].float().view(-1, 1, 1, 1)
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * clean
    prediction = noise if schedule is NOISE else velocity
    assert torch.allclose(predict_clean(prediction, noisy, TIMESTEPS, schedule), clean, atol=1e-4)


def test_a_schedule_that_clips_is_clipped() -> None:
    _, noise, noisy = noised(CLIPPED)
    assert predict_clean(-5 * noise, noisy, TIMESTEPS, CLIPPED).abs().max() == 1


@pytest.mark.parametrize("schedule", [NOISE, VELOCITY, CLIPPED])
def test_a_chain_of_one_step_is_the_predicted_clean_sample(schedule: Schedule) -> None:
    network = Network().eval()
    _, _, noisy = noised(schedule)
    expected = predict_clean(network(noisy, TIMESTEPS), noisy, TIMESTEPS, schedule)
    assert torch.allclose(ddim_chain(network, noisy, TIMESTEPS, 1, schedule), expected, atol=1e-6)


@pytest.mark.parametrize("schedule", [NOISE, VELOCITY, CLIPPED])
@torch.no_grad()
def test_a_chain_is_the_runtimes_sampler_on_the_same_timesteps(schedule: Schedule) -> None:
    network, (_, _, noisy) = Network().eval(), noised(schedule)
    coefficients = DDIMCoefficients.for_timesteps(schedule, np.array([300, 200, 100]), np.array([200, 100, -1]))
    expected = sample_loop(
        lambda sample, t, _: network(torch.from_numpy(sample), torch.from_numpy(t)).numpy(),
        noisy.numpy(),
        {},
        coefficients,
    )
    made = ddim_chain(network, noisy, torch.full((3,), 300), 3, schedule)
    assert np.allclose(made.numpy(), expected, atol=1e-5)


def test_checkpointed_gradients_equal_plain_ones_dropout_included() -> None:
    network, (_, _, noisy) = Network(), noised(VELOCITY)
    gradients = []
    for is_plain in (False, True):
        network.zero_grad()
        torch.manual_seed(5)
        if is_plain:
            sample, start = noisy, TIMESTEPS.numpy()
            for now, after in ((start, start * 2 // 3), (start * 2 // 3, start // 3), (start // 3, start * 0 - 1)):
                timesteps = torch.from_numpy(now)
                sample = ddim_step(network(sample, timesteps), sample, timesteps, after, VELOCITY)
        else:
            sample = ddim_chain(network, noisy, TIMESTEPS, 3, VELOCITY)
        sample.square().sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert gradients[0] and all(torch.allclose(a, b, rtol=1e-5) for a, b in zip(*gradients, strict=True))


def test_a_longer_chain_ends_elsewhere_and_its_gradient_passes_every_step() -> None:
    network, (_, _, noisy) = Network().eval(), noised(VELOCITY)
    one, four = (ddim_chain(network, noisy, TIMESTEPS, steps, VELOCITY) for steps in (1, 4))
    assert not torch.allclose(one, four, atol=1e-3)
    noisy.requires_grad_(True)
    calls: list[Tensor] = []

    def counted(sample: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(timesteps)
        return network(sample, timesteps)

    ddim_chain(counted, noisy, TIMESTEPS, 4, VELOCITY).sum().backward()
    assert len(calls) == 8 and noisy.grad is not None  # each step once forward, once again for its gradient
