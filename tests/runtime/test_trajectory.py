"""Guided trajectories: their own memory, their rows at each step, and the plain walk."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.ddim import DDIMCoefficients, DDIMSolver, sample_loop
from runtime.guidance import Guidance, combine, guide
from runtime.noise import gaussian
from runtime.schedule import Schedule
from runtime.solvers import SOLVERS
from runtime.trajectory import GuidedTrajectory, walk

SHAPE = (2, 4, 4)
SCHEDULE = Schedule(timestep_spacing="trailing")
UNCOND = {"cond": np.zeros(6, np.float32)}


def denoise(sample, timestep, cond):
    level = (timestep.astype(np.float32) / 1000)[:, None, None, None]
    return np.tanh(sample * level + cond["cond"].mean(axis=1)[:, None, None, None])


def cond(number: int = 1) -> dict[str, np.ndarray]:
    return {"cond": gaussian(number, 1, 6)}


def trajectory(name: str = "ddim", scale: float = 1.0, interval=None, steps: int = 10, sample=None) -> GuidedTrajectory:
    sample = gaussian(1, 0, SHAPE) if sample is None else sample
    return GuidedTrajectory(sample, Guidance(cond(), UNCOND, scale, interval), SOLVERS[name](SCHEDULE, steps, SHAPE))


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_walk_equals_the_plain_loop_bit_for_bit(scale):
    guided = guide(denoise, {name: array[None] for name, array in UNCOND.items()}, scale)
    batched = {name: array[None] for name, array in cond().items()}
    expected = sample_loop(guided, gaussian(1, 0, SHAPE)[None], batched, DDIMCoefficients.for_steps(SCHEDULE, 10))
    np.testing.assert_array_equal(walk(trajectory(scale=scale), denoise), expected[0])


@pytest.mark.parametrize("name", SOLVERS)
def test_a_trajectory_owns_its_arrays_and_moves_one_in_place(name):
    sample, told = gaussian(1, 0, SHAPE), cond()
    before = sample.copy()
    own = GuidedTrajectory(sample, Guidance(told, UNCOND, 2.0), SOLVERS[name](SCHEDULE, 5, SHAPE))
    where = own.sample
    expected = walk(trajectory(name, 2.0, steps=5), denoise)
    told["cond"][:] = np.nan
    np.testing.assert_array_equal(walk(own, denoise), expected)
    assert own.sample is where and not np.shares_memory(where, sample)
    np.testing.assert_array_equal(sample, before)


@pytest.mark.parametrize("name", SOLVERS)
def test_steps_are_counted_and_an_evaluation_may_be_asked_for_again(name):
    own = trajectory(name, steps=4)
    seen = []
    while (evaluation := own.evaluation()) is not None:
        again = own.evaluation()
        assert again.timestep == evaluation.timestep and again.sample is evaluation.sample is own.sample
        assert all(one is other for one, other in zip(again.conds, evaluation.conds, strict=True))
        seen.append((own.steps_done, evaluation.timestep))
        own.advance(np.zeros((1, *SHAPE), np.float32))
    assert own.num_steps == own.steps_done == 4
    assert [k for k, _ in seen] == [0, 1, 2, 3] and sorted((t for _, t in seen), reverse=True) == [t for _, t in seen]


def test_guidance_acts_inside_its_interval_only_and_outside_costs_one_row():
    own = trajectory(scale=3.0, interval=(300, 699))  # timesteps 999, 899, …, 99
    rows, expected = [], gaussian(1, 0, SHAPE)
    coefficients = DDIMCoefficients.for_steps(SCHEDULE, 10)
    for k, timestep in enumerate(coefficients.timesteps):
        evaluation = own.evaluation()
        rows.append(len(evaluation.conds))
        one = np.array([timestep])
        with_cond = denoise(expected[None], one, {"cond": cond()["cond"][None]})[0]
        without = denoise(expected[None], one, {"cond": UNCOND["cond"][None]})[0]
        inside = 300 <= timestep <= 699
        outputs = np.stack([with_cond, without]) if inside else with_cond[None]
        expected = coefficients.step(k, expected, combine(without, with_cond, 3.0) if inside else with_cond)
        own.advance(outputs)
        np.testing.assert_array_equal(own.sample, expected)
    assert rows == [1, 1, 1, 2, 2, 2, 2, 1, 1, 1] and own.max_rows == 2


def test_the_ends_of_an_interval_belong_to_it():
    guidance = Guidance(cond(), UNCOND, 2.0, (300, 700))
    assert [len(guidance.conds(timestep)) for timestep in (299, 300, 700, 701)] == [1, 2, 2, 1]


def test_pred_x0_is_of_the_guided_prediction_and_changes_nothing():
    outputs = np.stack([gaussian(2, 0, SHAPE), gaussian(3, 0, SHAPE)])
    own, other = trajectory(scale=4.0), trajectory(scale=4.0)
    x0 = own.pred_x0(outputs)
    coefficients = DDIMCoefficients.for_steps(SCHEDULE, 10)
    np.testing.assert_array_equal(x0, coefficients.pred_x0(0, own.sample, combine(outputs[1], outputs[0], 4.0)))
    own.advance(outputs)
    other.advance(outputs)
    np.testing.assert_array_equal(own.sample, other.sample)


def test_an_output_is_only_read():
    outputs = np.stack([gaussian(2, 0, SHAPE), gaussian(3, 0, SHAPE)])
    outputs.flags.writeable = False
    for name in SOLVERS:
        for scale in (1.0, 4.0):
            own = trajectory(name, scale)
            for _ in range(3):
                own.advance(outputs[: own.max_rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"guidance_scale": 2.0, "uncond": {}}, "uncond"),
        ({"guidance_scale": 2.0, "uncond": {"cond": np.zeros(5, np.float32)}}, "uncond"),
        ({"guidance_scale": 2.0, "uncond": {"cond": np.zeros(6)}}, "uncond"),
        ({"interval": (700, 300)}, r"interval=\(700, 300\)"),
    ],
)
def test_guidance_that_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Guidance(**{"cond": cond(), "uncond": UNCOND, **change})


def test_a_sample_of_another_rank_is_refused():
    with pytest.raises(ValueError, match=r"sample has shape \(4, 4\)"):
        trajectory(sample=np.zeros((4, 4), np.float32))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(ValueError, match=f"seed={seed}"):
        DDIMSolver(DDIMCoefficients.for_steps(SCHEDULE, 2), SHAPE, seed)
