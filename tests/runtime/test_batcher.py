"""The step-level batcher: exactness, order, bounds, cancellation, faults, and a ledger in which no job is missing."""

from __future__ import annotations

import concurrent.futures
import random
import threading

import numpy as np
import pytest

from runtime.batcher import Job, StepBatcher
from runtime.ddim import DDIMCoefficients, sample_loop
from runtime.errors import EngineError, QueueFullError, RequestCancelledError, RequestError, UnavailableError
from runtime.guidance import guide
from runtime.noise import gaussian, step_stream
from runtime.schedule import Schedule

SCHEDULE = Schedule()
SHAPE = (2, 4, 4)
WAIT_S = 20  # a hang fails the test instead of blocking it


def denoise(sample, timestep, cond):
    """A row-wise stand-in for a UNet: depends on every input, and each row only on itself."""
    level = (timestep.astype(np.float32) / 1000)[:, None, None, None]
    pull = cond["cond"].mean(axis=1)[:, None, None, None] + cond["cond_tokens"].max(axis=(1, 2))[:, None, None, None]
    return np.tanh(sample * level + pull) - np.roll(sample, 1, axis=-1) * np.float32(0.25)


def job(number: int, steps: int = 4, guidance_scale: float = 1.0, eta: float = 0.0, shape=SHAPE, **callbacks) -> Job:
    return Job(
        job_id=f"job-{number}",
        sample=gaussian(number, 0, shape),
        cond={"cond": gaussian(number, 1000, 6), "cond_tokens": gaussian(number, 1001, (2, 3))},
        coefficients=DDIMCoefficients.for_steps(SCHEDULE, steps, eta),
        uncond={"cond": np.zeros(6, np.float32), "cond_tokens": np.zeros((2, 3), np.float32)},
        guidance_scale=guidance_scale,
        seed=number,
        **callbacks,
    )


def alone(job: Job) -> np.ndarray:
    """The result by the plainest route: the sampler loop over a guided denoiser, batch of one."""
    guided = guide(denoise, {name: array[None] for name, array in job.uncond.items()}, job.guidance_scale)
    cond = {name: array[None] for name, array in job.cond.items()}

    def noise(step_index):
        return gaussian(job.seed, step_stream(step_index), job.sample.shape)[None]

    return sample_loop(guided, job.sample[None], cond, job.coefficients, noise=noise)[0]


def assert_ledger_complete(batcher: StepBatcher) -> None:
    stats = batcher.stats
    assert stats.submitted == stats.finished + stats.failed + stats.cancelled + stats.waiting + stats.live, stats


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
    one = job(1, steps=6, guidance_scale=guidance_scale, eta=eta)
    future = batcher.submit(one)
    batcher.run_until_idle()
    result = future.result(timeout=0)
    assert result.dtype == np.float32 and result.shape == SHAPE and result.flags.writeable
    np.testing.assert_array_equal(result, alone(one))


def test_jobs_with_different_steps_guidance_and_eta_share_calls_without_touching_each_other():
    jobs = [job(1, 3), job(2, 7, 4.0), job(3, 5, eta=0.5), job(4, 2, 1.5, eta=1.0), job(5, 9)]
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=8)
    futures = [batcher.submit(one) for one in jobs]
    batcher.run_until_idle()
    for one, future in zip(jobs, futures, strict=True):
        np.testing.assert_array_equal(future.result(timeout=0), alone(one))
    assert len(counting.calls) == 9  # as many as the longest job has steps: all advance in every call
    assert batcher.stats.rows == 3 + 2 * 7 + 5 + 2 * 2 + 9 and batcher.stats.finished == 5
    assert_ledger_complete(batcher)


def test_a_job_admitted_mid_flight_joins_the_next_call_and_is_bit_equal():
    counting = CountingDenoiser()
    batcher = StepBatcher(counting, max_batch_rows=4, buckets=None)
    first, second = job(1, 10), job(2, 4, 2.0)
    futures = [batcher.submit(first)]
    for _ in range(3):
        batcher.step()
    futures.append(batcher.submit(second))
    batcher.run_until_idle()
    assert [len(call) for call in counting.calls] == [1, 1, 1, 3, 3, 3, 3, 1, 1, 1]
    for one, future in zip((first, second), futures, strict=True):
        np.testing.assert_array_equal(future.result(timeout=0), alone(one))


def test_random_schedules_are_bit_equal_to_running_alone_and_lose_no_job():
    pool = [
        job(n, steps=1 + n % 7, guidance_scale=(1.0, 2.0, 7.5)[n % 3], eta=(0.0, 0.0, 0.6)[n % 3 - 2])
        for n in range(24)
    ]
    expected = [alone(one) for one in pool]
    outcomes = {"finished": 0, "cancelled": 0, "refused": 0}
    for seed in range(300):
        rng = random.Random(seed)
        buckets = rng.choice([None, (), (1, 2, 4, 8)])
        batcher = StepBatcher(denoise, rng.randint(2, 8), buckets, max_queue=rng.randint(1, 6))
        running = []
        for _ in range(rng.randint(1, 12)):
            for _ in range(rng.randint(0, 3)):
                number, flag = rng.randrange(len(pool)), threading.Event()
                original = pool[number]
                copy = Job(**{name: getattr(original, name) for name in ARRAY_FIELDS}, is_cancelled=flag.is_set)
                try:
                    running.append((number, batcher.submit(copy), flag))
                except QueueFullError:
                    outcomes["refused"] += 1
            if running and rng.random() < 0.2:
                _, future, flag = rng.choice(running)
                flag.set() if rng.random() < 0.7 else future.cancel()
            batcher.step()
            assert_ledger_complete(batcher)
        batcher.run_until_idle()
        for number, future, flag in running:
            assert future.done()
            if future.cancelled() or future.exception() is not None:
                assert future.cancelled() or (flag.is_set() and isinstance(future.exception(), RequestCancelledError))
                outcomes["cancelled"] += 1
            else:
                np.testing.assert_array_equal(future.result(), expected[number])
                outcomes["finished"] += 1
        stats = batcher.stats
        assert (stats.waiting, stats.live, stats.failed) == (0, 0, 0)
        assert stats.finished + stats.cancelled == stats.submitted == len(running)
    assert all(count > 100 for count in outcomes.values()), outcomes  # the schedules reach what they are meant to


