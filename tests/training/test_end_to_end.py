"""One command from data sets as they lie on a disk to a checkpoint, at the smallest size, and its cases with less data."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from runtime.errors import BundleError
from tests.training.data.media import picture
from tests.training.data.trees import plant
from training import recipe
from training.__main__ import main
from training.checkpoint import load, read_settings
from training.data.cache import DataCache
from training.data.faults import DataError
from training.presets import PRESETS
from training.recipe import STAGES, Start

STEPS = 8  # under fp16 the first are left out, until the loss scale fits
FEW = ["*.steps=2", "*.batch_size=6", "*.warmup_steps=0"]


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the paper's mixture with a small latent model, all stages, in fp16, with a split of one's own."""
    root = tmp_path_factory.mktemp("paper")
    trees = plant(root / "data")
    small = dataclasses.replace(PRESETS["micro"], mixture=PRESETS["paper"].mixture)
    places = [f"{name}={folder}" for name, folder in trees.items()]
    split = ["data", "splits", str(trees["ravdess"]), "--out", str(root / "ravdess.json"), "--seed", "10"]
    assert main([*split, "--test-fraction", "0.4"]) == 0
    flags = ["--preset", "paper", "--out", str(root / "run"), "--workers", "1", "--splits", str(root / "ravdess.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "paper", small)  # type: ignore[arg-type]
        assert main([*flags, "--data", *places, "--set", *FEW, f"*.steps={STEPS}", "precision=fp16"]) == 0
    return root / "run"


def test_the_papers_data_sets_go_through_every_stage_to_a_checkpoint(paper: Path) -> None:
    for stage in STAGES:
        lines = (paper / stage / "log.jsonl").read_text().splitlines()
        assert len(lines) == STEPS and np.isfinite(json.loads(lines[-1])["loss"]), stage
        assert Image.open(paper / stage / "preview.png").width > 32
    model = load(paper / "checkpoint")
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    provenance = read_settings(paper / "checkpoint")["provenance"]
    assert provenance["mixture"] == dict(PRESETS["paper"].mixture)
    assert provenance["stages"]["diffusion"]["precision"] == "fp16"
    for name in ("cacd", "fer2013", "ffhq", "ravdess", "voxceleb"):
        assert name in provenance["data"]


def test_under_fp16_every_stage_takes_its_steps_with_a_loss_scale(paper: Path) -> None:
    for stage in STAGES:
        state = paper / stage / f"state-{STEPS:08d}"
        assert json.loads((state / "state.json").read_text())["loss_scale"]["scale"] >= 1
        taken = [t.item() for n, t in load_file(state / "state.safetensors").items() if n.startswith("optimizer.step.")]
        assert taken and max(taken) >= 1, f"{stage}: every step was left out"


def test_the_shares_of_the_targets_are_recorded_beside_those_asked_for(paper: Path) -> None:
    """The planted VoxCeleb has no videos; FER2013 is given no share."""
    shares = read_settings(paper / "checkpoint")["provenance"]["target_shares"]
    asked = {name: share / 0.9 for name, share in PRESETS["paper"].mixture.items() if name != "voxceleb"}
    assert shares == pytest.approx({**asked, "voxceleb": 0.0})


def test_data_that_changed_after_a_stage_was_begun_is_named_and_refused_before_that_only_said(
    paper: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(paper.parent, root)
    assert set(json.loads((root / "run" / "run.json").read_text())["data"]) == set(PRESETS["paper"].mixture)
    small = dataclasses.replace(PRESETS["micro"], mixture=PRESETS["paper"].mixture)
    config = small.with_settings([*FEW, "*.steps=1", "preview=false"])
    start = Start(
        data={name: root / "data" / name for name in config.mixture}, splits=[root / "ravdess.json"], workers=1
    )
    built = (root / "run" / "data" / "ffhq" / "cache.json").read_bytes()
    for labels in (root / "data" / "ffhq" / "json").iterdir():
        labels.write_text(labels.read_text().replace("33.0", "34.0"))
    with pytest.raises(DataError, match=r"ffhq: .* is not what this run has trained on"):
        recipe.run(config, "paper", root / "run", start=start)
    assert (root / "run" / "data" / "ffhq" / "cache.json").read_bytes() == built
    for stage in STAGES:
        shutil.rmtree(root / "run" / stage)
    (root / "run" / "features.safetensors").unlink()
    recipe.run(config, "paper", root / "run", stages=["autoencoder"], start=start)
    said = capsys.readouterr().out
    assert "changed since this run was last started: the content of ffhq;" in said
    assert "targets are drawn from ffhq 55.6%, cacd 33.3%, ravdess 11.1%; voxceleb has no picture" in said
    assert (root / "run" / "data" / "ffhq" / "cache.json").read_bytes() != built


def test_fer2013_teaches_the_emotion_head_and_is_never_a_target(paper: Path) -> None:
    cache = DataCache(*(paper / "data" / name for name in PRESETS["paper"].mixture), mixture=PRESETS["paper"].mixture)
    from_fer = cache.source == cache.sources.index("fer2013")
    assert from_fer.sum() == 7 and (cache.emotion[from_fer] >= 0).all() and np.isnan(cache.age[from_fer]).all()
    assert not from_fer[cache.draw(np.random.default_rng(0), 2000)].any()
    from training.stages.estimators import EstimatorsStage

    drawn = EstimatorsStage(load(paper / "checkpoint"), cache).labelled.draw(np.random.default_rng(0), 2000)
    assert from_fer[drawn].mean() > 0.1


def test_a_split_of_ones_own_decides_who_is_trained_on_and_is_remembered(paper: Path) -> None:
    cut = json.loads((paper.parent / "ravdess.json").read_text())
    train = DataCache(paper / "data" / "ravdess")
    assert len(train) == cut["counts"]["ravdess"]["train"] == 4  # 2 by the rule that holds without a file
    said = read_settings(paper / "checkpoint")["provenance"]["splits"]
    assert said == {"ravdess": {"seed": 10, "test_fraction": 0.4, "counts": cut["counts"]["ravdess"]}}
    assert len(json.loads((paper / "run.json").read_text())["splits"]) == 1


def test_pictures_with_words_alone_tune_what_they_can_and_leave_the_rest(
    micro_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No age, no emotion, no voice: the stages that learn from those are left out, the base's networks stay."""
    rows = []
    for n in range(5):
        picture(tmp_path / "mine" / f"{n}.png", seed=n)
        rows.append(json.dumps({"file_name": f"{n}.png", "text": [f"somebody with hat number {n}"]}))
    (tmp_path / "mine" / "metadata.jsonl").write_text("\n".join(rows))
    flags = ["--preset", "micro", "--out", str(tmp_path / "run"), "--workers", "1", "--from", str(micro_checkpoint)]
    assert main([*flags, "--data", f"folder={tmp_path / 'mine'}", "--stages", *STAGES, "--set", *FEW]) == 0
    said = capsys.readouterr().out
    before, after = load(micro_checkpoint).state_dict(), load(tmp_path / "run" / "checkpoint").state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    for stage in ("estimators", "voice"):
        assert f"{stage} is left out and its networks stay as they were given" in said
        assert not (tmp_path / "run" / stage).exists()
    assert {"unet", "autoencoder", "identity_encoder", "image_encoder", "text_encoder"} <= changed
    assert not changed & {"age_estimator", "emotion_estimator", "audio_encoder"}


def test_without_labels_and_without_weights_the_stage_says_what_it_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for n in range(3):
        picture(tmp_path / "mine" / f"{n}.png", seed=n)
    flags = ["--preset", "micro", "--out", str(tmp_path / "run"), "--workers", "1", "--stages", "autoencoder", "voice"]
    assert main([*flags, "--data", f"folder={tmp_path / 'mine'}", "--set", *FEW, "preview=false"]) == 1
    assert "error: voice: no row of the data has a label of" in capsys.readouterr().err


def test_other_splits_in_the_same_folder_and_splits_of_nothing_are_refused(paper: Path) -> None:
    small = dataclasses.replace(PRESETS["micro"], mixture=PRESETS["paper"].mixture, precision="fp16")
    file = paper.parent / "ravdess.json"
    start = Start(data={name: paper.parent / "data" / name for name in small.mixture})
    with pytest.raises(BundleError, match="holds a run on other people"):
        recipe.run(small.with_settings(FEW), "paper", paper, start=start)
    with pytest.raises(BundleError, match="divides ravdess, but another file does so too"):
        recipe.run(small, "paper", paper, start=dataclasses.replace(start, splits=(file, file)))
    with pytest.raises(BundleError, match="divides ravdess, but --data has no ravdess=DIR"):
        recipe.run(small, "paper", paper, start=Start(data={"ffhq": start.data["ffhq"]}, splits=(file,)))
