"""The step-level batcher: exactness, order, bounds, cancellation, faults, and a ledger in which no job is missing."""

from __future__ import annotations

import concurrent.futures
import random
import threading
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest

from runtime.batcher import StepBatcher
from runtime.ddim import DDIMCoefficients, DDIMSolver, sample_loop
from runtime.dpm_solver import DPMSolver, DPMSolverCoefficients
from runtime.errors import (
    DeadlineExceededError,
    EngineError,
    QueueFullError,
    RequestCancelledError,
    RequestError,
    UnavailableError,
)
from runtime.guidance import Guidance, guide
from runtime.job import PRIORITIES, Job
from runtime.noise import gaussian, step_stream
from runtime.schedule import Schedule
from runtime.trajectory import Evaluation, GuidedTrajectory, walk
from runtime.unipc import UniPCCoefficients, UniPCSolver

SCHEDULE = Schedule()
SHAPE = (2, 4, 4)
UNCOND = {"cond": np.zeros(6, np.float32), "cond_tokens": np.zeros((2, 3), np.float32)}
WAIT_S = 20  # a hang fails the test instead of blocking it


def denoise(sample, timestep, cond):
    """A row-wise stand-in for a UNet: depends on every input, and each row only on itself."""
    level = (timestep.astype(np.float32) / 1000)[:, None, None, None]
    pull = cond["cond"].mean(axis=1)[:, None, None, None] + cond["cond_tokens"].max(axis=(1, 2))[:, None, None, None]
    return np.tanh(sample * level + pull) - np.roll(sample, 1, axis=-1) * np.float32(0.25)


@dataclass(frozen=True)
class Course:
    """What a job does, to be walked alone or among others: a trajectory is walked once."""

    number: int
    steps: int = 4
    guidance_scale: float = 1.0
    eta: float = 0.0
    shape: tuple[int, int, int] = SHAPE

    @property
    def cond(self):
        return {"cond": gaussian(self.number, 1000, 6), "cond_tokens": gaussian(self.number, 1001, (2, 3))}

    @property
    def sample(self):
        return gaussian(self.number, 0, self.shape)

    @property
    def coefficients(self):
        return DDIMCoefficients.for_steps(SCHEDULE, self.steps, self.eta)

    def trajectory(self, **cond) -> GuidedTrajectory:
        solver = DDIMSolver(self.coefficients, self.shape, self.number)
        return GuidedTrajectory(self.sample, Guidance(self.cond | cond, UNCOND, self.guidance_scale), solver)

    def job(self, **others) -> Job:
        return Job(f"job-{self.number}", self.trajectory(), **others)

    def alone(self) -> np.ndarray:
        """The result by the plainest route: the sampler loop over a guided denoiser, batch of one."""
        guided = guide(denoise, {name: array[None] for name, array in UNCOND.items()}, self.guidance_scale)
        cond = {name: array[None] for name, array in self.cond.items()}

        def noise(step_index):
            return gaussian(self.number, step_stream(step_index), self.shape)[None]

        return sample_loop(guided, self.sample[None], cond, self.coefficients, noise=noise)[0]


def job(number: int, steps: int = 4, guidance_scale: float = 1.0, **others) -> Job:
    return Course(number, steps, guidance_scale).job(**others)


def alone(number: int, steps: int = 4, guidance_scale: float = 1.0) -> np.ndarray:
    return Course(number, steps, guidance_scale).alone()


def bad_job(guidance_scale: float = 1.0) -> Job:
    """One whose cond is full of 666, for models that mind."""
    return Job("bad", Course(2, guidance_scale=guidance_scale).trajectory(cond=np.full(6, 666, np.float32)))


def sample_of(future) -> np.ndarray:
    return future.result(timeout=0).sample


def assert_ledger_complete(batcher: StepBatcher) -> None:
    stats = batcher.stats
    ended = stats.finished + stats.failed + stats.cancelled + stats.expired
    assert stats.submitted == ended + stats.waiting + stats.live, stats


class CountingDenoiser:
    def __init__(self, inner=denoise):
        self.inner, self.calls = inner, []

    def __call__(self, sample, timestep, cond):
        self.calls.append(timestep.tolist())
        return self.inner(sample, timestep, cond)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.5, 0.0])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_job_alone_equals_the_plain_loop_bit_for_bit(guidance_scale, eta):
    batcher = StepBatcher(denoise, max_batch_rows=4)
    one = Course(1, 6, guidance_scale, eta)
    future = batcher.submit(one.job())
    batcher.run_until_idle()
    result = sample_of(future)
    assert result.dtype == np.float32 and result.shape == SHAPE and result.flags.writeable
    np.testing.assert_array_equal(result, one.alone())


def test_jobs_with_different_steps_guidance_and_eta_share_calls_without_touching_each_other():
    courses = [Course(1, 3), Course(2, 7, 4.0), Course(3, 5, eta=0.5), Course(4, 2, 1.5, eta=1.0), Course(5, 9)]
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=8)
    futures = [batcher.submit(one.job()) for one in courses]
    batcher.run_until_idle()
    for one, future in zip(courses, futures, strict=True):
        np.testing.assert_array_equal(sample_of(future), one.alone())
    assert len(counting.calls) == 9  # as many as the longest job has steps: all advance in every call
    assert batcher.stats.rows == 3 + 2 * 7 + 5 + 2 * 2 + 9 and batcher.stats.finished == 5
    assert_ledger_complete(batcher)


