"""DPM-Solver++ and UniPC against diffusers' schedulers, and against a model whose trajectories are known exactly."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from runtime.ddim import DDIMCoefficients, DDIMSolver
from runtime.dpm_solver import FEW_STEPS, DPMSolver, DPMSolverCoefficients
from runtime.guidance import Guidance
from runtime.multistep import NoiseLevels
from runtime.schedule import PREDICTION_TYPES, TIMESTEP_SPACINGS, Schedule
from runtime.trajectory import GuidedTrajectory, walk
from runtime.unipc import UniPCCoefficients, UniPCSolver

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 4, 4)
TOLERANCE = 2e-6  # of a run's largest value: ours rounds to float32 at each step, the reference works in float64


def dpm_solver(schedule: Schedule, num_steps: int, shape=SHAPE) -> DPMSolver:
    return DPMSolver(DPMSolverCoefficients.for_steps(schedule, num_steps), shape)


def unipc(schedule: Schedule, num_steps: int, shape=SHAPE) -> UniPCSolver:
    return UniPCSolver(UniPCCoefficients.for_steps(schedule, num_steps), shape)


def ddim(schedule: Schedule, num_steps: int, shape=SHAPE) -> DDIMSolver:
    return DDIMSolver(DDIMCoefficients.for_steps(schedule, num_steps), shape)


THEIRS = {dpm_solver: diffusers.DPMSolverMultistepScheduler, unipc: diffusers.UniPCMultistepScheduler}
OURS = pytest.mark.parametrize("solver", list(THEIRS), ids=lambda solver: solver.__name__)


def their_scheduler(solver, schedule: Schedule, num_steps: int):
    """Theirs with our settings; its sigmas are computed again in float64 from the table, so that only formulas are compared."""
    fields = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "prediction_type", "timestep_spacing")
    their_class = THEIRS[solver]
    scheduler = their_class(
        **{name: getattr(schedule, name) for name in (*fields, "steps_offset")},
        final_sigmas_type="zero" if schedule.set_alpha_to_one else "sigma_min",
        thresholding=schedule.clip_sample,  # with the sample's greatest value 1, their dynamic threshold is a plain clip to ±1
        sample_max_value=1.0,
    )
    scheduler.set_timesteps(num_steps)
    table = schedule.alphas_cumprod
    alphas = [table[int(t)] for t in scheduler.timesteps] + [1.0 if schedule.set_alpha_to_one else table[0]]
    scheduler.sigmas = torch.from_numpy(np.sqrt((1 - np.array(alphas)) / np.array(alphas)))
    return scheduler


def outputs_and_noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@OURS
def test_every_step_of_a_run_equals_diffusers(solver, prediction_type, spacing):
    for num_steps in (1, 2, 3, 7, FEW_STEPS - 1, FEW_STEPS, 20):
        for clip, to_one, offset in ((False, True, 0), (False, False, 1), (True, True, 1)):
            schedule = Schedule(
                prediction_type=prediction_type,
                timestep_spacing=spacing,
                clip_sample=clip,
                set_alpha_to_one=to_one,
                steps_offset=offset,
            )
            scheduler = their_scheduler(solver, schedule, num_steps)
            own = solver(schedule, num_steps)
            np.testing.assert_array_equal(own.timesteps, scheduler.timesteps.numpy())
            *outputs, noise = outputs_and_noise(num_steps + 1)
            ours, theirs = noise.copy(), torch.from_numpy(noise).double()[None]
            for step_index, output in enumerate(outputs):
                reference = torch.from_numpy(output).double()[None]
                theirs = scheduler.step(reference, scheduler.timesteps[step_index], theirs).prev_sample
                own.step(step_index, ours, output)
                scale = max(1.0, float(theirs.abs().max()))
                error = np.abs(ours - theirs.numpy()[0]).max() / scale
                assert error <= TOLERANCE, (num_steps, clip, to_one, step_index)


@pytest.mark.parametrize("beta_schedule", ["scaled_linear", "squaredcos_cap_v2"])
@OURS
def test_other_noise_schedules_equal_diffusers_over_a_run_of_a_smooth_model(solver, beta_schedule):
    schedule = Schedule(beta_schedule=beta_schedule, clip_sample=False, timestep_spacing="linspace")
    scheduler = their_scheduler(solver, schedule, 25)
    noise = outputs_and_noise(1)[0]
    theirs = torch.from_numpy(noise)[None].double()
    for timestep in scheduler.timesteps:
        theirs = scheduler.step(smooth(theirs), timestep, theirs).prev_sample
    ours = run(solver(schedule, 25), noise, smooth)
    np.testing.assert_allclose(ours, theirs.numpy()[0], rtol=5e-6, atol=5e-6)


def smooth(sample):
    return torch.tanh(sample / 2) if isinstance(sample, torch.Tensor) else np.tanh(sample / 2)


def run(solver, noise: np.ndarray, model) -> np.ndarray:
    trajectory = GuidedTrajectory(noise, Guidance({}), solver)
    while (evaluation := trajectory.evaluation()) is not None:
        trajectory.advance(model(evaluation.sample)[None])
    return trajectory.sample


def exact_error(solver, num_steps: int, prediction_type: str = "epsilon") -> float:
    """Of a run with the exact model for data from N(0, 1), where the answer is known: every x_t of a trajectory is the same."""
    schedule = Schedule(clip_sample=False, timestep_spacing="trailing", prediction_type=prediction_type)
    noise = outputs_and_noise(1)[0]

    def denoise(sample, timestep, cond):
        alpha = schedule.alphas_cumprod[timestep][:, None, None, None]
        epsilon, x0 = np.sqrt(1 - alpha) * sample, np.sqrt(alpha) * sample
        velocity = np.sqrt(alpha) * epsilon - np.sqrt(1 - alpha) * x0
        return {"epsilon": epsilon, "sample": x0, "v_prediction": velocity}[prediction_type].astype(np.float32)

    found = walk(GuidedTrajectory(noise, Guidance({}), solver(schedule, num_steps)), denoise)
    return float(np.abs(found - noise).max() / np.abs(noise).max())


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@OURS
def test_on_a_model_with_a_known_answer_it_is_closer_than_ddim_with_twice_the_steps(solver, prediction_type):
    for num_steps in (10, 20, 40):
        assert exact_error(solver, num_steps, prediction_type) < exact_error(ddim, 2 * num_steps, prediction_type)


@OURS
def test_it_reports_x0_without_touching_the_run(solver):
    schedule, (output, sample) = Schedule(clip_sample=False), outputs_and_noise(2)
    own = solver(schedule, 10)
    alpha = schedule.alphas_cumprod[own.timesteps[0]]
    x0 = own.pred_x0(0, sample, output)
    np.testing.assert_allclose(x0, (sample - np.sqrt(1 - alpha) * output) / np.sqrt(alpha), rtol=1e-5, atol=1e-5)
    watched, blind = sample.copy(), sample.copy()
    own.step(0, watched, output)
    own.pred_x0(1, watched, output)
    own.step(1, watched, output)
    other = solver(schedule, 10)
    other.step(0, blind, output)
    other.step(1, blind, output)
    np.testing.assert_array_equal(watched, blind)


@OURS
def test_the_first_step_reads_no_memory_that_nobody_wrote(solver):
    schedule, (output, noise) = Schedule(clip_sample=False), outputs_and_noise(2)
    own = solver(schedule, 10)
    for value in vars(own).values():
        for array in value if isinstance(value, list) else [value]:
            if isinstance(array, np.ndarray) and array.dtype == np.float32:
                array.fill(np.nan)
    for step_index in range(3):
        own.step(step_index, noise, output)
    assert np.isfinite(noise).all()


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
@pytest.mark.parametrize("to_one", [True, False])
@OURS
def test_every_number_of_steps_gives_finite_factors_or_a_clear_refusal(solver, to_one, spacing):
    schedule = Schedule(num_train_timesteps=60, timestep_spacing=spacing, set_alpha_to_one=to_one)
    for num_steps in range(1, 62):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                own = solver(schedule, num_steps)
            except ValueError as error:
                assert f"num_inference_steps={num_steps}" in str(error) and num_steps > 29
                continue
        assert len(own.timesteps) == num_steps and (np.diff(own.timesteps) < 0).all()
        sample = outputs_and_noise(1)[0]
        for step_index in range(num_steps):
            own.step(step_index, sample, np.float32(0.1) * sample)
        assert np.isfinite(sample).all()


def test_levels_end_where_the_schedule_says():
    clean = NoiseLevels.for_steps(Schedule(), 5)
    assert clean.sigma[-1] == 0 and clean.lambdas[-1] == np.inf
    almost = NoiseLevels.for_steps(Schedule(set_alpha_to_one=False), 5)
    assert almost.alpha[-1] ** 2 == pytest.approx(Schedule().alphas_cumprod[0])


@pytest.mark.parametrize("offset", [500, 900])
def test_an_offset_past_the_end_of_training_is_refused(offset):
    with pytest.raises(ValueError, match="take fewer steps"):
        NoiseLevels.for_steps(Schedule(steps_offset=offset), 3)
