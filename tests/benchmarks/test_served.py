"""What the served benchmark counts and refuses, with a side that answers at once."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.inputs import requests
from benchmarks.served import IN_PROCESS, OUTSIDE, SERVED, check_same_picture, latency_of, throughput
from runtime.errors import ClipFaceFusionError
from runtime.request import CONDITIONS, GenerateRequest, GenerateResult


def answer(level: int) -> GenerateResult:
    return GenerateResult(np.full((4, 4, 3), level, np.uint8), {})


def test_throughput_keeps_the_requests_in_flight_and_gives_each_its_own_seed():
    everyone_is_in = threading.Barrier(4, timeout=10)  # breaks if fewer than four requests ever run at once
    seeds: list[int | None] = []

    def side(request: GenerateRequest) -> GenerateResult:
        seeds.append(request.seed)
        everyone_is_in.wait()
        return answer(0)

    measured = throughput(side, requests(5)["age"], concurrency=4, rounds=3)
    assert sorted(seeds) == list(range(12))
    assert measured["latency_ms"]["count"] == 12
    assert measured["images_per_s"] > 0


def test_equal_pictures_pass_and_the_difference_is_printed(capsys):
    check_same_picture({IN_PROCESS: answer(7), SERVED: answer(7)})
    assert "0 of 255 levels" in capsys.readouterr().out


def test_another_picture_from_the_server_is_not_timed():
    with pytest.raises(ClipFaceFusionError, match="1 levels, allowed 0"):
        check_same_picture({IN_PROCESS: answer(255), SERVED: answer(254)})


def test_everything_holds_every_kind_that_is_asked_alone():
    asked = requests(5, guidance_scale=2.0)
    kinds = {name for request in asked.values() for name in request.conditions}
    assert set(asked["everything"].conditions) == kinds == set(CONDITIONS) - {"valence_arousal"}
    assert all((request.num_inference_steps, request.guidance_scale) == (5, 2.0) for request in asked.values())


def test_what_is_outside_the_unet_is_told_apart():
    def side(request: GenerateRequest) -> GenerateResult:
        return GenerateResult(answer(0).image, {"unet_ms": 1000.0, "timings_ms": {"sample": 1001.0, "total": 1001.0}})

    parts = latency_of(side, requests(5)["age"])()
    assert parts.keys() == {OUTSIDE, "sample stage"}
    assert -1000 <= parts[OUTSIDE] < -900  # it took no time at all, and says that the UNet took a second
    assert 0 <= latency_of(side, requests(5)["age"], has_unet=False)()[OUTSIDE] < 100


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "name a bundle, or give --untrained SIDE instead"),
        (["bundles/demo", "--untrained", "256"], "name a bundle, or give --untrained SIDE instead"),
        (["bundles/demo", "--kind", "smell"], "--kind smell, allowed text, audio, reference, age, emotion, everything"),
    ],
)
def test_a_command_line_that_means_nothing_is_refused(flags, said, capsys):
    assert main(["served", *flags]) == 1
    assert said in capsys.readouterr().err
