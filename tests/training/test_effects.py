"""The comparison of losses: its statistics by arithmetic, and a whole small run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runtime.errors import BundleError
from training import checkpoint
from training.effects import CONTROL, FIGURES, Effect, Settings, compare, effect, main
from training.model import ClipFaceFusion

SMALL = Settings(steps=3, batch_size=4, held_out=3, sampling_steps=2)
ALIGNED = {"stages": {"alignment": {}}, "data": "none"}


def test_a_paired_difference_by_hand() -> None:
    found = effect("id_sim", {"id_sim": [0.1, 0.2, None, 0.3]}, {"id_sim": [0.2, 0.4, 0.9, 0.6]})
    assert found.pictures == 3
    assert (found.without, found.with_it) == (pytest.approx(0.2), pytest.approx(0.4))
    assert found.difference == pytest.approx(0.2) and found.error == pytest.approx(0.1 / 3**0.5)


@pytest.mark.parametrize(
    ("figure", "difference", "verdict"),
    [
        ("id_sim", 0.3, "better"),
        ("id_sim", -0.3, "worse"),
        ("id_sim", 0.1, "no difference shown"),
        ("age_mae", -0.3, "better"),
        ("age_mae", 0.3, "worse"),
    ],
)
def test_a_verdict_needs_two_standard_errors_in_the_figures_own_direction(
    figure: str, difference: float, verdict: str
) -> None:
    assert Effect(figure, 0.0, difference, difference, error=0.1, pictures=9).verdict == verdict


@pytest.mark.parametrize("term", FIGURES)
def test_a_run_has_l_simple_and_its_own_term_alone(term: str) -> None:
    chosen, control = SMALL.losses(term), SMALL.losses(CONTROL)
    assert [name for name in FIGURES if getattr(chosen, name)] == [term]
    assert not any(getattr(control, name) for name in FIGURES) and chosen.simple == control.simple == 1


def save(model: ClipFaceFusion, folder: Path, provenance: dict[str, object]) -> Path:
    checkpoint.save(model, folder, provenance)
    return folder


def test_a_comparison_runs_reports_and_is_not_done_twice(
    little_model: ClipFaceFusion, little_world_folder: Path, tmp_path: Path
) -> None:
    base, out = save(little_model, tmp_path / "base", ALIGNED), tmp_path / "out"
    compare(base, out, SMALL, ["age", "cross_modal"], little_world_folder, workers=1)
    effects = json.loads((out / "effects.json").read_text())["effects"]
    assert set(effects) == {"age", "cross_modal"}
    assert effects["age"]["figure"] == "age_mae" and effects["age"]["pictures"] == SMALL.held_out
    assert effects["cross_modal"]["difference"] != 0  # three steps move the fusion's norms
    table = (out / "effects.md").read_text()
    assert "| age | age_mae | lower |" in table and "| cross_modal | cmc | higher |" in table
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/pictures.json")}
    compare(base, out, SMALL, ["age"], little_world_folder, workers=1)
    assert len(written) == 3 and all(path.stat().st_mtime_ns == time for path, time in written.items())
    with pytest.raises(BundleError, match=r"other settings or data \(steps 3 → 4"):
        compare(base, out, Settings(steps=4), ["age"], little_world_folder, workers=1)
    with pytest.raises(BundleError, match=r"other settings or data \(data .* → None\)"):
        compare(base, out, SMALL, ["age"], None, workers=1)
    begun = json.loads((out / "settings.json").read_text())
    del begun["data"]  # from before it was noted
    (out / "settings.json").write_text(json.dumps(begun))
    compare(base, out, SMALL, ["age"], little_world_folder, workers=1)
    (out / "settings.json").write_text(json.dumps(begun))
    (out / "world").mkdir()  # which a comparison on drawn people leaves
    with pytest.raises(BundleError, match=r"other settings or data \(data None → "):
        compare(base, out, SMALL, ["age"], little_world_folder, workers=1)


def test_a_checkpoint_that_was_never_aligned_is_refused(
    little_model: ClipFaceFusion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = save(little_model, tmp_path / "base", {"stages": {}})
    assert main(["--from", str(base), "--out", str(tmp_path / "out")]) == 1
    assert "--stages alignment diffusion" in capsys.readouterr().err
