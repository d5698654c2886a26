"""The ladder: what it measures, from arithmetic, and that each limit separates what it must."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from runtime.ladder import (
    LIMITS,
    NUM_INVERSION_STEPS_LARGE,
    NUM_STEPS,
    NUM_STEPS_LARGE,
    STORED_SAMPLES,
    Check,
    Course,
    Limits,
    Reference,
    Sensitivity,
    checks,
    disturbed,
    limits_from,
    limits_to_dict,
    relative_error,
    stored_steps,
    to_picture,
)
from runtime.manifest import ONNX, ONNX_FP16
from runtime.schedule import Schedule
from runtime.spec import ModelSpec, engine_specs

MODEL = ModelSpec(
    image_size=16,
    sample_shape=(3, 16, 16),
    is_latent=False,
    features=8,
    audio_features=6,
    clip_image_size=32,
    identity_size=24,
    cond={"cond": (8,)},
)
COURSE = Course(Schedule(clip_sample=False), {"cond": np.zeros(8, np.float32)}, 2.0, MODEL.sample_shape)
START = np.random.default_rng(0).standard_normal((1, 3, 16, 16)).astype(np.float32)
COND = {"cond": np.ones((1, 8), np.float32)}


class Linear:
    """A UNet that predicts half of its sample and a little of cond, with an error of `error` relative."""

    spec = engine_specs(MODEL)["unet"]
    provider = "test"

    def __init__(self, error: float = 0.0) -> None:
        self.factor = np.float32(0.5 * (1 + error))
        self.calls: list[tuple[int, int]] = []

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls.append((len(inputs["sample"]), int(inputs["timestep"][0])))
        cond = inputs["cond"].mean(axis=1)[:, None, None, None]
        return {"noise_pred": self.factor * inputs["sample"] + np.float32(0.1) * cond}

    def close(self) -> None: ...


@pytest.fixture
def reference() -> Reference:
    return COURSE.reference({"unet": Linear()}, START, COND)


def test_equal_engines_have_no_error(reference: Reference) -> None:
    figures = COURSE.measure({"unet": Linear()}, reference)
    assert figures["step"]["relative_error"] == [0] * (STORED_SAMPLES - 1)
    assert figures["trajectory"]["max_abs_error"] == figures["trajectory"]["mean_abs_error"] == [0] * NUM_STEPS
    assert figures["trajectory"]["cosine"] == [1] * NUM_STEPS
    assert figures["inversion"]["relative_error"] == figures["inversion"]["restored_relative_error"] == 0
    assert figures["image"] == {"psnr_db": 100, "ssim": 1, "largest_difference_levels": 0}
    assert all(check.holds for check in checks(figures, LIMITS[ONNX]))


def test_the_step_rung_sees_the_error_of_one_call_and_the_trajectory_that_of_all(reference: Reference) -> None:
    figures = COURSE.measure({"unet": Linear(error=1e-3)}, reference)
    assert all(4e-4 < error < 1.1e-3 for error in figures["step"]["relative_error"])
    errors = figures["trajectory"]["mean_abs_error"]
    assert errors[-1] > 5 * errors[0] > 0, "errors add up on the way"
    assert {check.rung for check in checks(figures, LIMITS[ONNX]) if not check.holds} >= {"step", "trajectory"}


def test_steps_reach_over_the_whole_range_of_timesteps(reference: Reference) -> None:
    timesteps = COURSE.measure({"unet": Linear()}, reference)["step"]["timesteps"]
    assert timesteps == sorted(timesteps, reverse=True) and timesteps[0] > 900 and timesteps[-1] < 250


def test_the_trajectory_is_guided_and_inversion_is_not() -> None:
    unet = Linear()
    COURSE.walk({"unet": unet}, START, COND)
    assert [rows for rows, _ in unet.calls[:NUM_STEPS]] == [2] * NUM_STEPS
    inversion = unet.calls[NUM_STEPS:]
    assert {rows for rows, _ in inversion} == {1}
    timesteps = [timestep for _, timestep in inversion]
    half = len(timesteps) // 2
    assert timesteps[:half] == sorted(timesteps[:half]) and timesteps[half:] == sorted(timesteps[half:], reverse=True)


def test_a_model_of_large_samples_walks_less_far_and_its_figures_say_how_far() -> None:
    large = replace(COURSE, sample_shape=(3, 256, 256))
    reference = large.reference({"unet": Linear()}, START, COND)
    figures = large.measure({"unet": Linear()}, reference)
    assert len(reference.samples) - 1 == figures["trajectory"]["num_inference_steps"] == NUM_STEPS_LARGE < NUM_STEPS
    assert figures["inversion"]["num_steps"] == NUM_INVERSION_STEPS_LARGE


def test_the_round_trip_is_exact_where_the_noise_is_the_same_at_every_timestep() -> None:
    constant, linear = ({"unet": Linear(error)} for error in (-1.0, 0.0))
    trips = [COURSE.measure(e, COURSE.reference(e, START, COND))["inversion"] for e in (constant, linear)]
    assert trips[0]["round_trip"] < 1e-5 < 0.1 < trips[1]["round_trip"]
    assert all(trip["round_trip"] == trip["round_trip_of_torch"] for trip in trips)


def test_what_is_stored_gives_the_same_verdicts_as_the_whole(reference: Reference) -> None:
    stored = Reference.from_tensors(reference.thinned().to_tensors())
    assert len(stored.samples) == STORED_SAMPLES and len(stored.noise_pred) == STORED_SAMPLES - 1
    whole, thinned = (COURSE.measure({"unet": Linear(error=1e-3)}, each) for each in (reference, stored))
    assert whole["step"] == thinned["step"] and whole["image"] == thinned["image"]
    assert whole["trajectory"]["relative_error"] == thinned["trajectory"]["relative_error"]
    assert [str(check) for check in checks(whole, LIMITS[ONNX])] == [
        str(check) for check in checks(thinned, LIMITS[ONNX])
    ]


def test_an_overflow_misses_every_rung_and_is_null_in_json(reference: Reference) -> None:
    class Broken(Linear):
        def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return {"noise_pred": np.full_like(inputs["sample"], np.inf)}

    with np.errstate(invalid="ignore"):
        figures = COURSE.measure({"unet": Broken()}, reference)
    json.dumps(figures, allow_nan=False)
    assert figures["trajectory"]["relative_error"] is None
    missed = {check.rung for check in checks(figures, LIMITS[ONNX_FP16]) if not check.holds}
    assert missed == {"step", "trajectory", "image", "inversion"}


class Chaotic(Linear):
    """Answers that turn with every hundredth of a sample: one call is exact, and twenty lose all likeness."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"noise_pred": (2 * self.factor * np.sin(60 * inputs["sample"])).astype(np.float32)}


