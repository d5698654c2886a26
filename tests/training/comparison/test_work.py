"""Jobs on a micro checkpoint: every row trains what it says, a killed row ends as if it had not been, what is done stays done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.errors import BundleError
from runtime.spec import SOURCES
from training import ablation, checkpoint
from training.comparison import work
from training.comparison.plan import Job, Plan
from training.comparison.rows import ROWS
from training.comparison.work import Place
from training.data.cache import DataCache
from training.stages.consistency import ConsistencyStage

SOURCES_OF = {"audio": {"audio"}, "age": {"age"}, "emotion": {"emotion", "valence_arousal"}, "reference": {"image", "identity"},
              "text": {"text", "age_text", "emotion_text"}}  # fmt: skip


@pytest.fixture(scope="module")
def full(place: Place, plan: Plan) -> dict:
    return work.do(place, plan, Job(ROWS["full"], 42), threads=1)


def elsewhere(place: Place, folder: Path) -> Place:
    """The same ablation in a folder of its own, without results."""
    shutil.copytree(place.out, folder, ignore=shutil.ignore_patterns("rows"))
    return replace(place, out=folder)


@pytest.fixture(scope="module")
def stage_of(place: Place, plan: Plan) -> Callable[[str], ConsistencyStage]:
    """What trains a row, by its name."""
    model = checkpoint.load(place.base)

    def build(name: str) -> ConsistencyStage:
        return work.stage_for(place, plan.training(model.config, ROWS[name], 42), model)

    return build


@pytest.mark.parametrize("modality", SOURCES_OF)
def test_a_row_without_an_input_trains_on_no_sample_that_has_it(stage_of, modality):
    examples = stage_of(f"without-{modality}").diffusion.examples
    present = examples.draw(np.random.default_rng(0), 200).inputs["present"].sum(0)
    given = {name for name, count in zip(SOURCES, present.tolist(), strict=True) if count}
    assert given == set(SOURCES) - SOURCES_OF[modality]


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("full", {"clip", "audio_visual", "age", "emotion", "identity"}),
        ("denoising", set()),
        ("without-alignment", {"clip", "age", "emotion", "identity"}),
        ("without-age-emotion-losses", {"clip", "audio_visual", "identity"}),
        ("without-identity", {"clip", "audio_visual", "age", "emotion"}),
    ],
)
def test_a_row_without_a_loss_does_not_compute_it(stage_of, name, terms):
    assert set(stage_of(name).consistency.names) == terms


def test_only_the_rows_with_l_cm_have_projection_heads(stage_of):
    assert {name for name in ("full", "denoising", "without-cmc-loss") if "heads" in stage_of(name).module} == {"full"}


def test_the_row_without_fusion_starts_from_the_same_weights_and_pools_them_otherwise(place):
    base = checkpoint.load(place.base)
    plain = work.with_fusion(base, "mean")
    assert plain.conditioner.fusion.kind == "mean" and plain.config.fusion == "mean"
    assert all(torch.equal(a, b) for a, b in zip(base.parameters(), plain.parameters(), strict=True))
    assert not torch.allclose(base.uncond()["cond"], plain.uncond()["cond"])


def test_a_result_says_whom_its_pictures_are_of(place, full):
    person = DataCache(place.out / "test-world").person
    assert full["person"] == [person[row] for row in full["targets"]] and len(set(full["person"])) < len(full["person"])
    assert all(len(column) == len(full["person"]) for column in full["pictures"].values())


def test_the_mean_of_a_column_is_the_rows_figure(full):
    pictures = {name: np.array([v for v in column if v is not None]) for name, column in full["pictures"].items()}
    for name in ("ssim", "age_mae", "age_within_5", "emotion_accuracy", "avd", "id_sim", "text_image_cosine", "s_dir"):
        assert pictures[name].mean() == pytest.approx(full["figures"][name]["value"], abs=1e-5), name
    assert pictures["cmc"].mean() == pytest.approx(
        full["figures"]["cmc"]["value"], abs=0.02
    )  # pairs count there, pictures here


def test_a_row_killed_in_training_goes_on_and_ends_with_the_same_figures(place, plan, full, tmp_path, monkeypatch):
    killed, calls, loss = elsewhere(place, tmp_path / "killed"), [], ConsistencyStage.loss

    def dies_in_step_four(stage, rng, batch_size):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return loss(stage, rng, batch_size)

    monkeypatch.setattr(ConsistencyStage, "loss", dies_in_step_four)
    job = Job(ROWS["full"], 42)
    with pytest.raises(KeyboardInterrupt):
        work.do(killed, plan, job, threads=1)
    assert not killed.result(job).exists()
    resumed = work.do(killed, plan, job, threads=1)
    assert len(calls) == 6  # it went on at step 2 of 4, where the last state was
    assert resumed["figures"] == full["figures"] and resumed["pictures"] == full["pictures"]
    assert not list((killed.out / job.folder).rglob("*.safetensors"))  # states of a finished row are gone


def test_a_row_killed_while_it_is_measured_is_not_trained_again(place, plan, full, tmp_path, monkeypatch):
    killed, job = elsewhere(place, tmp_path / "killed"), Job(ROWS["full"], 42)

    def dies(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(work, "evaluate", dies)
        with pytest.raises(KeyboardInterrupt):
            work.do(killed, plan, job, threads=1)
    monkeypatch.setattr(ConsistencyStage, "loss", dies)
    assert work.do(killed, plan, job, threads=1)["figures"] == full["figures"]


def test_rows_ask_for_the_same_faces_and_the_base_is_not_trained(place, plan, full, monkeypatch):
    silent = work.do(place, plan, Job(ROWS["without-text"], 42), threads=1)
    assert full["targets"] == silent["targets"]
    assert "s_dir" in full["figures"] and "s_dir" not in silent["figures"]  # nobody speaks in its evaluation either
    monkeypatch.setattr(work, "fine_tune", lambda *_: pytest.fail("the base is not trained"))
    assert work.do(place, plan, Job(ROWS["base"], 42), threads=1)["figures"]["ssim"] != full["figures"]["ssim"]


def test_a_folder_with_other_settings_is_refused(place, plan):
    with pytest.raises(BundleError, match="steps 4 → 5"):
        work.prepare(place, replace(plan, steps=5), processes=1)


def test_the_command_does_what_is_missing_and_keeps_what_is_done(judges, micro_checkpoint, tmp_path, capsys):
    out = tmp_path / "ablation"
    sizes = "--steps 1 --batch-size 4 --people 6 --count 10 --inference-steps 1 --world-seed 3 --precision fp32"
    older = tmp_path / "older"
    shutil.copytree(micro_checkpoint, older)
    settings = json.loads((older / "clipfacefusion.json").read_text())
    settings["provenance"]["stages"] = {}
    (older / "clipfacefusion.json").write_text(json.dumps(settings))
    command = ["--from", str(older), "--judges", str(judges), "--out", str(out), "--processes", "1"]
    command += [*sizes.split(), "--seeds", "1", "2"]
    assert ablation.main([*command, "--rows", "base"]) == 0
    printed = capsys.readouterr()
    assert "no alignment stage" in printed.err and "2/2 base seed 2" in printed.out and "min left" in printed.out
    before = {path: path.stat().st_mtime_ns for path in out.rglob("result.json")}
    assert ablation.main([*command, "--rows", "base", "without-fusion"]) == 0
    assert "3 rows and seeds, 2 done" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == then for path, then in before.items()) and len(before) == 2
    page = (out / "ablation.md").read_text()
    assert "| base, not fine-tuned |" in page and "| without multi-modal fusion |" in page
    assert ablation.main([*command, "--learning-rate", "0.5"]) == 1
    assert "learning_rate 0.0001 → 0.5" in capsys.readouterr().err
