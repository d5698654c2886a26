"""The whole recipe on the `micro` preset: killed and resumed, from a checkpoint, in parts, and what it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import shlex
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel

from runtime.errors import BundleError
from training import recipe
from training.__main__ import main
from training.checkpoint import CONFIG_FILE, load, read_settings
from training.data.cache import DataCache
from training.loop import train
from training.presets import MICRO_PIXEL, PRESETS
from training.recipe import Start
from training.tokenizer import train_tokenizer

MICRO = PRESETS["micro"]
WITHOUT_PICTURES = MICRO.with_settings(["preview=false"])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("recipe") / "run"
    recipe.run(MICRO, "micro", out)
    return out


def same_weights(first: Path, second: Path) -> bool:
    a, b = load_file(first), load_file(second)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_every_stage_leaves_weights_a_log_a_picture_and_events(finished: Path) -> None:
    for stage in recipe.STAGES:
        assert (finished / stage / "log.jsonl").read_text().count("\n") == MICRO.stages[stage].steps
        for file in ("final.safetensors", "preview.png"):
            assert (finished / stage / file).stat().st_size > 0
        assert list((finished / stage).glob("events.out.tfevents.*"))


def test_the_last_stage_measures_every_loss_of_the_paper(finished: Path) -> None:
    measured: set[str] = set()
    for line in (finished / "consistency" / "log.jsonl").read_text().splitlines():
        measured |= json.loads(line).keys()
    assert {"simple", "cross_modal", "clip", "audio_visual", "age", "emotion", "identity"} <= measured


def test_the_checkpoint_holds_what_was_trained_and_says_how(finished: Path) -> None:
    model = load(finished / "checkpoint")
    trained = load_file(finished / "consistency" / "final.safetensors")
    for name, tensor in model.unet.state_dict().items():
        assert torch.equal(tensor, trained[f"unet.{name}"].half().float())
    provenance = read_settings(finished / "checkpoint")["provenance"]
    assert "no real person" in provenance["data"] and provenance["mixture"] == {"world": 1.0}
    assert provenance["target_shares"] == {"world": 1.0} and 0 < provenance["autoencoder_psnr_db"] < 33
    assert provenance["losses"]["identity"] == 1.0 and "identity network" in provenance["perceptual"]
    assert set(provenance["stages"]) == set(recipe.STAGES)
    assert {weights["licence"] for weights in provenance["weights"].values()} == {"Apache-2.0"}


def test_a_checkpoint_is_safetensors_and_json_only(finished: Path) -> None:
    suffixes = {path.suffix for path in (finished / "checkpoint").rglob("*") if path.is_file()}
    assert suffixes == {".safetensors", ".json"}


def test_a_second_run_in_the_same_folder_trains_nothing_again(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("*/final.safetensors")}
    recipe.run(MICRO, "micro", finished)
    assert before == {path: path.stat().st_mtime_ns for path in finished.glob("*/final.safetensors")}


def train_in_a_process(out: str) -> None:
    recipe.run(WITHOUT_PICTURES, "micro", Path(out))


def test_killed_at_any_moment_and_resumed_all_stages_end_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    """A real process, SIGKILL, no chance to tidy up; until it gets through. A look every three steps changes nothing, so
    the killed one goes without."""
    again = tmp_path / "again"
    shutil.copytree(finished / "data", again / "data")
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload([__name__, "training.recipe"])
    moments, kills, patience = random.Random(7), 0, 0.6
    while True:
        process = server.Process(target=train_in_a_process, args=(str(again),))
        process.start()
        process.join(moments.uniform(0.2, patience) if kills < 8 else None)
        if process.exitcode is not None:
            break
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills, patience = kills + 1, patience + 0.25
    assert process.exitcode == 0 and kills >= 4
    for stage in recipe.STAGES:
        assert same_weights(finished / stage / "final.safetensors", again / stage / "final.safetensors"), stage
    assert same_weights(finished / "features.safetensors", again / "features.safetensors")


def test_a_stage_says_what_it_needs_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError, match="diffusion needs the finished stages decoder, estimators, identity, clip, voice, alignm"
    ):
        recipe.run(MICRO, "micro", tmp_path / "run", stages=["autoencoder", "diffusion"])
    with pytest.raises(
        BundleError, match=r"consistency needs the finished stages .*diffusion; run them first with --stages"
    ):
        recipe.run(MICRO, "micro", tmp_path / "run", stages=["consistency"])
    with pytest.raises(BundleError, match="estimators needs the finished stages autoencoder, decoder;"):
        recipe.run(MICRO, "micro", tmp_path / "run", stages=["estimators", "clip"])
    assert not (tmp_path / "run").exists()


def test_stages_run_one_by_one_give_what_the_whole_recipe_gives(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "data", tmp_path / "data")
    for stages in (["autoencoder", "clip"], ["decoder"], ["voice", "estimators"]):
        recipe.run(WITHOUT_PICTURES, "micro", tmp_path, stages=stages)
    for stage in ("clip", "voice", "estimators"):
        assert same_weights(finished / stage / "final.safetensors", tmp_path / stage / "final.safetensors")
    assert not (tmp_path / "identity").exists() and not (tmp_path / "checkpoint").exists()


def test_from_a_checkpoint_only_the_wanted_stage_changes(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "data", tmp_path / "data")
    start = Start(base=finished / "checkpoint")
    recipe.run(WITHOUT_PICTURES, "micro", tmp_path, stages=["consistency"], start=start)
    before, after = load(finished / "checkpoint").state_dict(), load(tmp_path / "checkpoint").state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"unet", "conditioner"}
    provenance = read_settings(tmp_path / "checkpoint")["provenance"]
    assert set(provenance["stages"]) == {"consistency"}
    assert set(provenance["started_from"]["provenance"]["stages"]) == set(recipe.STAGES)


def test_losses_that_compare_with_aligned_features_refuse_a_base_without(finished: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(finished / "checkpoint", base)
    settings = read_settings(base)
    del settings["provenance"]["stages"]["alignment"]
    (base / CONFIG_FILE).write_text(json.dumps(settings))
    with pytest.raises(BundleError, match="use --stages alignment diffusion consistency"):
        recipe.run(PRESETS["micro"], "micro", tmp_path / "run", stages=["consistency"], start=Start(base=base))


def test_the_base_decides_the_sizes(finished: Path) -> None:
    resolved = recipe.resolve(PRESETS["demo"], Start(base=finished / "checkpoint"))
    assert resolved.model == MICRO.model and resolved.stages == PRESETS["demo"].stages


def test_a_folder_of_another_run_is_refused(finished: Path) -> None:
    with pytest.raises(BundleError, match="another seed"):
        recipe.run(MICRO.with_settings(["seed=1"]), "micro", finished)
    with pytest.raises(BundleError, match="other weights"):
        recipe.run(MICRO, "micro", finished, start=Start(base=finished / "checkpoint"))
    with pytest.raises(BundleError, match=r"was begun with --vgg None, not v\.safetensors"):
        recipe.run(MICRO, "micro", finished, start=Start(vgg=Path("v.safetensors")))
    with pytest.raises(BundleError, match="add --resume"):
        recipe.run(MICRO, "micro", finished, resume=False)


def test_a_changed_setting_of_a_resumed_run_is_said(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished, tmp_path / "run")
    recipe.run(MICRO.with_settings(["consistency.learning_rate=0.5"]), "micro", tmp_path / "run")
    assert "stages.consistency.learning_rate 0.001 → 0.5" in capsys.readouterr().out


def test_a_finished_stage_keeps_the_settings_it_was_trained_with(finished: Path, tmp_path: Path) -> None:
    """The last command of a run is not what its earlier stages were trained by."""
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("consistency"))
    changes = ["never=audio", "losses.cross_modal=0", "losses.age=0.2"]
    recipe.run(WITHOUT_PICTURES.with_settings(changes), "micro", tmp_path / "run")
    later = ["*.learning_rate=0.5", "precision=bf16", "never=text", "losses.age=0.3"]
    recipe.run(WITHOUT_PICTURES.with_settings(later), "micro", tmp_path / "run")
    provenance = read_settings(tmp_path / "run" / "checkpoint")["provenance"]
    for stage in recipe.STAGES:
        assert provenance["stages"][stage] == {**dataclasses.asdict(MICRO.stages[stage]), "precision": "fp32"}
    assert provenance["never_seen"] == ["audio"]
    assert (provenance["losses"]["cross_modal"], provenance["losses"]["age"]) == (0.0, 0.2)
    assert json.loads((tmp_path / "run" / "diffusion" / recipe.SETTINGS_FILE).read_text())["never"] == []


def test_a_stage_from_before_settings_were_kept_is_described_by_the_command(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns(recipe.SETTINGS_FILE))
    recipe.run(MICRO.with_settings(["clip.steps=100"]), "micro", tmp_path / "run")
    provenance = read_settings(tmp_path / "run" / "checkpoint")["provenance"]
    assert provenance["stages"]["clip"]["steps"] == 100 and provenance["losses"] == dataclasses.asdict(MICRO.losses)


def test_what_the_base_never_saw_stays_said_where_its_unet_stays(finished: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(finished / "checkpoint", base)
    settings = read_settings(base)
    settings["provenance"]["never_seen"] = ["audio"]
    (base / CONFIG_FILE).write_text(json.dumps(settings))
    shutil.copytree(finished / "data", tmp_path / "run" / "data")
    start = Start(base=base)
    for stages, never in ((["voice"], ["audio"]), (["diffusion"], [])):
        recipe.run(WITHOUT_PICTURES, "micro", tmp_path / "run", stages=stages, start=start)
        assert read_settings(tmp_path / "run" / "checkpoint")["provenance"]["never_seen"] == never


def test_photos_framed_otherwise_are_another_run(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="framed otherwise"):
        recipe.run(MICRO, "micro", finished, start=Start(face_pack=tmp_path))


def test_a_stage_that_the_model_or_the_preset_does_not_have_is_refused_in_a_dry_run_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stage in recipe.PICTURE_STAGES:
        command = ["--preset", "paper", "--data", "world", "--stages", stage]
        for rest in (["--dry-run"], ["--out", str(tmp_path / "run")]):
            assert main([*command, *rest]) == 1
            assert f"{stage}: this preset's model works on pixels" in capsys.readouterr().err
    with pytest.raises(BundleError, match="no settings for it"):
        recipe.check_stages(["autoencoder"], dataclasses.replace(PRESETS["paper"], model=MICRO.model))
    assert not (tmp_path / "run").exists()


def test_a_bases_decoder_gets_the_presets_blocks_only_where_it_is_trained(finished: Path, tmp_path: Path) -> None:
    deeper = dataclasses.replace(
        WITHOUT_PICTURES,
        model=dataclasses.replace(
            MICRO.model, autoencoder={**MICRO.model.autoencoder, "num_decoder_blocks": [2, 1, 1]}
        ),
    )
    start = Start(base=finished / "checkpoint")
    assert recipe.resolve(deeper, start, ["diffusion"]).model == recipe.resolve(WITHOUT_PICTURES, start).model
    for out in ("data", "features.safetensors"):
        (shutil.copytree if (finished / out).is_dir() else shutil.copy)(finished / out, tmp_path / out)
    recipe.run(deeper, "micro", tmp_path, stages=["decoder"], start=start)
    recipe.run(deeper, "micro", tmp_path, stages=["diffusion"], start=start)  # goes on with the deeper decoder
    before, after = (load(folder / "checkpoint") for folder in (finished, tmp_path))
    assert before.autoencoder is not None and after.autoencoder is not None
    assert list(after.autoencoder.network.config.num_decoder_blocks) == [1, 1, 2]
    assert len(after.autoencoder.network.decoder.layers) == len(before.autoencoder.network.decoder.layers) + 1
    image = torch.rand(1, 3, 32, 32)
    assert torch.equal(before.autoencoder.encode(image), after.autoencoder.encode(image))


def test_features_of_other_encoders_are_not_reused(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out, ignore=shutil.ignore_patterns("clip", "alignment", "diffusion", "consistency"))
    longer = WITHOUT_PICTURES.with_settings(["clip.steps=7"])
    recipe.run(longer, "micro", out, stages=["clip", "alignment"])
    before, after = (load_file(run / "features.safetensors") for run in (finished, out))
    assert not torch.equal(before["image"], after["image"]) and torch.equal(before["identity"], after["identity"])


def test_a_preset_of_real_data_asks_for_it_or_for_the_world() -> None:
    with pytest.raises(BundleError, match="--data ffhq=DIR cacd=DIR ravdess=DIR voxceleb=DIR"):
        recipe.resolve(PRESETS["paper"], Start())
    assert recipe.resolve(PRESETS["paper"], Start(data={"world": None})).mixture == {"world": 1.0}
    part = recipe.resolve(PRESETS["paper"], Start(data={"ffhq": Path("a"), "ravdess": Path("b")}))
    assert part.mixture == {"ffhq": 0.5, "ravdess": 0.1}


def test_own_pictures_beside_the_world_are_read_mixed_and_recorded(tmp_path: Path) -> None:
    mine, rng = tmp_path / "mine", np.random.default_rng(0)
    mine.mkdir()
    entries = []
    for n in range(6):
        Image.fromarray(rng.integers(0, 255, (50, 40, 3), np.uint8)).save(mine / f"{n}.png")
        entries.append({"file_name": f"{n}.png", "text": f"a face, number {n}", "age": 20 + 5 * n, "emotion": "happy"})
    (mine / "metadata.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    config = WITHOUT_PICTURES.with_settings(["mixture.folder=3", "*.steps=1"])
    start = Start(data={"world": None, "folder": mine})
    recipe.run(config, "micro", tmp_path / "run", start=start)
    data = DataCache(tmp_path / "run" / "data" / "world", tmp_path / "run" / "data" / "folder")
    assert 3 <= (data.source == 1).sum() <= 5  # the rest are kept for tests
    provenance = read_settings(tmp_path / "run" / "checkpoint")["provenance"]
    assert provenance["mixture"] == {"world": 1.0, "folder": 3.0} and "folder" in provenance["data"]
    assert {weights["commercial_use"] for weights in provenance["weights"].values()} == {"unknown"}


def test_a_stage_is_left_out_when_all_its_networks_are_given_and_only_then() -> None:
    def stages(*slots: str) -> set[str]:
        return set(recipe.applicable(MICRO, Start(published=dict.fromkeys(slots, Path("place")))))

    assert stages("age_estimator", "audio_encoder", "text_encoder", "autoencoder") == set(recipe.STAGES)
    assert set(recipe.STAGES) - stages("age_estimator", "emotion_estimator") == {"estimators"}
    assert set(recipe.STAGES) - stages("identity_encoder") == {"identity"}
    assert set(recipe.STAGES) - stages("audio_encoder", "voice_emotion") == {"voice"}
    assert recipe.to_be_trained(Start(published={"age_estimator": Path("place")})) == ["emotion"]


def test_a_published_clip_and_own_estimators_replace_their_stages(finished: Path, tmp_path: Path) -> None:
    model, folder = load(finished / "checkpoint"), tmp_path / "clip"
    tokenizer = train_tokenizer(["somebody else's words"], 700, 77)
    text = {**model.text_encoder.config.to_dict(), "vocab_size": len(tokenizer)}
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=model.image_encoder.config.to_dict(), projection_dim=64)
    ).save_pretrained(folder)
    files = {"age_estimator": "age", "emotion_estimator": "emotion", "identity_encoder": "identity"}
    own = {slot: finished / "checkpoint" / "estimators" / f"{name}.safetensors" for slot, name in files.items()}
    start = Start(published={"text_encoder": folder, "image_encoder": folder, **own})
    out = tmp_path / "run"
    shutil.copytree(finished / "data", out / "data")
    with pytest.raises(BundleError, match="mean nothing without their own tokenizer"):
        recipe.run(WITHOUT_PICTURES, "micro", out, start=start)
    tokenizer.save_pretrained(folder)
    recipe.run(WITHOUT_PICTURES.with_settings(["*.steps=1"]), "micro", out, start=start)
    for stage in ("clip", "estimators", "identity"):
        assert not (out / stage).exists()
    assert same_weights(own["age_estimator"], out / "checkpoint" / "estimators" / "age.safetensors")
    made = load(out / "checkpoint")
    assert len(made.tokenizer) == len(tokenizer)
    assert made.text_encoder.get_input_embeddings().num_embeddings == len(tokenizer)
    licences = read_settings(out / "checkpoint")["provenance"]["weights"]
    for slot in start.published:
        assert licences[slot]["licence"] == "unknown"
    assert licences["audio_encoder"]["licence"] == "Apache-2.0" and licences["decoder"]["licence"] == "Apache-2.0"


def test_the_full_size_command_of_the_manual_runs_on_a_small_pixel_model(tmp_path: Path) -> None:
    """The settings of docs/training.md on the paper preset, its networks exchanged for small ones of the same kind."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    command = shlex.split(page.partition("--out runs/full-size")[2].partition("```")[0].replace("\\\n", " "))
    assert command[0] == "--set" and "gradient_checkpointing=true" in command
    model = dataclasses.replace(
        MICRO_PIXEL,
        image_size=64,  # as at full size, three sizes: the picture's, the identity network's, CLIP's
        identity_size=32,
        image_encoder={**MICRO_PIXEL.image_encoder, "image_size": 48},
        unet={**MICRO_PIXEL.unet, "sample_size": 64, "block_out_channels": [8, 16]},
    )
    # Every row is judged, so that two steps of few samples meet every term.
    fewer = ["consistency.batch_size=16", "consistency.micro_batches=16"]
    config = dataclasses.replace(PRESETS["paper"].with_settings([*command[1:], *fewer]), model=model)
    recipe.run(config, "paper", tmp_path, start=Start(data={"world": None}))
    for stage in recipe.applicable(config, Start()):
        lines = [json.loads(line) for line in (tmp_path / stage / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2] and lines[-1]["peak_gib"] > 0
    measured = {
        name for line in (tmp_path / "consistency" / "log.jsonl").read_text().splitlines() for name in json.loads(line)
    }
    assert {"simple", "cross_modal", "clip", "audio_visual", "age", "emotion", "identity"} <= measured


def test_recomputing_activations_changes_the_losses_by_rounding_only(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("diffusion", "consistency"))
    config = WITHOUT_PICTURES.with_settings(["gradient_checkpointing=true"])
    recipe.run(config, "micro", tmp_path / "run", stages=["diffusion"])
    kept, again = (
        [json.loads(line)["loss"] for line in (out / "diffusion" / "log.jsonl").read_text().splitlines()]
        for out in (finished, tmp_path / "run")
    )
    assert again == pytest.approx(kept, rel=1e-4)


def test_the_diffusion_loss_falls_on_a_world_learned_by_heart(finished: Path) -> None:
    from training import features
    from training.stages.diffusion import DiffusionStage

    cache, model = DataCache(finished / "data" / "world"), load(finished / "checkpoint")
    stage = DiffusionStage(model, cache, features.build(finished / "features.safetensors", model, cache))
    longer = dataclasses.replace(MICRO.stages["diffusion"], steps=40, batch_size=8, checkpoint_every=40, decay=False)
    losses: list[float] = []
    remembered = stage.loss

    def noted(rng, batch_size):  # type: ignore[no-untyped-def]
        result = remembered(rng, batch_size)
        losses.append(result["loss"].item())
        return result

    stage.loss = noted  # type: ignore[method-assign]
    train(stage, longer, finished / "longer", precision="fp32", seed=1, preview=False)
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])
