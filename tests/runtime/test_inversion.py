"""Inversion against eqs 9 and 10 written out, against diffusers, and against DiffusionCLIP's loop; then what it keeps and refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDIMInverseScheduler
from scipy.fft import dctn, idctn

from runtime.batcher import StepBatcher
from runtime.ddim import DDIMSolver
from runtime.errors import EngineError
from runtime.guidance import Guidance
from runtime.inversion import CLEAN, Inversion, InversionCoefficients, edit_timesteps, steps_back
from runtime.job import Job
from runtime.schedule import PREDICTION_TYPES, Schedule
from runtime.trajectory import GuidedTrajectory, walk
from training.data.synthetic.world import World

COND = {"cond": np.ones(1, np.float32)}
TIMESTEPS = edit_timesteps(500, 20)
PHOTO = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8)).astype(np.float32)


def epsilon(sample, timestep, cond):
    """A model whose prediction depends on the sample, on its neighbours, on the timestep and on cond."""
    late = (timestep / 1000).reshape(-1, 1, 1, 1)
    mixed = 0.7 * sample + 0.3 * np.roll(sample, 1, axis=-1) + late + 0.1 * cond["cond"][:, :, None, None]
    return np.tanh(mixed).astype(np.float32)


def predict(schedule):
    """`epsilon`, said as the schedule's prediction type."""

    def denoise(sample, timestep, cond):
        eps = epsilon(sample, timestep, cond)
        alpha = schedule.alphas_cumprod[timestep].reshape(-1, 1, 1, 1)
        x0 = (sample - np.sqrt(1 - alpha) * eps) / np.sqrt(alpha)
        velocity = np.sqrt(alpha) * eps - np.sqrt(1 - alpha) * x0
        return {"epsilon": eps, "sample": x0, "v_prediction": velocity}[schedule.prediction_type].astype(np.float32)

    return denoise


def inverted(schedule, denoise, photo=PHOTO, timesteps=TIMESTEPS, **settings):
    inversion = Inversion(schedule, photo, COND, timesteps, **settings)
    walk(inversion, denoise)
    return inversion.result


def restored(schedule, denoise, sample, timesteps=TIMESTEPS):
    solver = DDIMSolver(steps_back(schedule, timesteps), sample.shape)
    return walk(GuidedTrajectory(sample, Guidance(COND), solver), denoise)


@pytest.mark.parametrize("t0", [300, 400, 500, 600])
@pytest.mark.parametrize("steps", [6, 20, 40, 50])
def test_the_grid_is_diffusionclip_s(t0, steps):
    assert edit_timesteps(t0, steps).tolist() == [int(s) for s in np.linspace(0, 1, steps) * t0]


@pytest.mark.parametrize(("t0", "steps"), [(1, 2), (7, 8), (500, 501), (999, 1000), (500, 1), (999, 37)])
def test_every_grid_ends_at_t0_and_visits_nothing_twice(t0, steps):
    grid = edit_timesteps(t0, steps)
    assert len(grid) == steps and grid[-1] == t0 and (np.diff(grid) > 0).all()
    assert grid[0] == (0 if steps > 1 else t0)


@pytest.mark.parametrize("steps", [0, 12])
def test_more_steps_than_timesteps_are_refused(steps):
    with pytest.raises(ValueError, match=f"got {steps}; an edit from timestep 10 takes 1..11 steps"):
        edit_timesteps(10, steps)


@pytest.mark.parametrize("timesteps", [[], [5, 5], [5, 3], [-1, 5]])
def test_a_way_that_does_not_lead_up_is_refused(timesteps):
    with pytest.raises(ValueError, match="must ascend"):
        InversionCoefficients.for_timesteps(Schedule(), np.array(timesteps))