def test_a_job_admitted_mid_flight_joins_the_next_call_and_is_bit_equal():
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=4, buckets=None)
    first, second = Course(1, 10), Course(2, 4, 2.0)
    futures = [batcher.submit(first.job())]
    for _ in range(3):
        batcher.step()
    futures.append(batcher.submit(second.job()))
    batcher.run_until_idle()
    assert [len(call) for call in counting.calls] == [1, 1, 1, 3, 3, 3, 3, 1, 1, 1]
    for one, future in zip((first, second), futures, strict=True):
        np.testing.assert_array_equal(sample_of(future), one.alone())


def test_submissions_from_many_threads_are_all_answered_right():
    courses = [Course(n, 1 + n % 5, (1.0, 3.0)[n % 2]) for n in range(60)]
    with (
        StepBatcher(denoise, max_batch_rows=6, max_queue=100) as batcher,
        concurrent.futures.ThreadPoolExecutor(8) as callers,
    ):
        results = list(callers.map(lambda one: batcher.submit(one.job()).result(timeout=WAIT_S).sample, courses))
    for result, one in zip(results, courses, strict=True):
        np.testing.assert_array_equal(result, one.alone())
    assert batcher.stats.finished == 60


def test_several_threads_may_drive_one_batcher():
    batcher = StepBatcher(denoise, max_batch_rows=4)

    def call(one):
        future = batcher.submit(one.job())
        batcher.run_until_idle()
        return future.result(timeout=WAIT_S).sample

    courses = [Course(n) for n in range(16)]
    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        for one, result in zip(courses, callers.map(call, courses), strict=True):
            np.testing.assert_array_equal(result, one.alone())


def test_rows_are_padded_to_the_next_bucket_with_the_first_row():
    seen = []

    def watching(sample, timestep, cond):
        seen.append((sample.copy(), timestep.copy(), cond["cond"].copy()))
        return denoise(sample, timestep, cond)

    batcher = StepBatcher(watching, max_batch_rows=6, buckets=(1, 4, 16))
    futures = [batcher.submit(job(n, steps=1)) for n in range(3)]
    batcher.run_until_idle()
    ((sample, timestep, cond),) = seen
    assert len(sample) == len(timestep) == len(cond) == 4
    for array in (sample, timestep, cond):
        np.testing.assert_array_equal(array[3], array[0])
    assert (batcher.stats.rows, batcher.stats.pad_rows, batcher.stats.mean_batch) == (3, 1, 3.0)
    np.testing.assert_array_equal(sample_of(futures[2]), alone(2, steps=1))


@pytest.mark.parametrize(("buckets", "rows"), [(None, 5), ((), 6), ((1, 2, 4, 8, 16), 6), ((5,), 5), ((2, 3), 6)])
def test_the_largest_call_is_always_a_bucket_and_larger_ones_are_unused(buckets, rows):
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=6, buckets=buckets)
    for n in range(5):
        batcher.submit(job(n, steps=1))
    batcher.run_until_idle()
    assert [len(call) for call in counting.calls] == [rows]


def test_admission_is_first_in_first_out_and_never_exceeds_the_rows():
    order = []
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=3, buckets=None)
    scales = [1.0, 2.0, 2.0, 1.0, 1.0]  # rows 1 + 2 | 2 + 1 | 1: the guided third is not overtaken by the fourth
    for n, scale in enumerate(scales):
        batcher.submit(job(n, 2, scale)).add_done_callback(lambda _, n=n: order.append(n))
    batcher.run_until_idle()
    assert order == [0, 1, 2, 3, 4]
    assert [len(call) for call in counting.calls] == [3, 3, 3, 3, 1, 1]


def test_jobs_of_different_shapes_take_turns_and_each_is_right():
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=8, buckets=None)
    courses = [Course(1, 3), Course(2, 3, shape=(2, 8, 8)), Course(3, 3)]
    futures = [batcher.submit(one.job()) for one in courses]
    batcher.run_until_idle()
    assert [len(call) for call in counting.calls] == [2, 1, 2, 1, 2, 1]
    for one, future in zip(courses, futures, strict=True):
        np.testing.assert_array_equal(sample_of(future), one.alone())


def test_a_full_queue_refuses_exactly_the_surplus():
    batcher = StepBatcher(denoise, max_batch_rows=1, max_queue=3)
    futures = [batcher.submit(job(n)) for n in range(3)]
    for n in range(4):
        with pytest.raises(QueueFullError, match="3 requests are waiting"):
            batcher.submit(job(n))
    batcher.run_until_idle()
    assert all(future.exception() is None for future in futures)
    assert (batcher.stats.refused, batcher.stats.submitted, batcher.stats.finished) == (4, 3, 3)


def test_guidance_that_can_never_fit_is_refused_at_once():
    with pytest.raises(RequestError, match="guidance_scale: this request needs 2 rows per call"):
        StepBatcher(denoise, max_batch_rows=1).submit(job(1, guidance_scale=2.0))