class OneBitOff(Chaotic):
    """The same network by another order of sums."""

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"noise_pred": np.nextafter(super().__call__(inputs)["noise_pred"], np.float32(2))}


@pytest.fixture(scope="module")
def chaos() -> tuple[Reference, Sensitivity]:
    torch = {"unet": Chaotic()}
    reference = COURSE.reference(torch, START, COND)
    return reference, COURSE.sensitivity(torch, reference, 2.0**-23)


def missed(unet: Linear, reference: Reference, own: Sensitivity | None) -> set[str]:
    figures = COURSE.measure({"unet": unet}, reference)
    return {check.rung for check in checks(figures, LIMITS[ONNX], own) if not check.holds}


def test_a_walk_that_torch_cannot_repeat_is_not_asked_of_a_network(chaos: tuple[Reference, Sensitivity]) -> None:
    reference, own = chaos
    assert own.trajectory is not None and own.trajectory > 0.01
    assert "trajectory" in missed(OneBitOff(), reference, None)
    assert not missed(OneBitOff(), reference, own)


def test_chaos_excuses_no_wrong_call(chaos: tuple[Reference, Sensitivity]) -> None:
    assert missed(Chaotic(error=1e-3), *chaos) >= {"step"}


def test_torch_far_inside_a_limit_moves_none(reference: Reference) -> None:
    """A calm model's sensitivity changes no check, so an error in its walk is refused as before."""
    own = COURSE.sensitivity({"unet": Linear()}, reference, 2.0**-23)
    assert own.trajectory is not None and 0 < own.trajectory < LIMITS[ONNX].trajectory
    figures = COURSE.measure({"unet": Linear(error=1e-3)}, reference)
    assert list(checks(figures, LIMITS[ONNX], own)) == list(checks(figures, LIMITS[ONNX]))


