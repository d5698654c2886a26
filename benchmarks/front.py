"""Speed against quality: reduced precision, fewer steps and cheaper guidance, each against the exact picture of the same request.

Likeness is told by PSNR and by the bundle's own networks: whose face it is, how old, and with what expression. Requests go through
`Pipeline` as a user's do, conditioning included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import requests
from benchmarks.samplers import CONDITIONS, MIDDLE, REFERENCE, Mode
from benchmarks.tables import Table
from benchmarks.timing import SETTLE_S, TOTAL, Parts, take_turns
from runtime.assessment import Assessor
from runtime.pipeline import Pipeline
from runtime.request import DEFAULT_STEPS, GenerateRequest, GenerateResult
from runtime.similarity import psnr_db
from runtime.solvers import DDIM

MODES = (
    Mode(DDIM, 25),
    Mode(DDIM, 10),
    Mode("dpm-solver++", 10),
    *(Mode("unipc", steps) for steps in (20, 15, 10, 8, 6)),
    Mode(DDIM, DEFAULT_STEPS, {"guidance_interval": MIDDLE}),
    Mode("unipc", 10, {"guidance_interval": MIDDLE}),
)


@dataclass(frozen=True)
class Way:
    """A mode on an engine."""

    engine: str
    mode: Mode

    @property
    def label(self) -> str:
        return f"{self.engine}, {self.mode.label}"


def ways(engine: str, reduced: Sequence[str]) -> list[Way]:
    """The exact way on the exact `engine` first, then each reduced engine with all steps, then all modes on the first, and two fast ones on each."""
    return [
        *(Way(each, REFERENCE) for each in (engine, *reduced)),
        *(Way(engine, mode) for mode in MODES),
        *(Way(each, Mode("unipc", steps)) for each in reduced for steps in (10, 8)),
    ]


def measure(folder: Path, compared: Sequence[Way], threads: int, repeats: int, seeds: int) -> list[dict[str, Any]]:
    """One row per way, the first of which is what the others are held against: its time, and what it changed in the pictures."""
    asked = [replace(requests(DEFAULT_STEPS)[name], seed=seed) for name in CONDITIONS for seed in range(seeds)]
    with ExitStack() as stack:
        engines = dict.fromkeys(way.engine for way in compared)
        pipelines = {name: stack.enter_context(Pipeline.open(folder, name, threads)) for name in engines}
        made = {way.label: [pipelines[way.engine](way.mode.of(request)) for request in asked] for way in compared}
        exact = compared[0]
        assess = Assessor(pipelines[exact.engine].bundle)
        timed = take_turns(
            {way.label: partial(_run, pipelines[way.engine], way.mode.of(asked[0])) for way in compared},
            repeats,
            settle_s=SETTLE_S,
        )
    slowest = timed[exact.label][TOTAL].median
    return [
        {
            "engine": way.engine,
            "mode": way.mode.label,
            "image_ms": timed[way.label][TOTAL].to_dict(),
            "times_faster": round(slowest / timed[way.label][TOTAL].median, 2),
            **likeness(made[exact.label], made[way.label], assess),
        }
        for way in compared
    ]


def likeness(exact: Sequence[GenerateResult], made: Sequence[GenerateResult], assess: Assessor) -> dict[str, float]:
    """Means over the pictures: PSNR in dB and the least of them, cosine of identities, difference of ages in years, share whose emotion label differs."""
    seen: list[Mapping[str, Any]] = [
        assess(_pixels(before.image), after.image) for before, after in zip(exact, made, strict=True)
    ]
    psnr = [psnr_db(before.image, after.image) for before, after in zip(exact, made, strict=True)]
    ages = [abs(one["after"]["age"] - one["before"]["age"]) for one in seen if "after" in one]
    emotions = [one["after"]["emotion"] != one["before"]["emotion"] for one in seen if "after" in one]
    return {
        "psnr_db": round(float(np.mean(psnr)), 2),
        "least_psnr_db": round(min(psnr), 2),
        "id_sim": round(float(np.mean([one["id_sim"] for one in seen])), 4),
        "least_id_sim": round(min(one["id_sim"] for one in seen), 4),
        **(
            {"age_years": round(float(np.mean(ages)), 2), "emotion_changed": round(float(np.mean(emotions)), 3)}
            if ages
            else {}
        ),
    }


def tables(rows: Sequence[Mapping[str, Any]], pictures: int) -> list[Table]:
    """Reduced precision with all steps, and approximate modes, apart; the exact way heads both."""
    header = ("way", "image ms", "times faster", "PSNR dB", "least", "id_sim", "age off, years", "emotion changed")

    def shown(row: Mapping[str, Any]) -> list[str | float]:
        emotion = row.get("emotion_changed")
        return [
            f"{row['engine']}, {row['mode']}",
            row["image_ms"]["median"],
            *(row[key] for key in ("times_faster", "psnr_db", "least_psnr_db")),
            f"{row['id_sim']:.3f}",
            row.get("age_years", "–"),
            "–" if emotion is None else f"{emotion:.0%}",
        ]

    exact, *others = rows
    reduced = [row for row in others if row["mode"] == REFERENCE.label]
    fewer = [row for row in others if row["mode"] != REFERENCE.label]
    against = f"through Pipeline, against the first row, {pictures} pictures each"
    return [
        Table(title, header, [shown(row) for row in (exact, *part)])
        for title, part in (
            (f"reduced precision, {against}", reduced),
            (f"approximate modes, {against}", fewer),
        )
        if part
    ]


def _run(pipeline: Pipeline, request: GenerateRequest) -> Parts:
    pipeline(request)
    return {}


def _pixels(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (3, H, W) float32 in [-1, 1]."""
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32) / 127.5 - 1