def test_progress_is_reported_in_order_with_a_read_only_sample():
    seen = []

    def on_step(step_index, total, sample):
        assert not sample.flags.writeable
        seen.append((step_index, total, sample.copy()))

    batcher = StepBatcher(denoise, max_batch_rows=2)
    future = batcher.submit(job(1, steps=5, on_step=on_step))
    batcher.run_until_idle()
    assert [(k, total) for k, total, _ in seen] == [(k, 5) for k in range(5)]
    np.testing.assert_array_equal(seen[-1][2], sample_of(future))


def test_cancellation_is_seen_within_one_step_and_frees_the_rows():
    flag = threading.Event()
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=1)
    cancelled = batcher.submit(job(1, steps=50, is_cancelled=flag.is_set))
    waiting = batcher.submit(job(2, steps=2))
    batcher.step()
    flag.set()
    batcher.run_until_idle()
    with pytest.raises(RequestCancelledError, match="job-1"):
        cancelled.result(timeout=0)
    np.testing.assert_array_equal(sample_of(waiting), alone(2, steps=2))
    assert len(counting.calls) == 1 + 2 and batcher.stats.cancelled == 1


def test_a_job_cancelled_while_it_waits_never_reaches_the_model():
    flag = threading.Event()
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=1)
    batcher.submit(job(1, steps=3))
    by_flag, by_future = batcher.submit(job(2, is_cancelled=flag.is_set)), batcher.submit(job(3))
    flag.set()
    assert by_future.cancel()
    batcher.step()
    assert isinstance(by_flag.exception(timeout=0), RequestCancelledError) and batcher.stats.cancelled == 2
    done, pending = concurrent.futures.wait([by_flag, by_future], timeout=0)
    assert len(done) == 2 and not pending
    batcher.run_until_idle()
    assert len(counting.calls) == 3


def test_a_failing_model_fails_only_the_jobs_of_that_call_and_tells_no_internals():
    def broken_for_strangers(sample, timestep, cond):
        if (cond["cond"] == 666).any():
            raise OSError("/secret/path/unet.onnx is gone")
        return denoise(sample, timestep, cond)

    with StepBatcher(broken_for_strangers, max_batch_rows=4) as batcher:
        with pytest.raises(EngineError, match="job 'bad'") as failure:
            batcher.submit(bad_job()).result(timeout=WAIT_S)
        assert "secret" not in str(failure.value) and isinstance(failure.value.__cause__, OSError)
        after = batcher.submit(job(2)).result(timeout=WAIT_S)  # the thread lives
    np.testing.assert_array_equal(after.sample, alone(2))
    assert (batcher.stats.failed, batcher.stats.finished) == (1, 1)


def test_an_engine_error_keeps_its_own_words():
    def refusing(sample, timestep, cond):
        raise EngineError("input 'sample' has batch 9; the profile allows 1..8")

    batcher = StepBatcher(refusing, max_batch_rows=4)
    futures = [batcher.submit(job(n)) for n in range(2)]
    batcher.run_until_idle()
    for future in futures:
        assert "the profile allows 1..8" in str(future.exception(timeout=0))
    assert futures[0].exception() is not futures[1].exception()


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_output_that_is_not_finite_fails_only_its_own_job(poison, guidance_scale):
    def poisoned(sample, timestep, cond):
        output = denoise(sample, timestep, cond)
        output[(cond["cond"][:, 0] == 666) & (timestep < 500), 0, 0, 0] = poison
        return output

    batcher = StepBatcher(poisoned, max_batch_rows=4)
    futures = [batcher.submit(job(1)), batcher.submit(bad_job(guidance_scale))]
    batcher.run_until_idle()
    np.testing.assert_array_equal(sample_of(futures[0]), alone(1))
    with pytest.raises(EngineError, match="'bad': unet output not finite at step 2"):  # timesteps 750, 500, 250, 0
        futures[1].result(timeout=0)


@pytest.mark.parametrize(
    "output",
    [np.zeros((1, 2, 4, 5), np.float32), np.zeros((2, 2, 4, 4), np.float32), np.zeros((1, 2, 4, 4), int), None],
)
def test_output_of_another_shape_or_kind_is_refused(output):
    batcher = StepBatcher(lambda sample, timestep, cond: output, max_batch_rows=1)
    future = batcher.submit(job(1))
    batcher.run_until_idle()
    with pytest.raises(EngineError, match=r"it must be float32 of \(1, 2, 4, 4\)"):
        future.result(timeout=0)


@pytest.mark.parametrize("name", ["on_step", "is_cancelled"])
def test_a_raising_callback_fails_only_its_own_job(name):
    def raising(*_):
        raise ZeroDivisionError("in the caller's code")

    batcher = StepBatcher(denoise, max_batch_rows=4)
    futures = [batcher.submit(job(1, **{name: raising})), batcher.submit(job(2))]
    batcher.run_until_idle()
    with pytest.raises(EngineError, match=f"its {name} callback failed"):
        futures[0].result(timeout=0)
    np.testing.assert_array_equal(sample_of(futures[1]), alone(2))


