"""DDIM against diffusers.DDIMScheduler, step by step and over whole runs, with given noise."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from runtime.ddim import DDIMCoefficients, ddim_step, sample_loop
from runtime.schedule import BETA_SCHEDULES, PREDICTION_TYPES, TIMESTEP_SPACINGS, Schedule

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

STEP_TOLERANCE = 1e-6  # of the largest value of the step: ours is float32, the reference runs in float64
SHAPE = (1, 3, 6, 6)


def diffusers_scheduler(schedule: Schedule, num_steps: int, dtype):
    """Their scheduler; its float32 tables hold our values, so raising their precision changes only its arithmetic."""
    scheduler = diffusers.DDIMScheduler(**schedule.to_dict())
    scheduler.alphas_cumprod = scheduler.alphas_cumprod.to(dtype)
    scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.to(dtype)
    scheduler.set_timesteps(num_steps)
    return scheduler


def random_arrays(seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


def smooth_denoise(sample, timestep, cond):
    level = (timestep.astype(np.float32) / 1000)[:, None, None, None]
    return np.tanh(sample * (0.5 + 0.5 * level)).astype(np.float32) * cond["cond"]


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
def test_every_step_equals_diffusers(beta_schedule, prediction_type, spacing):
    for clip, to_one, offset, eta in itertools.product((True, False), (True, False), (0, 1), (0.0, 0.5, 1.0)):
        schedule = Schedule(
            beta_schedule=beta_schedule,
            prediction_type=prediction_type,
            timestep_spacing=spacing,
            clip_sample=clip,
            clip_sample_range=1.5,
            set_alpha_to_one=to_one,
            steps_offset=offset,
        )
        scheduler = diffusers_scheduler(schedule, 7, torch.float64)
        coefficients = DDIMCoefficients.for_steps(schedule, 7, eta)
        for step_index, timestep in enumerate(coefficients.timesteps):
            sample, output, noise = random_arrays(step_index)
            theirs = scheduler.step(
                torch.from_numpy(output).double(),
                int(timestep),
                torch.from_numpy(sample).double(),
                eta=eta,
                variance_noise=torch.from_numpy(noise).double(),
            )
            ours = coefficients.step(step_index, sample, output, noise)
            assert ours.dtype == np.float32
            scale = max(1.0, np.abs(theirs.prev_sample.numpy()).max())
            assert np.abs(ours - theirs.prev_sample.numpy()).max() <= STEP_TOLERANCE * scale
            x0 = theirs.pred_original_sample.numpy()
            if not clip:
                x0_error = np.abs(coefficients.pred_x0(step_index, sample, output) - x0).max()
                assert x0_error <= STEP_TOLERANCE * max(1.0, np.abs(x0).max())


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("num_steps", [4, 30, 50])
def test_a_whole_run_equals_the_unmodified_diffusers_scheduler(spacing, eta, num_steps):
    schedule = Schedule(timestep_spacing=spacing, clip_sample=False)
    scheduler = diffusers_scheduler(schedule, num_steps, torch.float32)
    noises = random_arrays(1, num_steps + 1)
    cond = {"cond": np.ones((1, 1, 1, 1), np.float32)}
    theirs = torch.from_numpy(noises[-1])
    for step_index, timestep in enumerate(scheduler.timesteps):
        output = smooth_denoise(theirs.numpy(), np.array([int(timestep)]), cond)
        noise = torch.from_numpy(noises[step_index])
        theirs = scheduler.step(torch.from_numpy(output), timestep, theirs, eta=eta, variance_noise=noise).prev_sample
    coefficients = DDIMCoefficients.for_steps(schedule, num_steps, eta)
    ours = sample_loop(smooth_denoise, noises[-1], cond, coefficients, noise=lambda step_index: noises[step_index])
    # 50 float32 roundings on their side; half an 8-bit level is 4e-3
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=5e-6, atol=5e-6)


def test_ddim_step_is_one_row_of_the_table():
    schedule = Schedule()
    sample, output, noise = random_arrays(2)
    timesteps, targets = schedule.timesteps(10), schedule.prev_timesteps(10)
    coefficients = DDIMCoefficients.for_steps(schedule, 10, eta=0.7)
    for k in range(10):
        one = ddim_step(schedule, output, int(timesteps[k]), int(targets[k]), sample, 0.7, noise)
        np.testing.assert_array_equal(one, coefficients.step(k, sample, output, noise))


def test_eta_zero_ignores_the_noise_argument():
    sample, output, noise = random_arrays(3)
    coefficients = DDIMCoefficients.for_steps(Schedule(), 10)
    np.testing.assert_array_equal(coefficients.step(4, sample, output, noise), coefficients.step(4, sample, output))


def test_eta_changes_the_step_and_asks_for_noise():
    sample, output, noise = random_arrays(3)
    coefficients = DDIMCoefficients.for_steps(Schedule(), 10, eta=1.0)
    assert coefficients.needs_noise(4) and not coefficients.needs_noise(9)  # the last step lands on a clean sample
    assert not np.array_equal(coefficients.step(4, sample, output, noise), coefficients.step(4, sample, output, -noise))
    with pytest.raises(ValueError, match="needs noise"):
        coefficients.step(4, sample, output)


def test_a_row_is_bit_equal_alone_and_inside_a_batch():
    rng = np.random.default_rng(4)
    sample, output = rng.standard_normal((2, 5, 3, 7, 9)).astype(np.float32)
    for clip in (True, False):
        coefficients = DDIMCoefficients.for_steps(Schedule(clip_sample=clip), 20)
        together = coefficients.step(3, sample, output)
        for row in range(5):
            np.testing.assert_array_equal(together[row], coefficients.step(3, sample[row], output[row]))


def test_inversion_undoes_a_denoising_step_with_the_same_prediction():
    schedule = Schedule(clip_sample=False)
    sample, output, _ = random_arrays(5)
    lower = ddim_step(schedule, output, 500, 480, sample)
    np.testing.assert_allclose(ddim_step(schedule, output, 480, 500, lower), sample, atol=2e-6)


def test_the_right_noise_prediction_recovers_the_clean_sample_in_one_step():
    schedule = Schedule(clip_sample=False)
    clean, noise, _ = random_arrays(6)
    alpha = schedule.alphas_cumprod[700]
    noisy = (np.sqrt(alpha) * clean + np.sqrt(1 - alpha) * noise).astype(np.float32)
    np.testing.assert_allclose(ddim_step(schedule, noise, 700, -1, noisy), clean, atol=1e-5)


def test_clipping_bounds_the_last_sample():
    sample, output, _ = 5 * random_arrays(7)
    for bound in (0.5, 1.0):
        schedule = Schedule(clip_sample_range=bound)
        assert np.abs(ddim_step(schedule, output, 20, -1, sample)).max() == pytest.approx(bound)


def test_the_loop_reports_each_step_and_leaves_its_input_alone():
    (noise,) = random_arrays(8, 1)
    before = noise.copy()
    seen = []
    coefficients = DDIMCoefficients.for_steps(Schedule(), 5)
    cond = {"cond": np.ones((1, 1, 1, 1), np.float32)}
    final = sample_loop(
        smooth_denoise, noise, cond, coefficients, on_step=lambda k, total, sample: seen.append((k, total, sample))
    )
    assert [(k, total) for k, total, _ in seen] == [(k, 5) for k in range(5)]
    np.testing.assert_array_equal(seen[-1][2], final)
    np.testing.assert_array_equal(noise, before)


@pytest.mark.parametrize(
    ("timesteps", "targets", "eta", "message"),
    [
        ([10, 5], [5], 0.0, "one length"),
        ([], [], 0.0, "one length"),
        ([1000], [980], 0.0, "1000"),
        ([-1], [-21], 0.0, "-1"),
        ([10], [1000], 0.0, "1000"),
        ([10], [5], 1.5, "eta=1.5"),
        ([10], [5], float("nan"), "eta=nan"),
        ([10], [30], 0.5, "inversion"),
    ],
)
def test_impossible_steps_are_refused(timesteps, targets, eta, message):
    with pytest.raises(ValueError, match=message):
        DDIMCoefficients.for_timesteps(Schedule(), np.array(timesteps), np.array(targets), eta)


def test_coefficients_cannot_be_reassigned():
    with pytest.raises(dataclasses.FrozenInstanceError):
        DDIMCoefficients.for_steps(Schedule(), 2).clip_range = None