def test_limits_follow_torchs_own_error_by_the_multiple() -> None:
    own = Sensitivity(1e-7, 10, trajectory=0.01, image_psnr_db=50, image_ssim=0.999, inversion=1e-5, restored=None)
    limits = LIMITS[ONNX]
    walk = Check("trajectory", "20 steps", "relative error", 0.05, limits.trajectory)
    psnr = Check("image", "PSNR", "dB", 35, limits.image_psnr_db, at_least=True)
    likeness = Check("image", "SSIM", "likeness", 0.95, limits.image_ssim, at_least=True)
    judged = [own.judge(walk, 0.01), own.judge(psnr, 50), own.judge(likeness, 0.999)]
    assert [round(check.limit, 6) for check in judged] == [0.1, 30, 0.9] and all(check.holds for check in judged)
    assert str(judged[0]) == "trajectory 20 steps: relative error 0.05, limit 0.1 (torch against itself 0.01)"
    assert own.judge(walk, 0.9e-5) == own.judge(walk, None) == walk and not walk.holds


def test_a_network_has_the_same_room_on_either_side_of_a_limit_that_torch_just_holds() -> None:
    """Twice as far as torch is faithful: whether torch ends at 0.9 or 1.1 of the limit may not decide."""
    own = Sensitivity(1e-7, 10, trajectory=None, image_psnr_db=None, image_ssim=None, inversion=None, restored=None)
    limit = LIMITS[ONNX].trajectory
    for torchs in (0.9 * limit, 1.1 * limit):
        assert own.judge(Check("trajectory", "20 steps", "relative error", 2 * torchs, limit), torchs).holds
        assert not own.judge(Check("trajectory", "20 steps", "relative error", 11 * torchs, limit), torchs).holds
    image = Check("image", "PSNR", "dB", 59, LIMITS[ONNX].image_psnr_db, at_least=True)
    assert own.judge(image, 61).limit == 41 and own.judge(image, 81) == image


def test_a_disturbance_is_one_rounding_up_or_down_for_every_element() -> None:
    values = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    moved = disturbed(values, 2.0**-23)
    steps = np.abs(moved.view(np.int32) - values.view(np.int32))
    assert set(np.unique(steps)) <= {1, 2} and 0.3 < np.mean(moved > values) < 0.7
    assert np.array_equal(moved, disturbed(values, 2.0**-23))


def test_a_check_is_one_line_with_its_limit() -> None:
    assert (
        str(Check("step", "t=999", "relative error", 1.23456e-5, 1e-4))
        == "step t=999: relative error 1.23e-05, limit 0.0001"
    )
    assert not Check("step", "t=999", "relative error", None, 1e-4).holds
    assert (
        Check("image", "PSNR", "dB", 41, 40, at_least=True).holds
        and not Check("image", "PSNR", "dB", 39, 40, True).holds
    )


def test_fp32_limits_separate_the_order_of_sums_from_half_precision() -> None:
    values = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    limit = LIMITS[ONNX].engine
    assert relative_error(values, values * np.float32(1 + limit / 2)) <= limit  # type: ignore[operator]
    assert relative_error(values, values.astype(np.float16).astype(np.float32)) > limit  # type: ignore[operator]


def test_limits_are_read_back_as_they_were_written() -> None:
    for limits in LIMITS.values():
        assert limits_from(json.loads(json.dumps(limits_to_dict(limits)))) == limits
    assert isinstance(limits_from(limits_to_dict(LIMITS[ONNX])), Limits)


@pytest.mark.parametrize(("num_steps", "expected"), [(20, [0, 4, 8, 12, 16, 20]), (3, [0, 1, 2, 3]), (1, [0, 1])])
def test_first_and_last_sample_are_always_stored(num_steps: int, expected: list[int]) -> None:
    assert stored_steps(num_steps).tolist() == expected


def test_pictures_are_eight_bit_and_what_is_no_number_is_grey() -> None:
    pixels = np.array([-2, -1, 0, 1, np.nan], np.float32).reshape(1, 1, 5)
    assert to_picture(pixels).ravel().tolist() == [0, 0, 128, 255, 128]
