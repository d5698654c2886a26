"""What the samplers benchmark compares: likeness to the exact picture, and rows of the UNet."""

from __future__ import annotations

import numpy as np

from benchmarks.samplers import MODES, REFERENCE, Mode, compare
from runtime.request import GenerateRequest, GenerateResult
from runtime.solvers import SOLVERS


def result(level: int, calls: int, rows: float) -> GenerateResult:
    return GenerateResult(np.full((16, 16, 3), level, np.uint8), {"unet_calls": calls, "mean_batch": rows})


def test_cost_is_rows_and_likeness_the_mean_over_the_pictures():
    exact = [result(100, 50, 2.0), result(100, 50, 2.0)]
    made = [result(100, 10, 2.0), result(110, 10, 1.0)]
    compared = compare(Mode("unipc", 10), exact, made)
    assert (compared["rows"], compared["exact_rows"], compared["times_fewer"]) == (15, 100, 6.67)
    off_by_ten = 10 * np.log10(255**2 / 100)
    assert compared["least_psnr_db"] == round(off_by_ten, 2) and compared["psnr_db"] == round((100 + off_by_ten) / 2, 2)


def test_a_mode_changes_how_and_not_what():
    request = GenerateRequest(age=3, seed=5)
    asked = Mode("unipc", 9, {"guidance_interval": (100, 200)}).of(request)
    assert (asked.age, asked.seed, asked.num_inference_steps) == (3, 5, 9)
    assert asked.options.sampler == "unipc" and asked.options.guidance_interval == (100, 200)
    assert REFERENCE.of(request).options.sampler == "ddim"


def test_every_sampler_is_measured():
    assert {mode.sampler for mode in MODES} == set(SOLVERS) and REFERENCE not in MODES
