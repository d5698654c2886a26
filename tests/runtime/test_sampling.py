"""Sampling on fake engines: what decides a picture, what does not, and how failures and cancelling end."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest

from runtime.errors import EngineError, RequestError, UnavailableError
from runtime.sampling import Sampler, SampleRequest
from runtime.spec import ModelSpec
from tests.fakes import MODEL, fake_bundle

COND = {name: np.full(shape, 0.3, np.float32) for name, shape in MODEL.cond.items()}
REQUEST = SampleRequest(COND, seed=3, num_inference_steps=4, guidance_scale=2.0)


@pytest.fixture
def bundle(tmp_path):
    return fake_bundle(tmp_path / "bundle")


@pytest.fixture
def sampler(bundle):
    with Sampler(bundle) as sampler:
        yield sampler


def image(sampler, **changes) -> np.ndarray:
    return sampler.submit(replace(REQUEST, **changes)).result(timeout=30).image


def test_a_picture_is_uint8_of_the_model_s_size(sampler):
    picture = image(sampler)
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8 and picture.flags.c_contiguous


def test_the_same_request_gives_the_same_picture_alone_and_among_strangers(sampler):
    alone = image(sampler)
    futures = [sampler.submit(replace(REQUEST, seed=n, num_inference_steps=1 + n)) for n in (9, 5)]
    again = sampler.submit(REQUEST)
    np.testing.assert_array_equal(again.result(timeout=30).image, alone)
    assert all(future.result(timeout=30) for future in futures)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"num_inference_steps": 5},
        {"guidance_scale": 5.0},
        {"eta": 1.0},
        {"cond": {name: -array for name, array in COND.items()}},
    ],
)
def test_every_setting_changes_the_picture(sampler, change):
    assert not np.array_equal(image(sampler), image(sampler, **change))


def test_the_report_says_what_was_used(sampler, bundle):
    report = sampler.submit(REQUEST).result(timeout=30).report
    assert report.pop("timings_ms").keys() == {"sample", "decode"}
    assert report == {
        "seed": 3,
        "num_inference_steps": 4,
        "guidance_scale": 2.0,
        "engine": "fake",
        "provider": "fake",
        "precision": "fp32",
        "bundle": "fake",
        "bundle_sha256": bundle.hash,
    }


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
        sampler.submit(replace(REQUEST, num_inference_steps=1001))
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

    long = sampler.submit(replace(REQUEST, num_inference_steps=500, on_step=hold))
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
    future = sampler.submit(replace(REQUEST, num_inference_steps=1000, on_step=lambda *_: started.set()))
    assert started.wait(30)
    sampler.close(drain=False)
    with pytest.raises(UnavailableError):
        future.result(timeout=30)
