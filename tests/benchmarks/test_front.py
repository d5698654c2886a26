"""Speed against quality: which ways are compared, and what a changed picture looks like in figures."""

from __future__ import annotations

import numpy as np

from benchmarks.front import MODES, Way, likeness, tables, ways
from benchmarks.samplers import REFERENCE, Mode
from runtime.request import GenerateResult


def result(level: int) -> GenerateResult:
    return GenerateResult(np.full((16, 16, 3), level, np.uint8), {})


def assess(photo: np.ndarray, picture: np.ndarray) -> dict[str, object]:
    """Sees the mean level as an age, and a bright picture as happy."""

    def seen(level: float) -> dict[str, object]:
        return {"age": level, "emotion": "happy" if level > 104 else "neutral"}

    before, after = float((photo.mean() + 1) * 127.5), float(picture.mean())
    return {"id_sim": 1 - abs(before - after) / 100, "before": seen(before), "after": seen(after)}


def test_the_exact_way_comes_first_and_is_the_only_one() -> None:
    compared = ways("onnxruntime", ["openvino-bf16"])
    assert compared[0] == Way("onnxruntime", REFERENCE)
    assert Way("onnxruntime", REFERENCE) not in compared[1:]
    assert Way("openvino-bf16", REFERENCE) in compared and Way("openvino-bf16", Mode("unipc", 10)) in compared
    assert [way.mode for way in compared if way.engine == "onnxruntime"] == [REFERENCE, *MODES]
    assert len({way.label for way in compared}) == len(compared)


def test_likeness_is_means_over_the_pictures_and_the_least_of_them() -> None:
    found = likeness([result(100), result(100)], [result(100), result(110)], assess)  # type: ignore[arg-type]
    off_by_ten = 10 * np.log10(255**2 / 100)
    assert found["least_psnr_db"] == round(off_by_ten, 2)
    assert (found["id_sim"], found["least_id_sim"]) == (0.95, 0.9)
    assert (found["age_years"], found["emotion_changed"]) == (5.0, 0.5)


def test_a_bundle_without_estimators_says_likeness_alone() -> None:
    found = likeness([result(9)], [result(9)], lambda photo, picture: {"id_sim": 1.0})  # type: ignore[arg-type]
    assert "age_years" not in found and found["id_sim"] == 1
    row = {"engine": "e", "mode": REFERENCE.label, "image_ms": {"median": 1.0}, "times_faster": 1.0, **found}
    (table,) = tables([row, {**row, "mode": "unipc, 9 steps"}], 4)
    assert table.title.startswith("approximate modes") and table.rows[1][-1] == "–"


def test_reduced_precision_and_fewer_steps_stand_apart() -> None:
    base = {"image_ms": {"median": 1.0}, "times_faster": 1.0, "psnr_db": 40, "least_psnr_db": 30, "id_sim": 1.0}
    named = [("a", REFERENCE.label), ("b", REFERENCE.label), ("a", "unipc, 10 steps")]
    reduced, fewer = tables([{"engine": engine, "mode": mode, **base} for engine, mode in named], 4)
    assert [row[0] for row in reduced.rows] == [f"a, {REFERENCE.label}", f"b, {REFERENCE.label}"]
    assert [row[0] for row in fewer.rows] == [f"a, {REFERENCE.label}", "a, unipc, 10 steps"]