ARRAY_FIELDS = ("job_id", "sample", "cond", "coefficients", "uncond", "guidance_scale", "seed")


def test_submissions_from_many_threads_are_all_answered_right():
    jobs = [job(n, steps=1 + n % 5, guidance_scale=(1.0, 3.0)[n % 2]) for n in range(60)]
    expected = [alone(one) for one in jobs]
    with (
        StepBatcher(denoise, max_batch_rows=6, max_queue=100) as batcher,
        concurrent.futures.ThreadPoolExecutor(8) as callers,
    ):
        results = list(callers.map(lambda one: batcher.submit(one).result(timeout=WAIT_S), jobs))
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)
    assert batcher.stats.finished == 60


def test_several_threads_may_drive_one_batcher():
    batcher = StepBatcher(denoise, max_batch_rows=4)

    def call(one):
        future = batcher.submit(one)
        batcher.run_until_idle()
        return future.result(timeout=WAIT_S)

    jobs = [job(n) for n in range(16)]
    with concurrent.futures.ThreadPoolExecutor(4) as callers:
        for one, result in zip(jobs, callers.map(call, jobs), strict=True):
            np.testing.assert_array_equal(result, alone(one))


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
    np.testing.assert_array_equal(futures[2].result(timeout=0), alone(job(2, steps=1)))


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
    jobs = [job(1, 3), job(2, 3, shape=(2, 8, 8)), job(3, 3)]
    futures = [batcher.submit(one) for one in jobs]
    batcher.run_until_idle()
    assert [len(call) for call in counting.calls] == [2, 1, 2, 1, 2, 1]
    for one, future in zip(jobs, futures, strict=True):
        np.testing.assert_array_equal(future.result(timeout=0), alone(one))


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
    with pytest.raises(RequestError, match=r"guidance_scale: 2\.0 needs 2 rows"):
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
    np.testing.assert_array_equal(seen[-1][2], future.result(timeout=0))


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
    np.testing.assert_array_equal(waiting.result(timeout=0), alone(job(2, steps=2)))
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

    bad = job(1)
    bad = Job("bad", bad.sample, {**bad.cond, "cond": np.full(6, 666, np.float32)}, bad.coefficients)
    with StepBatcher(broken_for_strangers, max_batch_rows=4) as batcher:
        with pytest.raises(EngineError, match="job 'bad'") as failure:
            batcher.submit(bad).result(timeout=WAIT_S)
        assert "secret" not in str(failure.value) and isinstance(failure.value.__cause__, OSError)
        after = batcher.submit(job(2)).result(timeout=WAIT_S)  # the thread lives
    np.testing.assert_array_equal(after, alone(job(2)))
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

    good, bad = job(1), job(2, guidance_scale=guidance_scale)
    bad = Job(
        "bad",
        bad.sample,
        {**bad.cond, "cond": np.full(6, 666, np.float32)},
        bad.coefficients,
        bad.uncond,
        guidance_scale,
    )
    batcher = StepBatcher(poisoned, max_batch_rows=4)
    futures = [batcher.submit(good), batcher.submit(bad)]
    batcher.run_until_idle()
    np.testing.assert_array_equal(futures[0].result(timeout=0), alone(good))
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
    np.testing.assert_array_equal(futures[1].result(timeout=0), alone(job(2)))


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
        np.testing.assert_array_equal(future.result(timeout=0), alone(job(n, steps=20)))
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


def test_a_job_keeps_its_own_copy_of_the_arrays():
    sample, cond = gaussian(1, 0, SHAPE), {"cond": gaussian(1, 1, 6), "cond_tokens": gaussian(1, 2, (2, 3))}
    one = Job("own", sample, cond, DDIMCoefficients.for_steps(SCHEDULE, 3))
    expected = alone(one)
    batcher = StepBatcher(denoise, max_batch_rows=1)
    future = batcher.submit(one)
    sample[:] = cond["cond"][:] = np.nan
    batcher.run_until_idle()
    np.testing.assert_array_equal(future.result(timeout=0), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sample": np.zeros((4, 4), np.float32)}, r"sample has shape \(4, 4\)"),
        ({"guidance_scale": float("nan")}, "guidance_scale=nan"),
        ({"guidance_scale": 2.0, "uncond": {}}, "uncond"),
        ({"guidance_scale": 2.0, "uncond": {"cond": np.zeros(6, np.float32)}}, "uncond"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**63}, "seed="),
    ],
)
def test_a_job_that_cannot_run_is_refused_on_construction(change, message):
    good = job(1)
    fields = {name: getattr(good, name) for name in ARRAY_FIELDS} | change
    with pytest.raises(ValueError, match=message):
        Job(**fields)


@pytest.mark.parametrize("bad", [{"max_batch_rows": 0}, {"max_batch_rows": 4, "max_queue": 0}])
def test_limits_below_one_are_refused(bad):
    with pytest.raises(ValueError, match="at least 1"):
        StepBatcher(denoise, **bad)
    with pytest.raises(ValueError, match="buckets"):
        StepBatcher(denoise, 4, buckets=(0, 2))
