"""The schedule against published constants, diffusers' tables and diffusers' timesteps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from runtime.schedule import BETA_SCHEDULES, TIMESTEP_SPACINGS, Schedule

diffusers = pytest.importorskip("diffusers")


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
@pytest.mark.parametrize("num_train_timesteps", [1, 2, 3, 10, 101, 1000, 1024])
@pytest.mark.parametrize("betas", [(1e-4, 0.02), (0.00085, 0.012)])
def test_tables_equal_diffusers_bit_for_bit(beta_schedule, num_train_timesteps, betas):
    schedule = Schedule(num_train_timesteps, *betas, beta_schedule)
    theirs = diffusers.DDIMScheduler(**schedule.to_dict())
    np.testing.assert_array_equal(schedule.betas, theirs.betas.numpy())
    np.testing.assert_array_equal(schedule.alphas_cumprod, theirs.alphas_cumprod.numpy())
    assert schedule.alphas_cumprod.dtype == np.float64


def test_linear_schedule_ends_at_the_published_signal_level():
    schedule = Schedule()
    assert schedule.alphas_cumprod[0] == pytest.approx(1 - 1e-4, abs=1e-7)
    assert schedule.alphas_cumprod[-1] == pytest.approx(4.0358e-5, rel=1e-4)
    assert schedule.alphas_cumprod[330] == pytest.approx(0.33, abs=0.01)


@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
def test_alphas_cumprod_falls_within_zero_and_one(beta_schedule):
    table = Schedule(beta_schedule=beta_schedule).alphas_cumprod
    assert (np.diff(table) < 0).all() and 0 < table[-1] < table[0] < 1


def test_tables_are_shared_and_cannot_be_written():
    schedule = Schedule()
    assert schedule.alphas_cumprod is schedule.alphas_cumprod
    with pytest.raises(ValueError, match="read-only"):
        schedule.alphas_cumprod[0] = 0


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
@pytest.mark.parametrize("steps_offset", [0, 1])
def test_timesteps_equal_diffusers_for_every_number_of_steps(spacing, steps_offset):
    schedule = Schedule(timestep_spacing=spacing, steps_offset=steps_offset)
    theirs = diffusers.DDIMScheduler(**schedule.to_dict())
    compared = 0
    for num_steps in [*range(1, 151), 200, 250, 333, 499, 500, 999]:
        theirs.set_timesteps(num_steps)
        if len(theirs.timesteps) != num_steps:
            continue  # diffusers returns one timestep too many for some numbers of the trailing spacing
        np.testing.assert_array_equal(schedule.timesteps(num_steps), theirs.timesteps.numpy())
        compared += 1
    assert compared >= 145


@pytest.mark.parametrize("spacing", TIMESTEP_SPACINGS)
def test_timesteps_descend_strictly_and_have_the_asked_length(spacing):
    schedule = Schedule(timestep_spacing=spacing)
    for num_steps in range(1, 1001):
        timesteps = schedule.timesteps(num_steps)
        assert timesteps.dtype == np.int64 and len(timesteps) == num_steps
        assert (np.diff(timesteps) < 0).all() and timesteps[-1] >= 0 and timesteps[0] <= 999


def test_fifty_leading_steps_land_on_each_other():
    schedule = Schedule()
    timesteps, targets = schedule.timesteps(50), schedule.prev_timesteps(50)
    assert list(timesteps[:2]) == [980, 960] and timesteps[-1] == 0
    np.testing.assert_array_equal(targets[:-1], timesteps[1:])
    assert targets[-1] < 0


def test_eight_trailing_steps_are_the_known_list():
    assert list(Schedule(timestep_spacing="trailing").timesteps(8)) == [999, 874, 749, 624, 499, 374, 249, 124]


@pytest.mark.parametrize("num_steps", [0, -1, 1001, 2.5, True])
def test_a_number_of_steps_out_of_range_is_refused_by_name_and_range(num_steps):
    with pytest.raises(ValueError, match=r"num_inference_steps=.*1\.\.1000"):
        Schedule().timesteps(num_steps)


def test_an_offset_past_the_end_of_training_is_refused():
    with pytest.raises(ValueError, match="starts at timestep 1000"):
        Schedule(steps_offset=1).timesteps(1000)


def test_the_end_of_the_schedule_is_one_or_the_first_alpha():
    assert Schedule(set_alpha_to_one=True).alpha_cumprod_at(-1) == 1.0
    schedule = Schedule(set_alpha_to_one=False)
    assert schedule.alpha_cumprod_at(-20) == schedule.alphas_cumprod[0]
    with pytest.raises(ValueError, match="1000"):
        schedule.alpha_cumprod_at(1000)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_train_timesteps", 0),
        ("num_train_timesteps", True),
        ("beta_start", 0.0),
        ("beta_start", 0.5),
        ("beta_end", 1.0),
        ("beta_end", float("nan")),
        ("beta_schedule", "sigmoid"),
        ("prediction_type", "score"),
        ("timestep_spacing", "karras"),
        ("steps_offset", -1),
        ("set_alpha_to_one", 1),
        ("clip_sample", "false"),
        ("clip_sample_range", 0.0),
        ("clip_sample_range", float("inf")),
    ],
)
def test_a_wrong_field_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        Schedule(**{field: value})


def test_dict_survives_json_and_refuses_unknown_fields():
    schedule = Schedule(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)
    assert Schedule.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    with pytest.raises(ValueError, match="unknown field beta_strat"):
        Schedule.from_dict({"beta_strat": 1})


@pytest.mark.parametrize("cls", [diffusers.DDIMScheduler, diffusers.DDPMScheduler, diffusers.DDIMInverseScheduler])
def test_a_saved_diffusers_config_is_read(cls, tmp_path):
    cls(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1).save_pretrained(tmp_path)
    schedule = Schedule.from_diffusers(json.loads((tmp_path / "scheduler_config.json").read_text()))
    assert schedule == Schedule(beta_schedule="scaled_linear", clip_sample=False, steps_offset=1)


def test_the_config_of_an_early_published_model_is_read():
    config = {"_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_start": 0.0001}
    config |= {"beta_schedule": "linear", "clip_sample": True, "num_train_timesteps": 1000, "timestep_values": None}
    config |= {"trained_betas": None, "variance_type": "fixed_small"}
    assert Schedule.from_diffusers(config) == Schedule()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("thresholding", True),
        ("rescale_betas_zero_snr", True),
        ("trained_betas", [0.1, 0.2]),
        ("solver_order", 2),
        ("_class_name", "EulerDiscreteScheduler"),
        ("beta_schedule", "sigmoid"),
    ],
)
def test_a_diffusers_feature_we_do_not_have_is_refused_by_name(key, value):
    with pytest.raises(ValueError, match=key):
        Schedule.from_diffusers({key: value})