def test_an_interrupt_inside_the_model_is_raised_and_leaves_no_future_hanging():
    def interrupted(sample, timestep, cond):
        raise KeyboardInterrupt

    batcher = StepBatcher(interrupted, max_batch_rows=1)
    futures = [batcher.submit(job(n)) for n in range(2)]
    with pytest.raises(KeyboardInterrupt):
        batcher.run_until_idle()
    batcher.close(drain=False)
    assert isinstance(futures[0].exception(timeout=0), EngineError)
    assert isinstance(futures[1].exception(timeout=0), UnavailableError)
    assert_ledger_complete(batcher)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_dies_answers_every_job_and_takes_no_more():
    def exiting(sample, timestep, cond):
        raise SystemExit

    batcher = StepBatcher(exiting, max_batch_rows=1)
    futures = [batcher.submit(job(n)) for n in range(3)]
    batcher.start()
    for future in futures:
        assert isinstance(future.exception(timeout=WAIT_S), EngineError | UnavailableError)
    with pytest.raises(UnavailableError, match="closed"):
        batcher.submit(job(9))
    batcher.close()


def test_close_with_drain_finishes_what_was_submitted():
    batcher = StepBatcher(denoise, max_batch_rows=2)
    batcher.start()
    futures = [batcher.submit(job(n, steps=20)) for n in range(6)]
    batcher.close(drain=True)
    for n, future in enumerate(futures):
        np.testing.assert_array_equal(sample_of(future), alone(n, steps=20))
    with pytest.raises(UnavailableError, match="closed"):
        batcher.submit(job(1))


@pytest.mark.parametrize("threaded", [True, False])
def test_close_without_drain_answers_every_future(threaded):
    entered, release = threading.Event(), threading.Event()

    def slow(sample, timestep, cond):
        entered.set()
        assert release.wait(WAIT_S)
        return denoise(sample, timestep, cond)

    batcher = StepBatcher(slow, max_batch_rows=1)
    futures = [batcher.submit(job(n, steps=1000)) for n in range(4)]
    if threaded:
        batcher.start()
        assert entered.wait(WAIT_S)
    closer = threading.Thread(target=batcher.close, args=(False,))
    closer.start()
    release.set()
    closer.join(WAIT_S)
    assert not closer.is_alive()
    assert all(isinstance(future.exception(timeout=0), UnavailableError) for future in futures)
    batcher.close()  # again
    assert_ledger_complete(batcher)


def test_an_error_inside_the_with_block_does_not_wait_for_the_work():
    with pytest.raises(ZeroDivisionError), StepBatcher(denoise, max_batch_rows=1) as batcher:
        future = batcher.submit(job(1, steps=1000))
        raise ZeroDivisionError
    assert future.done()


def test_starting_twice_is_refused():
    with StepBatcher(denoise, max_batch_rows=1) as batcher, pytest.raises(RuntimeError, match="already started"):
        batcher.start()


@pytest.mark.parametrize("bad", [{"max_batch_rows": 0}, {"max_batch_rows": 4, "max_queue": 0}])
def test_limits_below_one_are_refused(bad):
    with pytest.raises(ValueError, match="at least 1"):
        StepBatcher(denoise, **bad)
    with pytest.raises(ValueError, match="buckets"):
        StepBatcher(denoise, 4, buckets=(0, 2))


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Doubling:
    """A trajectory of a kind of its own: two evaluations per step, of three rows and then of one; doubles what it is told."""

    def __init__(self, number: int, steps: int = 3):
        cond, self.uncond = Course(number).cond, dict(UNCOND)
        self.cond, self.other = cond, {name: -array for name, array in cond.items()}
        self.sample = Course(number).sample.copy()
        self.num_steps, self.steps_done, self.max_rows = steps, 0, 3
        self.is_second = False

    def evaluation(self):
        if self.steps_done == self.num_steps:
            return None
        conds = (self.cond,) if self.is_second else (self.cond, self.other, self.uncond)
        return Evaluation(self.sample, 10 * self.steps_done + self.is_second, conds)

    def advance(self, outputs):
        self.sample += outputs.sum(axis=0) * 2
        self.sample *= np.float32(0.25)
        self.steps_done += self.is_second
        self.is_second = not self.is_second

    def pred_x0(self, outputs):
        return outputs[0] * 2


def test_a_trajectory_of_another_kind_shares_calls_and_keeps_its_bits():
    expected = walk(Doubling(1), denoise)
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=8, buckets=None)
    futures = [batcher.submit(Job("other", Doubling(1))), batcher.submit(job(2, 4, 2.0)), batcher.submit(job(3, 2))]
    batcher.run_until_idle()
    assert [len(call) for call in counting.calls] == [6, 4, 5, 3, 3, 1]
    np.testing.assert_array_equal(sample_of(futures[0]), expected)
    np.testing.assert_array_equal(sample_of(futures[1]), alone(2, 4, 2.0))
    np.testing.assert_array_equal(sample_of(futures[2]), alone(3, 2))


def test_admission_reserves_the_most_rows_a_trajectory_may_ask_for():
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=4, buckets=None)
    for number in (1, 2):
        batcher.submit(Job("other", Doubling(number, steps=1)))
    batcher.run_until_idle()
    assert [len(call) for call in counting.calls] == [3, 1, 3, 1]  # two such jobs never meet, though 1 + 3 would fit
    with pytest.raises(RequestError, match="needs 3 rows"):
        StepBatcher(denoise, max_batch_rows=2).submit(Job("other", Doubling(1)))


