"""The settings of a sample: the request table's ranges hold for whoever reaches the sampler past it."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from runtime.errors import DeadlineExceededError, RequestError
from runtime.settings import SampleSettings

SETTINGS = SampleSettings(seed=7, guidance_scale=2.5, num_inference_steps=4, edit_from_timestep=500, preview_every=2)


def test_settings_survive_the_way_through_a_tensor():
    array = SETTINGS.to_array()
    assert array.shape == (1,) and SampleSettings.from_array(array) == SETTINGS
    assert SampleSettings.from_array(array[None]) == SETTINGS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": -1}, "seed: got -1, allowed 0.."),
        ({"seed": None}, "seed: missing"),
        ({"guidance_scale": float("nan")}, "guidance_scale: got nan"),
        ({"num_inference_steps": 0}, "num_inference_steps: got 0"),
        ({"edit_from_timestep": 1000}, "edit_from_timestep: got 1000, allowed 1..999"),
        ({"options": {"mood": 1}}, "options: unknown key 'mood'"),
    ],
)
def test_what_the_request_table_refuses_is_refused_here_too(changes, message):
    with pytest.raises(RequestError) as caught:
        SampleSettings(**{"seed": 7, "guidance_scale": 2.5, **changes})
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"{}", b'{"seed": 1, "guidance_scale": 1, "mood": 2}', b"\xff", 5]
)
def test_a_tensor_that_holds_no_settings_is_refused(content):
    with pytest.raises(RequestError):
        SampleSettings.from_array(np.array([content], object))


def test_the_tensor_holds_json_that_others_can_read():
    assert json.loads(SETTINGS.to_array()[0]) == {
        "seed": 7,
        "guidance_scale": 2.5,
        "num_inference_steps": 4,
        "edit_from_timestep": 500,
        "preview_every": 2,
        "options": {},
        "deadline_s": None,
        "tenant": "",
    }


def test_a_deadline_crosses_as_it_is_and_is_over_when_the_clock_has_passed_it():
    soon = SampleSettings(1, 2.0, options={"deadline_ms": 60_000}, deadline_s=time.monotonic() + 60)
    assert SampleSettings.from_array(soon.to_array()) == soon
    soon.check_deadline()
    with pytest.raises(DeadlineExceededError, match="the 5 ms of the request are over"):
        SampleSettings(1, 2.0, options={"deadline_ms": 5}, deadline_s=time.monotonic() - 0.001).check_deadline()
    SampleSettings(1, 2.0).check_deadline()


@pytest.mark.parametrize("value", ["soon", [1]])
def test_a_deadline_that_is_no_number_is_refused(value):
    with pytest.raises(RequestError, match="deadline_s"):
        SampleSettings(1, 2.0, deadline_s=value)
