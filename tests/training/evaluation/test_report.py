"""The whole way from checkpoint to report, on an untrained model and untrained judges: complete, repeatable, honest about gaps."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from training.checkpoint import CONFIG_FILE, read_settings
from training.evaluation import command
from training.evaluation.command import l_cm_note, main
from training.evaluation.figure import METRICS
from training.evaluation.making import CONDITIONS, MeasureSettings
from training.evaluation.measure import evaluate, measure

DEMO = Path(__file__).parents[3] / "bundles" / "demo-checkpoint"
QUICK = ["--count", "36", "--steps", "2", "--seeds", "42", "123", "--spread", "6"]
# The smallest report has no room for these: published weights, and a hundred impostors.
UNREACHABLE = {"lpips", "id_tar", "id_tar.reference", "id_tar.changed", "id_rank1_matched.changed"}


def run(out: Path, untrained: Path, judges: Path, world: Path) -> None:
    arguments = [str(untrained), "--out", str(out), "--judges", str(judges), "--data", str(world), *QUICK]
    assert main([*arguments, "--processes", "1"]) == 0


@pytest.fixture(scope="module")
def reported(tmp_path_factory, untrained, judges_folder, held_out_folder) -> Path:
    out = tmp_path_factory.mktemp("report")
    run(out, untrained, judges_folder, held_out_folder)
    return out


@pytest.fixture(scope="module")
def document(reported: Path) -> dict:
    return json.loads((reported / "report.json").read_text())


def test_every_metric_is_measured_or_skipped_with_a_reason(document):
    named = {key.split(".")[0] for key in (*document["figures"], *document["skipped"])}
    assert set(METRICS) <= named
    assert all(document["skipped"].values())
    assert set(document["skipped"]) >= UNREACHABLE


def test_figures_have_direction_value_per_seed_and_neighbours(document):
    for key, figure in document["figures"].items():
        assert figure["direction"] == METRICS[key.split(".")[0]].direction
        assert len(figure["values"]) == 2
        assert figure["value"] == pytest.approx(np.mean(figure["values"]), rel=1e-6, abs=1e-9)
        assert figure["deviation"] == pytest.approx(np.std(figure["values"], ddof=1), rel=1e-5, abs=1e-9)
        assert figure["beside"], key
        assert figure["given"].split(" ")[0] in CONDITIONS
    for name in ("fid", "kid", "spectrum_error", "fine_detail", "told_apart"):
        assert set(document["figures"][name]["beside"]) - {"ages", "chance"} == {"real", "autoencoded", "blurred"}
    assert "ages" in document["figures"]["kid"]["beside"]
    assert document["figures"]["id_auc"]["beside"]["chance"] == 0.5


def test_real_pictures_of_other_people_lie_nearer_than_blurred_ones(document):
    beside = document["figures"]["spectrum_error"]["beside"]
    assert beside["real"] < beside["blurred"]
    likeness = document["figures"]["ssim"]["beside"]
    assert likeness["real"] < likeness["blurred"]  # a blur of the very picture is more like it than another picture


def test_cmc_says_whether_training_optimised_it(document):
    assert document["figures"]["cmc"]["note"].startswith("L_CM was on, weight 0.01")
    off = {"stages": {"diffusion": {}}, "started_from": None}
    tuned = {"stages": {"consistency": {}}, "losses": {"cross_modal": 0.25}}
    assert l_cm_note(off) == l_cm_note({"losses": {"cross_modal": 0.0}}) == "L_CM was off"
    assert l_cm_note({**off, "started_from": {"provenance": off}}) == "L_CM was off"
    assert l_cm_note({**off, "started_from": {"provenance": tuned}}).startswith("L_CM was on, weight 0.25")
    for silent in ({}, {"stages": {"consistency": {}}}, {**off, "started_from": {"provenance": {}}}):
        assert "not recorded" in l_cm_note(silent)


@pytest.mark.skipif(not DEMO.is_dir(), reason="no checkpoint is shipped in bundles/demo-checkpoint")
def test_of_the_shipped_model_it_is_known_whether_l_cm_was_on():
    assert "not recorded" not in l_cm_note(read_settings(DEMO)["provenance"])


def test_what_training_never_showed_is_not_asked_for_and_the_report_says_so(
    untrained, judges_folder, held_out_folder, tmp_path
):
    folder, out = tmp_path / "checkpoint", tmp_path / "out"
    shutil.copytree(untrained, folder)
    described = json.loads((folder / CONFIG_FILE).read_text())
    described["provenance"]["never_seen"] = ["audio"]
    (folder / CONFIG_FILE).write_text(json.dumps(described))
    few = ["--count", "20", "--steps", "1", "--seeds", "42", "--spread", "0", "--conditions", "all", "audio", "age"]
    arguments = [str(folder), "--out", str(out), "--judges", str(judges_folder), "--data", str(held_out_folder), *few]
    assert main([*arguments, "--processes", "1"]) == 0
    document = json.loads((out / "report.json").read_text())
    assert document["settings"]["never"] == ["audio"]
    assert document["skipped"]["condition audio"] == "training never showed it: audio"
    assert "age_mae" in document["figures"] and not any(key.endswith(".audio") for key in document["figures"])
    for file in ("report.md", "targets.md"):
        assert "Never seen in training, so not given here: audio." in (out / file).read_text()


def test_the_report_names_the_checkpoint_the_judges_and_the_data_by_hash(document, judges_folder):
    card = json.loads((judges_folder / "judges.json").read_text())
    assert document["judges"]["sha256"] == card["sha256"]
    assert len(document["checkpoint"]["sha256"]) == 64
    assert document["data"]["caches"][0]["key"]["split"] == "test"


def test_markdown_shows_every_figure_every_gap_and_every_plot(reported, document):
    text = (reported / "report.md").read_text()
    for key in document["figures"]:
        name, _, condition = key.partition(".")
        assert any(f"`{name}`" in line and (condition or "e") in line for line in text.splitlines())
    for key, reason in document["skipped"].items():
        assert f"- `{key}`: {reason}" in text
    for plot in ("pictures", "metrics", "age", "emotion", "identity", "spectrum"):
        assert f"({plot}.png)" in text
        assert (reported / f"{plot}.png").stat().st_size > 1000


def test_the_same_evaluation_gives_the_same_bytes(reported, tmp_path, untrained, judges_folder, held_out_folder):
    run(tmp_path, untrained, judges_folder, held_out_folder)
    for file in ("report.json", "report.md", "targets.md", "age.png", "identity.png", "pictures.png"):
        assert (tmp_path / file).read_bytes() == (reported / file).read_bytes(), file


def test_measure_gives_the_report_s_figures(document, examples, judges, held_out):
    settings = MeasureSettings(count=36, seeds=(42, 123), steps=2, spread=6)
    figures = measure(examples.model, held_out, judges, settings, examples.features)
    assert set(figures) == set(document["figures"])
    for key, figure in figures.items():
        assert figure.value == pytest.approx(document["figures"][key]["value"], rel=1e-5, abs=1e-6), key


def test_measure_computes_features_where_none_are_given(examples, judges, held_out):
    settings = MeasureSettings(count=5, seeds=(1,), steps=1, conditions=("age",))
    figures = measure(examples.model, held_out, judges, settings)
    assert "age_mae.age" in figures and "cmc" not in figures
    assert math.isnan(figures["age_mae.age"].deviation)
    given = measure(examples.model, held_out, judges, settings, examples.features)
    assert figures["age_mae.age"].values == given["age_mae.age"].values


def test_what_the_data_lacks_is_skipped_by_name(examples, judges, held_out, monkeypatch):
    from training.examples import Examples

    for name in ("age", "intensity"):
        monkeypatch.setattr(held_out, name, np.full(len(held_out), np.nan, np.float32))
    monkeypatch.setattr(held_out, "valence_arousal", np.full((len(held_out), 2), np.nan, np.float32))
    monkeypatch.setattr(held_out, "emotion", np.full(len(held_out), -1))
    bare = Examples(examples.model, held_out, examples.features)
    found = evaluate(bare, judges, MeasureSettings(count=36, seeds=(42,), steps=1))
    assert {"condition age", "condition emotion"} <= set(found.skipped)
    assert found.skipped["age_mae"] == "0 of 5 requests say an age that is known"
    assert found.skipped["emotion_accuracy.text"] == "0 of 5 requests say a label that is known"
    assert "id_auc" in found.figures and "fid" in found.figures
    assert not any(key.startswith(("age_", "emotion_", "valence_")) for key in found.figures)


def test_data_of_another_picture_size_is_an_error(tmp_path, untrained, judges_folder, capsys):
    from training.data.cache import CacheKey, build

    build(tmp_path / "large", CacheKey(42, 2, 2, 0, 48, "test"), 1)
    code = main(
        [str(untrained), "--out", str(tmp_path), "--judges", str(judges_folder), "--data", str(tmp_path / "large")]
    )
    assert code == 1
    assert "pictures of 48 pixels, the checkpoint makes 32" in capsys.readouterr().err


def test_missing_judges_say_how_to_make_them(tmp_path, untrained, capsys):
    assert main([str(untrained), "--out", str(tmp_path), "--judges", str(tmp_path / "none")]) == 1
    assert "python -m training judges" in capsys.readouterr().err


def test_the_world_s_test_half_is_drawn_at_the_checkpoint_s_seed(tmp_path, monkeypatch):
    keys = []
    monkeypatch.setattr(command, "build", lambda folder, key, processes: keys.append(key) or [0])
    command._data(None, tmp_path, 32, {"seed": 7}, 100, 1)
    assert (keys[0].seed, keys[0].split, keys[0].people * keys[0].shots) == (7, "test", 200)