def test_a_mapping_is_written_once_and_a_new_one_when_it_changes():
    class Watching(dict):
        reads = 0

        def __getitem__(self, name):
            Watching.reads += 1
            return super().__getitem__(name)

    trajectory = Doubling(1, steps=2)
    trajectory.cond = Watching(trajectory.cond)
    batcher = StepBatcher(denoise, max_batch_rows=4, buckets=None)
    future = batcher.submit(Job("other", trajectory))
    batcher.run_until_idle()
    assert Watching.reads == 2  # its two arrays, once: it stays in row 0 through all four calls
    np.testing.assert_array_equal(sample_of(future), walk(Doubling(1, steps=2), denoise))


class Broken(Doubling):
    """Goes wrong in one way at its second evaluation."""

    def __init__(self, fault: str):
        super().__init__(1)
        self.fault = fault

    def evaluation(self):
        evaluation = super().evaluation()
        if not self.is_second:
            return evaluation
        if self.fault == "evaluation":
            raise ZeroDivisionError("in the trajectory")
        return {
            "rows": evaluation._replace(conds=(self.cond,) * 4),
            "no rows": evaluation._replace(conds=()),
            "shape": evaluation._replace(sample=np.zeros((2, 4, 5), np.float32)),
            "dtype": evaluation._replace(sample=self.sample.astype(np.float64)),
            "cond": evaluation._replace(conds=({**self.cond, "cond": np.zeros(1, np.float32)},)),
            "names": evaluation._replace(conds=({"cond": self.cond["cond"]},)),
        }.get(self.fault, evaluation)

    def advance(self, outputs):
        if self.fault == "advance":
            raise ZeroDivisionError("in the trajectory")
        if self.fault == "coded":
            raise EngineError("the latents left their range")
        super().advance(outputs)
        if self.fault == "overflow":
            self.sample[0, 0, 0] = np.inf
            self.steps_done, self.is_second = self.num_steps, False


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("evaluation", "its trajectory failed at step 0"),
        ("rows", "its trajectory failed at step 0"),
        ("no rows", "its trajectory failed at step 0"),
        ("shape", "its trajectory asked for what cannot be evaluated"),
        ("dtype", "its trajectory asked for what cannot be evaluated"),
        ("cond", "its trajectory asked for what cannot be evaluated"),
        ("names", "its trajectory asked for what cannot be evaluated"),
        ("advance", "its trajectory failed at step 0"),
        ("coded", "the latents left their range"),
        ("overflow", "the sample is not finite after step 0"),
    ],
)
def test_a_broken_trajectory_fails_only_its_own_job(fault, message):
    batcher = StepBatcher(denoise, max_batch_rows=8)
    futures = [batcher.submit(job(2)), batcher.submit(Job("broken", Broken(fault))), batcher.submit(job(3, 6, 2.0))]
    batcher.run_until_idle()
    with pytest.raises(EngineError, match=f"job 'broken': {message}"):
        futures[1].result(timeout=0)
    np.testing.assert_array_equal(sample_of(futures[0]), alone(2))
    np.testing.assert_array_equal(sample_of(futures[2]), alone(3, 6, 2.0))
    assert_ledger_complete(batcher)


def test_output_that_is_not_finite_is_caught_even_if_the_trajectory_would_hide_it():
    class Deaf(Doubling):
        def advance(self, outputs):
            super().advance(np.nan_to_num(outputs))

    def poisoned(sample, timestep, cond):
        output = denoise(sample, timestep, cond)
        output[timestep == 11] = np.nan
        return output

    batcher = StepBatcher(poisoned, max_batch_rows=8)
    future = batcher.submit(Job("deaf", Deaf(1)))
    batcher.run_until_idle()
    with pytest.raises(EngineError, match="'deaf': unet output not finite at step 1"):
        future.result(timeout=0)


def test_rows_that_only_pad_are_not_judged():
    def poisoned(sample, timestep, cond):
        output = denoise(sample, timestep, cond)
        output[3:] = np.nan
        return output

    batcher = StepBatcher(poisoned, max_batch_rows=4)
    futures = [batcher.submit(job(n)) for n in range(3)]
    batcher.run_until_idle()
    np.testing.assert_array_equal(sample_of(futures[2]), alone(2))


def test_an_interrupt_in_a_callback_is_raised_and_the_neighbours_lose_nothing():
    def interrupted(*_):
        raise KeyboardInterrupt

    batcher = StepBatcher(denoise, max_batch_rows=4)
    futures = [batcher.submit(job(1)), batcher.submit(job(2, on_step=interrupted)), batcher.submit(job(3))]
    with pytest.raises(KeyboardInterrupt):
        batcher.run_until_idle()
    batcher.run_until_idle()
    assert isinstance(futures[1].exception(timeout=0), EngineError)
    for number in (1, 3):
        np.testing.assert_array_equal(sample_of(futures[number - 1]), alone(number))


