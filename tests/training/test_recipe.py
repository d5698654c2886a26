"""The whole recipe on the `micro` preset, killed and resumed, and what it leaves behind."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runtime.errors import BundleError
from training import recipe
from training.checkpoint import load, read_settings
from training.config import StageConfig
from training.loop import train
from training.presets import PRESETS

MICRO = PRESETS["micro"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recipe") / "run"
    recipe.run(MICRO, "micro", out, stages=recipe.STAGES, processes=2)
    return out


def test_every_stage_leaves_weights_a_log_and_a_picture(finished: Path) -> None:
    for stage in recipe.STAGES:
        assert (finished / stage / "log.jsonl").read_text().count("\n") >= 1
        for file in ("final.safetensors", "preview.png"):
            assert (finished / stage / file).stat().st_size > 0


def test_the_checkpoint_holds_what_was_trained(finished: Path) -> None:
    model = load(finished / "checkpoint")
    trained = load_file(finished / "diffusion" / "final.safetensors")
    for name, tensor in model.unet.state_dict().items():
        assert torch.equal(tensor, trained[f"unet.{name}"].half().float())
    assert "no real person" in read_settings(finished / "checkpoint")["provenance"]["data"]


def test_a_checkpoint_is_safetensors_and_json_only(finished: Path) -> None:
    suffixes = {path.suffix for path in (finished / "checkpoint").rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json"}


def test_a_second_run_in_the_same_folder_trains_nothing_again(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/final.safetensors")}
    recipe.run(MICRO, "micro", finished, stages=recipe.STAGES, processes=2)
    assert before == {path: path.stat().st_mtime_ns for path in finished.glob("*/final.safetensors")}


def test_diffusion_killed_and_resumed_ends_with_the_same_bits(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    again = tmp_path / "again"
    shutil.copytree(finished, again, ignore=shutil.ignore_patterns("diffusion", "checkpoint"))

    def killed(stage: object, config: StageConfig, folder: Path, **settings: object) -> None:
        train(stage, config, folder, stop_after=4, **settings)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        recipe.run(MICRO, "micro", again, stages=recipe.STAGES, processes=2)
    monkeypatch.undo()
    recipe.run(MICRO, "micro", again, stages=recipe.STAGES, processes=2)
    first, second = (load_file(out / "diffusion" / "final.safetensors") for out in (finished, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_diffusion_without_its_encoders_is_refused(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "world").symlink_to(finished / "world")
    with pytest.raises(BundleError, match="clip, estimators, identity, voice"):
        recipe.run(MICRO, "micro", tmp_path, stages=["autoencoder", "diffusion"], processes=1)


def test_the_diffusion_loss_falls_on_a_world_learned_by_heart(finished: Path) -> None:
    from training import features
    from training.data.cache import WorldCache
    from training.stages.diffusion import DiffusionStage

    cache, model = WorldCache(finished / "world"), load(finished / "checkpoint")
    stage = DiffusionStage(model, cache, features.build(finished / "features.safetensors", model, cache))
    losses: list[float] = []
    remembered = stage.loss

    def noted(rng, batch_size):  # type: ignore[no-untyped-def]
        result = remembered(rng, batch_size)
        losses.append(result["loss"].item())
        return result

    stage.loss = noted  # type: ignore[method-assign]
    longer = dataclasses.replace(MICRO.stages["diffusion"], steps=60, batch_size=16, checkpoint_every=60, decay=False)
    train(stage, longer, finished / "longer", precision="fp32", seed=1)
    assert sum(losses[-15:]) < 0.8 * sum(losses[:15])
