"""A large model is scanned where torch walked, and not on walks of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from export.reference import ReferenceInputs
from export.trajectories import exercise, revisit
from runtime.ladder import Course, Reference, stored_steps
from runtime.schedule import Schedule
from runtime.spec import EngineSpec, TensorSpec

SHAPE = (1, 320, 320)
UNCOND = {"cond": np.zeros(1, np.float32)}
GIVEN = [{"cond": np.full((1, 1), value, np.float32)} for value in (1, 2, 3)]


class Recorder:
    """An engine that gives zeros and remembers its calls."""

    provider = "recorder"

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.calls: list[Mapping[str, np.ndarray]] = []

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.calls.append(inputs)
        return {tensor.name: np.zeros((1, *tensor.shape[1:]), np.float32) for tensor in self.spec.outputs}

    def close(self) -> None: ...


@pytest.fixture
def course() -> Course:
    return Course(Schedule(), UNCOND, 3.0, SHAPE)


@pytest.fixture
def reference(course: Course) -> Reference:
    """A walk whose k-th sample is k everywhere, and whose inversion ended at -1."""
    index = np.arange(course.num_steps + 1)
    samples = np.broadcast_to(index[:, None, None, None], (len(index), *SHAPE)).astype(np.float32)
    inverted = np.full((1, *SHAPE), -1, np.float32)
    image = np.zeros((320, 320, 3), np.uint8)
    return Reference({}, index, samples, samples[:-1], image, inverted, inverted)


def unet(*cond: TensorSpec) -> Recorder:
    sample, noise_pred = (TensorSpec(name, "float32", ("B", *SHAPE)) for name in ("sample", "noise_pred"))
    return Recorder(EngineSpec("unet", (sample, TensorSpec("timestep", "int64", ("B",)), *cond), (noise_pred,)))


def test_every_sample_that_torch_stored_is_seen_at_its_timestep_with_a_condition_and_without(
    course: Course, reference: Reference
) -> None:
    engine = unet(TensorSpec("cond", "float32", ("B", 1)))
    revisit(engine, course, GIVEN, reference)
    seen = [(c["sample"].max(), c["timestep"].item(), c["cond"].item()) for c in engine.calls]
    chosen = stored_steps(course.num_steps)
    places = [*zip(chosen[:-1], course.timesteps(chosen), strict=True)]
    places.append((-1, course.schedule.timesteps(course.num_inversion_steps)[0]))
    in_turn = [GIVEN[number % 3]["cond"].item() for number in range(len(places))]
    assert seen == [(*place, cond) for place, given in zip(places, in_turn, strict=True) for cond in (given, 0)]
    assert set(in_turn) == {1, 2, 3}


def test_without_conditions_each_place_is_seen_once(course: Course, reference: Reference) -> None:
    engine = unet()
    exercise({"unet": engine}, course, ReferenceInputs(0, 0, 0, 1000), reference)
    assert len(engine.calls) == len(stored_steps(course.num_steps))
    assert not any("cond" in call for call in engine.calls)


def test_a_small_model_walks_for_every_seed_from_its_own_noise(reference: Reference) -> None:
    small = Course(Schedule(), {}, 1.0, (1, 8, 8))
    spec = unet().spec
    engine = Recorder(EngineSpec("unet", spec.inputs, (TensorSpec("noise_pred", "float32", ("B", 1, 8, 8)),)))
    exercise({"unet": engine}, small, ReferenceInputs(0, 0, 0, 1000), reference)
    starts = [call["sample"] for call in engine.calls if call["timestep"] == small.schedule.timesteps(20)[0]]
    assert len(engine.calls) == 3 * (20 + 9 + 9) and len(starts) == 3
    assert len({start.tobytes() for start in starts}) == 3