def test_a_finished_job_says_how_long_it_waited_and_whom_it_shared_calls_with():
    clock = Clock()

    def slow(sample, timestep, cond):
        clock.now += 2
        return denoise(sample, timestep, cond)

    batcher = StepBatcher(slow, max_batch_rows=2, clock=clock)
    futures = [batcher.submit(job(1, 3)), batcher.submit(job(2, 1)), batcher.submit(job(3, 2, 2.0))]
    batcher.run_until_idle()
    first, second, third = (future.result(timeout=0) for future in futures)
    assert (first.queue_s, first.run_s, first.calls, first.mean_batch) == (0, 6, 3, 4 / 3)
    assert (second.queue_s, second.run_s, second.calls, second.mean_batch) == (0, 2, 1, 2)
    assert (third.queue_s, third.run_s, third.calls, third.mean_batch) == (6, 4, 2, 2)
    assert [each.model_s for each in (first, second, third)] == [6, 2, 4]


def test_the_observer_hears_of_every_call_and_costs_nobody_when_it_fails():
    clock, heard = Clock(), []

    class Counting:
        def waited(self, seconds):
            heard.append(("waited", seconds))

        def stepped(self, seconds, rows):
            heard.append(("stepped", seconds, rows))
            raise ZeroDivisionError("in the metrics")

    def slow(sample, timestep, cond):
        clock.now += 2
        return denoise(sample, timestep, cond)

    batcher = StepBatcher(slow, max_batch_rows=2, clock=clock, observer=Counting())
    futures = [batcher.submit(job(1, 1)), batcher.submit(job(2, 1, 2.0))]
    batcher.run_until_idle()
    assert heard == [("waited", 0), ("stepped", 2, 1), ("waited", 2), ("stepped", 2, 2)]
    np.testing.assert_array_equal(sample_of(futures[1]), alone(2, 1, 2.0))


@pytest.mark.parametrize("every", [1, 2, 3, 7])
def test_previews_come_after_every_so_many_steps_but_the_last_and_hold_x0(every):
    seen, steps = [], []
    one = Course(1, 7, 3.0)
    batcher = StepBatcher(denoise, max_batch_rows=2)
    watched = one.job(
        on_step=lambda k, total, sample: steps.append(("step", k + 1)),
        on_preview=lambda step, x0: (seen.append((step, x0)), steps.append(("preview", step))),
        preview_every=every,
    )
    future = batcher.submit(watched)
    batcher.run_until_idle()
    assert [step for step, _ in seen] == [step for step in range(1, 7) if step % every == 0]
    assert [entry for entry in steps if entry[0] == "step"] == [("step", k) for k in range(1, 8)]
    assert all(steps.index(("preview", step)) == steps.index(("step", step)) + 1 for step, _ in seen)
    np.testing.assert_array_equal(sample_of(future), one.alone())  # looking changes nothing
    guided = guide(denoise, {name: array[None] for name, array in UNCOND.items()}, 3.0)
    for step, x0 in seen:
        before = Course(1, 7, 3.0).trajectory()
        for _ in range(step - 1):
            advance_alone(before)
        cond = {name: array[None] for name, array in one.cond.items()}
        output = guided(before.sample[None], one.coefficients.timesteps[step - 1 : step], cond)[0]
        np.testing.assert_array_equal(x0, one.coefficients.pred_x0(step - 1, before.sample, output))


def advance_alone(trajectory) -> None:
    """One evaluation of a trajectory, without a batcher."""
    evaluation = trajectory.evaluation()
    rows = len(evaluation.conds)
    cond = {name: np.stack([each[name] for each in evaluation.conds]) for name in evaluation.conds[0]}
    trajectory.advance(denoise(np.stack([evaluation.sample] * rows), np.full(rows, evaluation.timestep), cond))


def test_a_preview_that_nobody_looks_at_is_not_computed():
    class Blind(Doubling):
        def pred_x0(self, outputs):
            raise AssertionError("nobody asked")

    batcher = StepBatcher(denoise, max_batch_rows=4)
    future = batcher.submit(Job("blind", Blind(1), preview_every=1))
    batcher.run_until_idle()
    np.testing.assert_array_equal(sample_of(future), walk(Doubling(1), denoise))


def test_a_deadline_ends_a_job_within_one_step_running_or_waiting():
    clock = Clock()

    def slow(sample, timestep, cond):
        clock.now += 1
        return denoise(sample, timestep, cond)

    counting = CountingDenoiser(slow)
    batcher = StepBatcher(counting, max_batch_rows=1, clock=clock)
    running = batcher.submit(job(1, steps=50, deadline=clock.now + 2.5))
    late, never = batcher.submit(job(2, deadline=clock.now + 0.5)), batcher.submit(job(3, deadline=clock.now - 1))
    fine = batcher.submit(job(4, steps=2, deadline=clock.now + 100))
    batcher.step()
    assert isinstance(never.exception(timeout=0), DeadlineExceededError)
    batcher.step()
    with pytest.raises(DeadlineExceededError, match="job-2': its deadline passed after 0 of 4 steps"):
        late.result(timeout=0)
    batcher.run_until_idle()
    with pytest.raises(DeadlineExceededError, match="job-1': its deadline passed after 3 of 50 steps"):
        running.result(timeout=0)
    np.testing.assert_array_equal(sample_of(fine), alone(4, steps=2))
    assert len(counting.calls) == 3 + 2 and (batcher.stats.expired, batcher.stats.finished) == (3, 1)
    assert_ledger_complete(batcher)


