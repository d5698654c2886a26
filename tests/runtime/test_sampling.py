"""Sampling on fake engines: what decides a picture, what does not, and how failures and cancelling end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import (
    DeadlineExceededError,
    EngineError,
    QueueFullError,
    RequestCancelledError,
    RequestError,
    UnavailableError,
)
from runtime.sampling import Sampler, SampleRequest
from runtime.settings import SampleSettings
from runtime.spec import ModelSpec
from tests.fakes import MODEL, fake_bundle

COND = {name: np.full(shape, 0.3, np.float32) for name, shape in MODEL.cond.items()}
REQUEST = SampleRequest(COND, SampleSettings(seed=3, guidance_scale=2.0, num_inference_steps=4))


def changed(**changes):
    """REQUEST with other settings, or other fields of its own."""
    own = {name: changes.pop(name) for name in list(changes) if hasattr(REQUEST, name)}
    return replace(REQUEST, settings=replace(REQUEST.settings, **changes), **own)


@pytest.fixture
def bundle(tmp_path):
    return fake_bundle(tmp_path / "bundle")


@pytest.fixture
def sampler(bundle):
    with Sampler(bundle) as sampler:
        yield sampler


def image(sampler, **changes) -> np.ndarray:
    return sampler.submit(changed(**changes)).result(timeout=30).image


def test_a_picture_is_uint8_of_the_model_s_size(sampler):
    picture = image(sampler)
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8 and picture.flags.c_contiguous


def test_the_same_request_gives_the_same_picture_alone_and_among_strangers(sampler):
    alone = image(sampler)
    futures = [sampler.submit(changed(seed=n, num_inference_steps=1 + n)) for n in (9, 5)]
    again = sampler.submit(REQUEST)
    np.testing.assert_array_equal(again.result(timeout=30).image, alone)
    assert all(future.result(timeout=30) for future in futures)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"num_inference_steps": 5},
        {"guidance_scale": 5.0},
        {"cond": {name: -array for name, array in COND.items()}},
        {"options": {"sampler": "dpm-solver++"}},
        {"options": {"sampler": "unipc"}},
        {"options": {"guidance_interval": (0, 500)}},
    ],
)
def test_every_setting_changes_the_picture(sampler, change):
    assert not np.array_equal(image(sampler), image(sampler, **change))


def test_the_report_says_what_was_used(sampler, bundle):
    report = sampler.submit(REQUEST).result(timeout=30).report
    timings = report.pop("timings_ms")
    assert timings.keys() == {"queue", "sample", "decode"} and 0 <= report.pop("unet_ms") <= timings["sample"]
    assert report == {
        "seed": 3,
        "num_inference_steps": 4,
        "guidance_scale": 2.0,
        "sampler": "ddim",
        "approximates": "ddim, 50 steps",
        "engine": "fake",
        "provider": "fake",
        "precision": "fp32",
        "bundle": "fake",
        "bundle_sha256": bundle.hash,
        "unet_calls": 4,
        "mean_batch": 2.0,
    }


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_inference_steps": 50}, {"sampler": "ddim"}),
        ({"num_inference_steps": 49}, {"sampler": "ddim", "approximates": "ddim, 50 steps"}),
        (
            {"num_inference_steps": 50, "options": {"sampler": "unipc"}},
            {"sampler": "unipc", "approximates": "ddim, 50 steps"},
        ),
        (
            {"num_inference_steps": 50, "options": {"guidance_interval": (100, 900)}},
            {"sampler": "ddim", "guidance_interval": [100, 900], "approximates": "ddim, 50 steps"},
        ),
    ],
)
def test_the_report_says_when_a_picture_is_a_cheaper_likeness(sampler, settings, said):
    report = sampler.submit(changed(**settings)).result(timeout=30).report
    assert {name: report[name] for name in ("sampler", "guidance_interval", "approximates") if name in report} == said


def test_guidance_outside_its_interval_costs_no_unconditional_rows(sampler):
    image(sampler, num_inference_steps=10, options={"guidance_interval": (300, 600)})  # timesteps 900, 800, …, 0
    assert sampler.stats.rows == 10 + 4


def test_an_approximate_sampler_refuses_steps_that_it_cannot_take(sampler):
    with pytest.raises(RequestError, match="num_inference_steps"):
        sampler.submit(changed(num_inference_steps=1000, options={"sampler": "unipc"}))


def test_previews_are_pictures_of_the_same_size_and_the_result_is_the_same(sampler):
    seen = []
    watched = changed(
        num_inference_steps=9,
        preview_every=2,
        on_preview=lambda step, num_steps, picture: seen.append((step, num_steps, picture)),
    )
    result = sampler.submit(watched).result(timeout=30).image
    np.testing.assert_array_equal(result, image(sampler, num_inference_steps=9))
    steps = [step for step, _, _ in seen]
    assert (
        steps == sorted(steps) and set(steps) <= {2, 4, 6, 8} and steps[-1] == 8
    )  # some may be skipped, not the newest
    assert all(total == 9 for _, total, _ in seen)
    assert all(picture.shape == (16, 16, 3) and picture.dtype == np.uint8 for _, _, picture in seen)


def test_a_slow_receiver_of_previews_gets_the_newest_and_never_a_queue(bundle):
    shown, stepped, at_least = [], threading.Event(), threading.Event()

    def slowly(step, num_steps, picture):
        shown.append(step)
        if len(shown) == 1:
            at_least.set()
            assert stepped.wait(30)  # until the steps have all been taken

    def on_step(step_index, num_steps, sample):
        if step_index == 1:
            assert at_least.wait(30)
        if step_index == 18:
            stepped.set()

    with Sampler(bundle) as sampler:
        request = changed(num_inference_steps=20, preview_every=1, on_preview=slowly, on_step=on_step)
        assert sampler.submit(request).result(timeout=30).image.shape == (16, 16, 3)
    assert shown[0] == 1 and len(shown) <= 4 and shown[-1] == 19


def test_a_receiver_of_previews_that_raises_costs_neither_its_picture_nor_its_neighbours(sampler):
    def raising(*_):
        raise ZeroDivisionError("in the caller's code")

    first = sampler.submit(changed(preview_every=1, on_preview=raising))
    neighbour = sampler.submit(changed(seed=8))
    assert first.result(timeout=30).image.shape == neighbour.result(timeout=30).image.shape


def test_a_request_may_be_cancelled_by_its_own_question(sampler):
    asked = sampler.submit(changed(num_inference_steps=500, is_cancelled=lambda: True))
    with pytest.raises(RequestCancelledError):
        asked.result(timeout=30)
    assert sampler.stats.calls == 0 and sampler.stats.cancelled == 1


def test_a_deadline_that_has_passed_ends_the_work(sampler):
    late = sampler.submit(changed(num_inference_steps=500, deadline_s=time.monotonic() - 1))
    with pytest.raises(DeadlineExceededError):
        late.result(timeout=30)
    assert sampler.stats.calls == 0 and sampler.stats.expired == 1


def test_a_bulk_request_lets_an_interactive_one_pass(bundle):
    hold, order = threading.Event(), []

    def wait(step_index, num_steps, sample):
        assert hold.wait(30)

    with Sampler(bundle) as sampler:
        bulk = [
            sampler.submit(
                changed(
                    seed=n,
                    num_inference_steps=200,
                    options={"priority": "bulk"},
                    on_step=wait,
                )
            )
            for n in range(20)
        ]
        urgent = sampler.submit(changed(num_inference_steps=3))
        for future in (*bulk, urgent):
            future.add_done_callback(order.append)
        hold.set()
        urgent.result(timeout=30)
    assert order[0] is urgent and len(order) == 21


def test_edits_that_wait_for_their_photo_to_be_encoded_are_bounded(bundle):
    entered, release = threading.Event(), threading.Event()

    def hold(*_):
        entered.set()
        assert release.wait(30)

    edit = changed(edit_from_timestep=500, image=np.zeros((1, 3, 16, 16), np.float32), options={"assess": False})
    with Sampler(bundle, max_queue=2) as sampler:
        shown = sampler.submit(changed(preview_every=1, on_preview=hold))
        assert entered.wait(30)  # the decoding thread, which encodes as well, is busy
        waiting = [sampler.submit(edit) for _ in range(2)]
        with pytest.raises(QueueFullError, match="2 edits are waiting"):
            sampler.submit(edit)
        release.set()
        assert all(future.result(timeout=30).image.shape == (16, 16, 3) for future in (shown, *waiting))
        sampler.submit(edit).result(timeout=30)


def test_an_observer_hears_of_waiting_steps_and_pictures_and_may_fail(bundle):
    heard = Counter()

    class Failing:
        def waited(self, seconds):
            heard["waited"] += 1

        def stepped(self, seconds, rows):
            heard["rows"] += rows

        def finished(self, seconds):
            heard["finished"] += 1
            raise ZeroDivisionError("in the metrics")

    with Sampler(bundle, observer=Failing()) as sampler:
        image(sampler)
        assert sampler.stalled_s >= 0
    assert heard == {"waited": 1, "rows": 8, "finished": 1}


def test_a_pixel_model_needs_no_decoder(tmp_path):
    model = ModelSpec(**{**MODEL.to_dict(), "is_latent": False, "sample_shape": (3, 16, 16)})
    bundle = fake_bundle(tmp_path / "pixels", model)
    with Sampler(bundle) as sampler:
        assert image(sampler).shape == (16, 16, 3)
    assert "decoder" not in bundle._engines


def test_guidance_off_costs_no_unconditional_rows(sampler):
    image(sampler, guidance_scale=1.0)
    assert sampler.stats.rows == 4
    image(sampler)
    assert sampler.stats.rows == 4 + 8


def test_steps_are_told_in_order(sampler):
    steps = []
    image(sampler, on_step=lambda step_index, num_steps, sample: steps.append((step_index, num_steps)))
    assert steps == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_more_steps_than_the_schedule_has_are_a_request_error(sampler):
    with pytest.raises(RequestError, match="num_inference_steps") as caught:
        sampler.submit(changed(num_inference_steps=1001))
    assert caught.value.field == "num_inference_steps"


def test_a_unet_that_gives_nan_fails_only_with_a_coded_error(bundle, monkeypatch):
    unet = bundle.engine("unet")
    with Sampler(bundle) as sampler:
        monkeypatch.setattr(
            sampler, "_unet", lambda inputs: {"noise_pred": np.full_like(unet(inputs)["noise_pred"], np.nan)}
        )
        with pytest.raises(EngineError, match="not finite at step 0"):
            image(sampler)


def test_a_decoder_that_gives_nan_never_becomes_a_picture(bundle):
    with Sampler(bundle) as sampler:
        sampler._decoder = lambda inputs: {"image": np.full((1, 3, 16, 16), np.nan, np.float32)}
        with pytest.raises(EngineError, match="decoder: output 'image' is not finite"):
            image(sampler)


def test_a_cancelled_future_stops_the_work_and_neighbours_go_on(sampler):
    started, go_on = threading.Event(), threading.Event()

    def hold(step_index, num_steps, sample):
        started.set()
        go_on.wait(30)

    long = sampler.submit(changed(num_inference_steps=500, on_step=hold))
    assert started.wait(30)
    neighbour = sampler.submit(REQUEST)
    assert long.cancel()
    go_on.set()
    assert neighbour.result(timeout=30).image.shape == (16, 16, 3)
    assert sampler.stats.cancelled == 1 and sampler.stats.calls < 50


def test_after_close_nothing_is_taken_and_what_was_is_done(bundle):
    sampler = Sampler(bundle)
    future = sampler.submit(REQUEST)
    sampler.close()
    assert future.done() and future.result().image.shape == (16, 16, 3)
    with pytest.raises(UnavailableError):
        sampler.submit(REQUEST)
    sampler.close()


def test_closing_without_draining_fails_what_runs_with_a_coded_error(bundle):
    started = threading.Event()
    sampler = Sampler(bundle)
    future = sampler.submit(changed(num_inference_steps=1000, on_step=lambda *_: started.set()))
    assert started.wait(30)
    sampler.close(drain=False)
    with pytest.raises(UnavailableError):
        future.result(timeout=30)