def test_a_step_is_equations_9_and_10_written_out():
    schedule, rng = Schedule(), np.random.default_rng(1)
    coefficients = InversionCoefficients.for_timesteps(schedule, np.array([0, 200, 500]))
    x, eps = rng.standard_normal((2, 3, 4, 4)).astype(np.float32)
    for step, (start, end) in enumerate([(CLEAN, 0), (0, 200), (200, 500)]):
        alpha, after = (schedule.alpha_cumprod_at(t) for t in (start, end))
        x0 = (x - np.sqrt(1 - alpha) * eps) / np.sqrt(alpha)
        np.testing.assert_allclose(
            coefficients.step(step, x, eps), np.sqrt(after) * x0 + np.sqrt(1 - after) * eps, atol=1e-6
        )


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_all_prediction_types_say_the_same(prediction_type):
    said = inverted(Schedule(prediction_type=prediction_type), predict(Schedule(prediction_type=prediction_type)))
    np.testing.assert_allclose(said.sample, inverted(Schedule(), epsilon).sample, atol=2e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("set_alpha_to_one", [True, False])
def test_steps_are_those_of_diffusers_inverse_scheduler(prediction_type, set_alpha_to_one):
    """Its `timestep` is where a step lands. From the clean sample it knows no level of v, ours asks at timestep 0: compared from there on."""
    schedule = Schedule(prediction_type=prediction_type, set_alpha_to_one=set_alpha_to_one, clip_sample=False)
    theirs = DDIMInverseScheduler(
        beta_schedule="linear",
        prediction_type=prediction_type,
        set_alpha_to_one=set_alpha_to_one,
        clip_sample=False,
        timestep_spacing="leading",
    )
    theirs.set_timesteps(20)
    lands_on = theirs.timesteps.numpy()
    coefficients = InversionCoefficients.for_timesteps(schedule, lands_on)
    rng = np.random.default_rng(2)
    for step in range(0 if prediction_type == "epsilon" else 1, len(lands_on)):
        sample, output = rng.standard_normal((2, 1, 3, 4, 4)).astype(np.float32)
        expected = theirs.step(torch.from_numpy(output), int(lands_on[step]), torch.from_numpy(sample)).prev_sample
        np.testing.assert_allclose(coefficients.step(step, sample, output), expected.numpy(), atol=2e-6)


def test_there_and_back_is_diffusionclip_s_loop():
    """Its photo counts as the sample of timestep 0, so its way up begins where our first step lands."""
    schedule = Schedule()
    seq = [int(s) for s in np.linspace(0, 1, 20) * 500]
    seq_next = [-1, *seq[:-1]]

    def step(x, t, t_next):  # its `denoising_step`, sampling_type "ddim", eta 0
        eps = epsilon(x[None], np.array([t]), {"cond": COND["cond"][None]})[0]
        at = schedule.alphas_cumprod[t]
        at_next = 1.0 if t_next == -1 else schedule.alphas_cumprod[t_next]
        x0 = (x - eps * np.sqrt(1 - at)) / np.sqrt(at)
        return np.sqrt(at_next) * x0 + np.sqrt(1 - at_next) * eps

    ours = inverted(schedule, epsilon, keep_levels=True)
    x = ours.levels[1].astype(np.float64)
    for level, (i, j) in enumerate(zip(seq_next[1:], seq[1:], strict=True), 2):
        x = step(x, i, j)
        np.testing.assert_allclose(ours.levels[level], x, atol=1e-5)
    for i, j in zip(reversed(seq), reversed(seq_next), strict=True):
        x = step(x, i, j)
    np.testing.assert_allclose(restored(schedule, epsilon, ours.sample), x, atol=1e-4)


def test_pred_x0_is_never_clipped_on_either_way():
    schedule = Schedule(clip_sample=True, clip_sample_range=1.0)
    bright = 5 * PHOTO
    far = inverted(schedule, epsilon, bright, fixed_point_iterations=8)
    np.testing.assert_allclose(restored(schedule, epsilon, far.sample), bright, atol=1e-4)


def test_where_epsilon_is_the_same_everywhere_the_way_back_is_exact():
    def constant(sample, timestep, cond):
        return np.full_like(sample, 0.5)

    up = inverted(Schedule(), constant)
    np.testing.assert_allclose(restored(Schedule(), constant, up.sample), PHOTO, atol=1e-5)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_each_fixed_point_iteration_brings_the_round_trip_nearer(prediction_type):
    schedule = Schedule(prediction_type=prediction_type)
    errors = []
    for iterations in (0, 1, 2, 6):
        up = inverted(schedule, predict(schedule), fixed_point_iterations=iterations)
        errors.append(np.abs(restored(schedule, predict(schedule), up.sample) - PHOTO).max())
    assert errors[0] > 0.1
    assert errors[1] < errors[0] / 5 and errors[2] < errors[1] / 5
    assert errors[3] < 1e-3 if prediction_type == "sample" else errors[3] < 1e-5


def test_the_model_is_asked_where_it_is_said_to_be():
    asked = []

    def watched(sample, timestep, cond):
        asked.extend(timestep.tolist())
        return epsilon(sample, timestep, cond)

    inverted(Schedule(), watched, timesteps=np.array([0, 250, 500]))
    assert asked == [0, 0, 250]  # eq. 9: where each step starts; the clean sample has no timestep of its own
    asked.clear()
    inverted(Schedule(), watched, timesteps=np.array([0, 250, 500]), fixed_point_iterations=2)
    assert asked == [0, 0, 0, 0, 250, 250, 250, 500, 500]  # then where it lands
    asked.clear()
    inverted(Schedule(), watched, timesteps=np.array([0, 250, 500]), keep_residuals=True)
    assert asked == [0, 0, 250, 500]  # and once at the end


def test_it_is_one_unguided_row_and_counts_its_steps():
    inversion = Inversion(Schedule(), PHOTO, COND, np.array([0, 500]), fixed_point_iterations=1)
    done = []
    while (evaluation := inversion.evaluation()) is not None:
        assert inversion.evaluation().timestep == evaluation.timestep, "asking changes nothing"
        assert evaluation.conds == (COND,) and evaluation.sample.dtype == np.float32
        inversion.advance(epsilon(evaluation.sample[None], np.array([evaluation.timestep]), {"cond": np.ones((1, 1))}))
        done.append(inversion.steps_done)
    assert inversion.max_rows == 1 and done == [0, 1, 1, 2] and inversion.num_steps == 2


def test_there_is_no_result_before_the_end():
    with pytest.raises(ValueError, match="0 of 20 steps done"):
        Inversion(Schedule(), PHOTO, COND, TIMESTEPS).result  # noqa: B018


def test_levels_begin_with_the_photo_and_end_with_the_sample():
    kept = inverted(Schedule(), epsilon, keep_levels=True)
    assert kept.levels.shape == (21, 3, 8, 8) and kept.residuals is None
    np.testing.assert_array_equal(kept.levels[0], PHOTO)
    np.testing.assert_array_equal(kept.levels[-1], kept.sample)
    assert inverted(Schedule(), epsilon).levels is None


@pytest.mark.parametrize("iterations", [0, 1])
def test_a_residual_is_what_the_step_back_misses_of_the_level_below(iterations):
    kept = inverted(Schedule(), epsilon, keep_levels=True, keep_residuals=True, fixed_point_iterations=iterations)
    back = steps_back(Schedule(), TIMESTEPS)
    for level, residual in enumerate(kept.residuals):
        sample, timestep = kept.levels[level + 1], TIMESTEPS[level : level + 1]
        output = epsilon(sample[None], timestep, {"cond": np.ones((1, 1), np.float32)})[0]
        landed = back.step(len(TIMESTEPS) - 1 - level, sample, output)
        np.testing.assert_allclose(landed + residual, kept.levels[level], atol=1e-6)


def test_what_is_kept_is_read_only_and_knows_its_size():
    kept = inverted(Schedule(), epsilon, keep_levels=True, keep_residuals=True)
    assert kept.num_bytes == (1 + 1 + 21 + 20) * PHOTO.nbytes
    np.testing.assert_array_equal(kept.clean, PHOTO)
    assert not any(array.flags.writeable for array in (kept.clean, kept.sample, kept.levels, kept.residuals))
    assert kept.sample.dtype == kept.levels.dtype == kept.residuals.dtype == np.float32


def test_the_photo_is_left_as_it_was():
    photo = PHOTO.copy()
    inverted(Schedule(), epsilon, photo, keep_levels=True)
    np.testing.assert_array_equal(photo, PHOTO)
    assert photo.flags.writeable


@pytest.mark.parametrize("iterations", [0, 1])
def test_a_model_that_gives_nan_is_named_with_the_step(iterations):
    def broken(sample, timestep, cond):
        return epsilon(sample, timestep, cond) * (np.nan if timestep[0] >= 250 else 1)

    with pytest.raises(EngineError, match="not finite at inversion step 2" if iterations == 0 else "inversion step 1"):
        inverted(Schedule(), broken, timesteps=np.array([0, 250, 500]), fixed_point_iterations=iterations)


def test_iterations_below_zero_are_refused():
    with pytest.raises(ValueError, match="fixed_point_iterations is -1"):
        Inversion(Schedule(), PHOTO, COND, TIMESTEPS, fixed_point_iterations=-1)


def test_an_inversion_among_strangers_is_bit_equal_to_one_alone():
    def rowwise(sample, timestep, cond):  # BLAS-free: each row from itself
        return np.concatenate([epsilon(sample[k : k + 1], timestep[k : k + 1], {n: c[k : k + 1] for n, c in cond.items()}) for k in range(len(sample))])  # fmt: skip

    alone = inverted(Schedule(), rowwise, fixed_point_iterations=1)
    batcher = StepBatcher(rowwise, max_batch_rows=8)
    jobs = [Inversion(Schedule(), photo, COND, TIMESTEPS, 1) for photo in (-PHOTO, PHOTO, PHOTO / 2)]
    noise = GuidedTrajectory(PHOTO, Guidance(COND, {"cond": np.zeros(1, np.float32)}, 3.0), DDIMSolver(steps_back(Schedule(), edit_timesteps(999, 7)), PHOTO.shape))  # fmt: skip
    futures = [batcher.submit(Job(str(k), trajectory)) for k, trajectory in enumerate([noise, *jobs])]
    batcher.run_until_idle()
    np.testing.assert_array_equal(futures[2].result().sample, alone.sample)


# --- the round trip, t0 = 500 with 50 steps inside


def ideal(mean, variance):
    """The exact ε of an ideally trained pixel model for pictures that are Gaussian with `variance` (H, W) in the cosine basis."""

    def denoise(sample, timestep, cond):
        alpha = Schedule().alphas_cumprod[timestep].reshape(-1, 1, 1, 1)
        waves = dctn(sample - np.sqrt(alpha) * mean, axes=(2, 3), norm="ortho")
        kept = np.sqrt(alpha) * variance / (alpha * variance + 1 - alpha)
        x0 = mean + idctn(waves * kept, axes=(2, 3), norm="ortho")
        return ((sample - np.sqrt(alpha) * x0) / np.sqrt(1 - alpha)).astype(np.float32)

    return denoise


@pytest.mark.parametrize(("iterations", "least_db"), [(0, 30), (1, 45), (2, 55)])
def test_a_pixel_model_gives_a_portrait_back(iterations, least_db):
    """38, 51 and 61 dB. The model knows the mean and the spectrum of portraits, and no more."""
    world, size = World(0), 64
    known = np.stack([world.portrait(person, 0, size) for person in range(24)]) / 127.5 - 1
    mean = known.mean(0).transpose(2, 0, 1)
    variance = np.maximum((dctn(known - known.mean(0), axes=(1, 2), norm="ortho") ** 2).mean((0, 3)), 1e-5)
    photo = (world.portrait(99, 0, size) / 127.5 - 1).transpose(2, 0, 1).astype(np.float32)
    grid, model = edit_timesteps(500, 50), ideal(mean, variance)
    up = inverted(Schedule(), model, photo, grid, fixed_point_iterations=iterations)
    assert up.sample.std() > 1.5 * photo.std(), "half of it is noise by then"
    back = restored(Schedule(), model, up.sample, grid)
    assert 10 * np.log10(4 / np.mean((back - photo) ** 2)) > least_db