def test_a_watchdog_sees_how_long_a_step_has_been_running():
    clock, seen = Clock(), []

    def hanging(sample, timestep, cond):
        clock.now += 30
        seen.append(batcher.stalled_s)
        return denoise(sample, timestep, cond)

    batcher = StepBatcher(hanging, max_batch_rows=1, clock=clock)
    batcher.submit(job(1, steps=2))
    assert batcher.stalled_s == 0
    batcher.run_until_idle()
    clock.now += 1000  # idle is not stalled
    assert seen == [30, 30] and batcher.stalled_s == 0


def test_interactive_jobs_are_first_and_bulk_jobs_get_what_padding_would_waste():
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=8, buckets=(1, 2, 4, 8), bulk_share=0.01)
    bulk = [batcher.submit(job(n, 20, priority="bulk")) for n in range(8)]
    batcher.step()
    assert len(counting.calls[-1]) == 8  # alone, they have everything
    for n in (11, 12, 13):
        batcher.submit(job(n, 4, priority="interactive"))
    batcher.step()
    assert len(counting.calls[-1]) == 4  # three interactive ones, and a bulk job where padding would have been
    assert batcher.stats.pad_rows == 0 and batcher.stats.bulk_rows == 9
    batcher.run_until_idle()
    for n, future in enumerate(bulk):
        np.testing.assert_array_equal(sample_of(future), alone(n, 20))


def test_an_interactive_job_is_admitted_beside_a_batch_full_of_bulk_jobs():
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=2, bulk_share=0.01)
    bulk = [batcher.submit(job(n, 100, priority="bulk")) for n in range(2)]
    batcher.step()
    urgent = batcher.submit(job(3, 4, 2.0))
    for _ in range(4):
        batcher.step()
    np.testing.assert_array_equal(sample_of(urgent), alone(3, 4, 2.0))  # in as many calls as it has steps
    assert batcher.stats.bulk_rows == 2 and not any(future.done() for future in bulk)
    batcher.run_until_idle()
    np.testing.assert_array_equal(sample_of(bulk[1]), alone(1, 100))


@pytest.mark.parametrize("share", [0.05, 1 / 8, 0.5])
@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize("interactive_jobs", [1, 3, 8, 16])
def test_bulk_jobs_get_their_share_beside_any_interactive_load_and_each_its_turn(share, scale, interactive_jobs):
    batcher = StepBatcher(denoise, max_batch_rows=16, bulk_share=share, max_queue=100)
    done = {}
    for n in range(8):
        count = job(n, 1000, scale, priority="bulk", on_step=lambda k, total, sample, n=n: done.update({n: k + 1}))
        batcher.submit(count)
    for n in range(interactive_jobs):
        batcher.submit(job(n, 1000, scale))
    for _ in range(120):
        batcher.step()
    rows, bulk_rows = batcher.stats.rows, batcher.stats.bulk_rows
    slack = 16 + 2  # what one full call may be owed, and one job
    most = 8 * (2 if scale != 1 else 1) * 120  # every bulk job in every call
    assert bulk_rows >= min(share * rows, most) - slack
    assert bulk_rows < rows  # and interactive jobs are not starved either
    if share > 0.1:
        assert max(done.values()) - min(done.get(n, 0) for n in range(8)) <= 1  # they take turns


def test_nothing_is_owed_to_bulk_jobs_for_the_time_before_they_came():
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=4, bulk_share=0.5, buckets=None)
    for n in range(4):
        batcher.submit(job(n, 200))
    for _ in range(50):  # nobody to owe anything to
        batcher.step()
    for n in range(4, 8):
        batcher.submit(job(n, 200, priority="bulk"))
    batcher.step()
    assert batcher.stats.bulk_rows == 0
    for _ in range(10):
        batcher.step()
    assert 16 <= batcher.stats.bulk_rows <= 20  # half of forty rows


def test_a_queue_full_of_bulk_jobs_takes_interactive_ones():
    batcher = StepBatcher(denoise, max_batch_rows=1, max_queue=2)
    for n in range(2):
        batcher.submit(job(n, priority="bulk"))
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        batcher.submit(job(9, priority="bulk"))
    urgent = batcher.submit(job(3))
    batcher.run_until_idle()
    np.testing.assert_array_equal(sample_of(urgent), alone(3))
    assert (batcher.stats.refused, batcher.stats.finished) == (1, 3)


def test_a_trajectory_with_nothing_to_do_is_refused():
    with pytest.raises(ValueError, match="nothing to do"):
        StepBatcher(denoise, max_batch_rows=4).submit(Job("done", Doubling(1, steps=0)))


