"""Routes: the table says what the steps would have done, whatever is asked; and the CUDA C that follows one, run by a C compiler."""

from __future__ import annotations

import ctypes
import shutil
import subprocess

import numpy as np
import pytest

from runtime.ddim import DDIMCoefficients, DDIMSolver
from runtime.editing import AnchoredSolver, EditTrajectory
from runtime.engines import step_kernel
from runtime.guidance import Guidance
from runtime.inversion import Inversion, Inverted, edit_timesteps
from runtime.noise import gaussian
from runtime.route import FACTORS, Foreseeable, Route, follow
from runtime.schedule import Schedule
from runtime.solvers import SOLVERS
from runtime.trajectory import GuidedTrajectory, walk

SHAPE = (2, 4, 4)
UNCOND = {"cond": np.zeros(6, np.float32)}
COND = {"cond": gaussian(1, 1, 6)}


def denoise(sample, timestep, cond):
    level = (timestep.astype(np.float32) / 1000)[:, None, None, None]
    return np.tanh(sample * level + cond["cond"].mean(axis=1)[:, None, None, None])


def face(schedule=None, name="ddim", scale=3.0, interval=None) -> GuidedTrajectory:
    solver = SOLVERS[name](schedule or Schedule(timestep_spacing="trailing"), 10, SHAPE)
    return GuidedTrajectory(gaussian(1, 0, SHAPE), Guidance(COND, UNCOND, scale, interval), solver)


def inversion(**settings) -> Inversion:
    return Inversion(Schedule(), gaussian(2, 0, SHAPE), UNCOND, edit_timesteps(500, 8), **settings)


def followed(trajectory) -> np.ndarray:
    """To its end, route by route."""
    while (route := trajectory.route()) is not None:
        trajectory.arrive(follow(route, denoise))
    assert trajectory.evaluation() is None and trajectory.steps_done == trajectory.num_steps
    return trajectory.sample


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize(("scale", "interval"), [(1.0, None), (3.0, None), (3.0, (200, 700))])
def test_a_face_is_the_one_of_single_steps_bit_for_bit(prediction, clips, scale, interval):
    schedule = Schedule(prediction_type=prediction, clip_sample=clips, timestep_spacing="trailing")
    expected = walk(face(schedule, scale=scale, interval=interval), denoise)
    np.testing.assert_array_equal(followed(face(schedule, scale=scale, interval=interval)), expected)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_an_inversion_lands_where_its_steps_do(prediction):
    def made():
        return Inversion(Schedule(prediction_type=prediction), gaussian(2, 0, SHAPE), UNCOND, edit_timesteps(500, 8))

    expected = walk(made(), denoise)
    np.testing.assert_allclose(followed(made()), expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_an_edit_is_two_courses_and_its_inversion_is_kept():
    schedule, timesteps = Schedule(), edit_timesteps(500, 8)

    def edit(kept):
        def back(inverted):
            solver = AnchoredSolver(schedule, timesteps, inverted, None)
            return GuidedTrajectory(inverted.sample, Guidance(COND, UNCOND, 2.0), solver)

        return EditTrajectory(inversion(), back, len(timesteps), 2, kept.append)

    kept: list[Inverted] = []
    np.testing.assert_allclose(followed(edit(kept)), walk(edit([]), denoise), rtol=0, atol=5e-6)
    assert len(kept) == 1 and not kept[0].sample.flags.writeable


@pytest.mark.parametrize(
    "trajectory",
    [
        face(name="dpm-solver++"),
        face(name="unipc"),
        inversion(fixed_point_iterations=1),
        inversion(keep_levels=True),
        inversion(keep_residuals=True),
        GuidedTrajectory(
            gaussian(1, 0, SHAPE),
            Guidance(COND),
            DDIMSolver(DDIMCoefficients.for_steps(Schedule(), 4, eta=1.0), SHAPE),
        ),
    ],
    ids=["dpm-solver++", "unipc", "fixed point", "levels", "residuals", "noise"],
)
def test_what_a_table_does_not_hold_has_no_course(trajectory):
    assert isinstance(trajectory, Foreseeable) and trajectory.route() is None


def test_an_edit_that_holds_on_to_its_inversion_has_no_course_back():
    timesteps = edit_timesteps(500, 4)
    levels = np.zeros((5, *SHAPE), np.float32)
    kept = Inverted(levels[0], levels[0], levels, levels[1:])
    plain = Inverted(levels[0], levels[0])
    mask = np.ones((1, *SHAPE[1:]), np.float32)
    for inverted, outside in ((kept, None), (kept, mask), (plain, mask)):
        assert AnchoredSolver(Schedule(), timesteps, inverted, outside).factors() is None
    assert AnchoredSolver(Schedule(), timesteps, plain, None).factors() is not None


def test_a_trajectory_under_way_has_no_course():
    trajectory = face()
    trajectory.advance(np.zeros((2, *SHAPE), np.float32))
    assert trajectory.route() is None


@pytest.fixture(scope="module")
def take_step(tmp_path_factory):
    """The kernel for one thread, as a function of its index: CUDA's words mean nothing to a C compiler, so they are defined away."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("kernel")
    source = (
        "#include <math.h>\n#define __global__\n"
        "struct { int x; } blockIdx, blockDim, threadIdx;\n"
        + step_kernel.SOURCE
        + 'extern "C" void at(int i, float *x, const float *o, const float *f, int n, int rows) '
        "{ blockIdx.x = i / 4; blockDim.x = 4; threadIdx.x = i % 4; take_step(x, o, f, n, rows); }\n"
    )
    (folder / "kernel.cpp").write_text(source)
    library = folder / "kernel.so"
    flags = ["-O2", "-ffp-contract=off", "-shared", "-fPIC", "-w"]
    subprocess.run([compiler, *flags, "-o", library, folder / "kernel.cpp"], check=True)
    return ctypes.CDLL(str(library)).at


@pytest.mark.parametrize("clips", [False, True])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_kernel_follows_a_course_bit_for_bit(take_step, clips, scale):
    """Threads beyond the sample do nothing; the model's rows are told of every step."""
    route = face(Schedule(clip_sample=clips, timestep_spacing="trailing"), scale=scale, interval=(200, 700)).route()
    assert isinstance(route, Route) and route.factors.shape == (10, len(FACTORS))
    size, rows = route.sample.size, len(route.conds)
    x = np.repeat(route.sample[None], rows, axis=0).copy()
    cond = {"cond": np.stack([each["cond"] for each in route.conds])}
    pointer = ctypes.POINTER(ctypes.c_float)
    for timestep, factors in zip(route.timesteps, route.factors, strict=True):
        outputs = np.ascontiguousarray(denoise(x, np.full(rows, timestep), cond), np.float32)
        for i in range(-(-size // step_kernel.THREADS) * step_kernel.THREADS):
            arrays = (each.ctypes.data_as(pointer) for each in (x, outputs, np.ascontiguousarray(factors)))
            take_step(i, *arrays, size, rows)
        np.testing.assert_array_equal(x, np.repeat(x[:1], rows, axis=0))
    np.testing.assert_array_equal(x[0], follow(route, denoise))
