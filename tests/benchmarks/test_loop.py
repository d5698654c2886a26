"""What the loop benchmark times: every gap between two calls of a free model, for every solver."""

from __future__ import annotations

import json

from benchmarks.__main__ import main
from benchmarks.loop import STEPS, steps_outside_model
from runtime.solvers import SOLVERS


def test_every_gap_between_two_calls_is_timed():
    gaps = steps_outside_model("ddim", (3, 8, 8), clips=True, scale=2.0)
    assert len(gaps) == STEPS - 1 and min(gaps) > 0


def test_a_run_measures_every_solver_with_and_without_clipping_and_guidance(capsys):
    assert main(["loop", "--side", "8", "--runs", "1"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["shape"] == [3, 8, 8]
    kinds = {(one["solver"], one["clip_sample"], one["guidance_scale"]) for one in document["per_step"]}
    assert kinds == {(solver, clips, scale) for solver in SOLVERS for clips in (False, True) for scale in (1.0, 3.0)}
    assert all(0 < one["least_ms"] <= one["median_ms"] for one in document["per_step"])