@pytest.mark.parametrize("change", [{"priority": "urgent"}, {"preview_every": 0}])
def test_a_job_that_says_nonsense_is_refused_on_construction(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        job(1, **change)


@pytest.mark.parametrize("share", [0.0, 0.51, -1.0])
def test_a_share_outside_its_range_is_refused(share):
    with pytest.raises(ValueError, match="bulk_share"):
        StepBatcher(denoise, 4, bulk_share=share)


TINY = (1, 2, 2)
TINY_UNCOND = {"cond": np.zeros(2, np.float32)}
TABLES = {
    (name, steps): table.for_steps(Schedule(clip_sample=clip), steps)
    for name, table, clip in (
        ("ddim", DDIMCoefficients, False),
        ("clipped", DDIMCoefficients, True),
        ("dpm", DPMSolverCoefficients, False),
        ("unipc", UniPCCoefficients, False),
    )
    for steps in range(1, 7)
}
NOISY = {steps: DDIMCoefficients.for_steps(SCHEDULE, steps, eta=0.8) for steps in (1, 2)}


def tiny_denoise(sample, timestep, cond):
    """As `denoise`, of sums and quotients only: they round alike wherever in a vector register an element stands."""
    level = (timestep.astype(np.float32) * np.float32(1e-3))[:, None, None, None]
    pulled = sample[:, :, ::-1] + cond["cond"][:, :, None, None].sum(axis=1, keepdims=True) + level
    return pulled / (1 + np.abs(pulled))


class TinyCourse:
    """One of many kinds of trajectory, drawn by its number."""

    def __init__(self, number: int):
        self.number, self.noise, self.cond = number, gaussian(number, 0, TINY), {"cond": gaussian(number, 1, 2)}

    def trajectory(self):
        n = self.number
        kind, steps = ("ddim", "clipped", "noisy", "dpm", "unipc", "doubling")[n % 6], 1 + n // 6 % 6
        if kind == "doubling":
            return TinyDoubling(self.noise.copy(), self.cond, steps)
        interval = (None, (200, 700))[n // 36 % 2]
        guidance = Guidance(self.cond, TINY_UNCOND, (1.0, 3.0, 7.5)[n // 12 % 3], interval)
        if kind in ("dpm", "unipc"):
            solver = (DPMSolver if kind == "dpm" else UniPCSolver)(TABLES[kind, steps], TINY)
        elif kind == "noisy":
            solver = DDIMSolver(NOISY[1 + steps % 2], TINY, n)  # few steps: they cost most, to draw their noise
        else:
            solver = DDIMSolver(TABLES[kind, steps], TINY, n)
        return GuidedTrajectory(self.noise, guidance, solver)


class TinyDoubling(Doubling):
    """Two evaluations per step, of three rows and of one."""

    def __init__(self, noise, cond, steps):
        self.sample, self.cond, self.other, self.uncond = noise, cond, {"cond": -cond["cond"]}, TINY_UNCOND
        self.num_steps, self.steps_done, self.max_rows, self.is_second = steps, 0, 3, False


def test_ten_thousand_random_schedules_are_bit_equal_to_running_alone_and_lose_no_job():
    courses = [TinyCourse(n) for n in range(72)]
    expected = [walk(course.trajectory(), tiny_denoise) for course in courses]
    endings = Counter()
    for seed in range(10_000):
        rng, clock = random.Random(seed), Clock()
        max_rows, buckets = rng.randint(3, 9), rng.choice([None, (), (1, 2, 4, 8)])
        allowed = set(range(1, max_rows + 1)) if buckets is None else {max_rows, *buckets}

        def timed(sample, timestep, cond, clock=clock, allowed=allowed, max_rows=max_rows):
            assert len(sample) in allowed and len(sample) <= max_rows
            clock.now += 1
            return tiny_denoise(sample, timestep, cond)

        batcher = StepBatcher(timed, max_rows, buckets, rng.randint(1, 4), rng.choice([0.05, 0.125, 0.5]), clock)
        running = []
        for _ in range(rng.randint(1, 4)):
            for _ in range(rng.randint(0, 3)):
                number, flag = rng.randrange(len(courses)), threading.Event()
                deadline = clock.now + rng.choice([0, 1, 3, 6]) if rng.random() < 0.2 else None
                job = Job(
                    str(number),
                    courses[number].trajectory(),
                    rng.choice(PRIORITIES),
                    is_cancelled=flag.is_set,
                    deadline=deadline,
                )
                try:
                    running.append((number, batcher.submit(job), flag, deadline))
                except QueueFullError:
                    endings["refused"] += 1
            if running and rng.random() < 0.25:
                _, future, flag, _ = rng.choice(running)
                flag.set() if rng.random() < 0.6 else future.cancel()
            now = clock.now
            batcher.step()
            assert_ledger_complete(batcher)
            for _, future, flag, deadline in running:  # whoever gave up, or is late, is answered within one step
                assert future.done() or not (flag.is_set() or (deadline is not None and now >= deadline))
        batcher.run_until_idle()
        for number, future, flag, deadline in running:
            assert future.done()
            error = None if future.cancelled() else future.exception()
            if future.cancelled() or isinstance(error, RequestCancelledError):
                assert future.cancelled() or flag.is_set()
                endings["cancelled"] += 1
            elif isinstance(error, DeadlineExceededError):
                assert deadline is not None and clock.now >= deadline
                endings["expired"] += 1
            else:
                assert np.array_equal(sample_of(future), expected[number])
                endings["finished"] += 1
        stats = batcher.stats
        assert (stats.waiting, stats.live, stats.failed) == (0, 0, 0)
        assert stats.finished + stats.cancelled + stats.expired == stats.submitted == len(running)
    assert all(endings[end] > 500 for end in ("finished", "cancelled", "expired", "refused")), endings
