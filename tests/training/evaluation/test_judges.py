"""The judges: what their training shows them, what is written about them, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from runtime.emotions import EMOTIONS
from runtime.errors import BundleError
from training.config import StageConfig
from training.data.cache import DataCache
from training.data.looks import prompted_looks
from training.data.synthetic.world import World
from training.evaluation import distribution
from training.evaluation import judges as schooling
from training.evaluation.age import age_figures
from training.evaluation.command import JUDGES
from training.evaluation.emotion import accuracy
from training.evaluation.identity import auc
from training.evaluation.judge_stages import LabelsStage, LooksStage, LookStage, blurred, view, worn
from training.evaluation.judges import SIZES, WORLD_SEED, main, measured
from training.evaluation.panel import Panel, PanelConfig, load, octaves, round_weights
from training.evaluation.scene import blur
from training.loop import train
from training.presets import PRESETS


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judges")
    assert (
        main(["--size", "mini", "--out", str(folder / "out"), "--work", str(folder / "work"), "--processes", "1"]) == 0
    )
    return folder


def test_the_card_says_how_they_were_made_and_how_right_they_are(trained):
    card = json.loads((trained / "out" / "judges.json").read_text())
    assert card["trained_on"]["seed"] == WORLD_SEED != card["held_out"]["seed"]
    assert set(card["measured"]) == {"clean", "blurred"}
    assert {"age_mae", "emotion_accuracy", "id_auc", "trait_r2", "fid", "looks_recall", "looks_precision"} <= set(
        card["measured"]["clean"]
    )


def test_their_people_are_in_no_preset_s_world(trained):
    assert not {WORLD_SEED, WORLD_SEED + 1} & {preset.seed for preset in PRESETS.values()}


@pytest.mark.parametrize("preset", ["micro", "demo"])
def test_they_are_built_unlike_what_guides_a_training(preset):
    guiding = PRESETS[preset].model
    assert SIZES["full"].panel.channels != guiding.face_channels
    assert SIZES["full"].panel.features != guiding.features
    assert SIZES["full"].seed != PRESETS[preset].seed


def test_what_was_measured_is_what_is_read_back(trained):
    card = json.loads((trained / "out" / "judges.json").read_text())
    assert measured(load(trained / "out"), DataCache(trained / "work" / "others")) == card["measured"]


def test_a_finished_training_is_not_done_again(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(schooling, "train", lambda *_, **__: pytest.fail("trained again"))
    schooling.make_judges(SIZES["mini"], tmp_path / "again", trained / "work", processes=1)
    first, second = ((folder / "judges.safetensors").read_bytes() for folder in (trained / "out", tmp_path / "again"))
    assert first == second


def test_a_training_killed_on_the_way_ends_with_the_same_bits(trained, tmp_path, monkeypatch):
    real = schooling.train

    def killed(stage, settings, folder, **options):
        real(stage, settings, folder, stop_after=3, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(schooling, "train", killed)
    with pytest.raises(KeyboardInterrupt):
        schooling.make_judges(SIZES["mini"], tmp_path / "out", tmp_path / "work", processes=1)
    monkeypatch.setattr(schooling, "train", real)
    schooling.make_judges(SIZES["mini"], tmp_path / "out", tmp_path / "work", processes=1)
    first, second = ((folder / "judges.safetensors").read_bytes() for folder in (trained / "out", tmp_path / "out"))
    assert first == second


def test_a_folder_and_its_weights_file_are_the_same_judges(judges_folder):
    first, second = load(judges_folder), load(judges_folder / "judges.safetensors")
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_changed_weights_file_is_refused(judges_folder, tmp_path):
    for file in ("judges.safetensors", "judges.json"):
        (tmp_path / file).write_bytes((judges_folder / file).read_bytes())
    with (tmp_path / "judges.safetensors").open("r+b") as weights:
        weights.seek(-1, 2)
        weights.write(b"\x01")
    with pytest.raises(BundleError, match=r"is not the file that judges\.json describes"):
        load(tmp_path)


def test_judges_read_pictures_of_any_size_at_their_own(judges, held_out):
    pictures = held_out.images[:5]
    large = np.repeat(np.repeat(pictures, 2, 1), 2, 2)
    small, same = judges.read(pictures), judges.read(large)
    assert small.look.shape == (5, 8) and small.identity.shape == (5, 16)
    assert np.abs(small.age - same.age).max() < 0.5
    assert np.allclose(np.linalg.norm(small.identity, axis=1), 1, atol=1e-5)
    assert small.emotion.dtype.kind == "i"


def test_reading_some_is_reading_all_and_picking(judges, held_out):
    whole, rows = judges.read(held_out.images[:6]), np.array([4, 1])
    for one, other in zip(
        dataclasses.astuple(whole.of(rows)), dataclasses.astuple(judges.read(held_out.images[rows])), strict=True
    ):
        assert np.allclose(one, other, atol=1e-4)


def test_a_feature_net_too_wide_for_a_thousand_pictures_is_refused():
    with pytest.raises(ValueError, match="look is 2048"):
        PanelConfig(look=2048)


def test_the_shipped_size_is_small_enough_to_ship():
    panel = Panel(SIZES["full"].panel)
    assert 2 * sum(tensor.numel() for tensor in panel.state_dict().values()) < 2_500_000
    assert 64 <= SIZES["full"].panel.look <= 128


def test_a_view_is_never_softer_than_the_crop_makes_it():
    torch.manual_seed(0)
    image, rng = torch.rand(8, 3, 64, 64), np.random.default_rng(0)
    seen = view(image, rng)
    detail, softened = (picture.diff(dim=3).abs().mean() for picture in (seen, blurred(image, 1.5)))
    assert detail > 2 * softened


def test_octaves_tell_a_blur_by_its_width_and_ignore_what_does_not_change_detail():
    torch.manual_seed(0)
    image = torch.rand(4, 3, 64, 64)
    sharp, soft, softer = (octaves(these) for these in (image, blurred(image, 1.0), blurred(image, 2.0)))
    assert sharp.shape == (4, 4)
    assert (sharp[:, 0] - soft[:, 0] > 0.5).all() and (soft[:, 0] > softer[:, 0]).all()
    assert torch.allclose(octaves(image.flip(3) + 0.1), sharp, atol=1e-4)


def test_octaves_of_a_checkerboard_are_in_the_finest():
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 2.0 - 1
    energies = octaves(board.expand(1, 3, 32, 32))
    assert energies[0, 0] == pytest.approx(0, abs=1e-5)  # a mean square of 1
    assert (energies[0, 1:] < -6).all()


def test_the_feature_distance_sees_a_blur_even_untrained(judges, held_out):
    first, second = held_out.images[:40], held_out.images[40:]
    real = judges.read(first).look
    floor, soft = (distribution.fid(judges.read(these).look, real) for these in (second, blur(second)))
    assert soft > 2 * floor


def test_worn_pictures_are_half_blurred_and_left_alone_where_they_came_from():
    torch.manual_seed(0)
    image = torch.rand(64, 3, 64, 64)
    before = image.clone()
    out = worn(image, np.random.default_rng(3))
    assert torch.equal(image, before)
    sharp = out.diff(dim=3).abs().mean((1, 2, 3)) / image.diff(dim=3).abs().mean((1, 2, 3))
    assert 0.25 < (sharp < 0.9).float().mean() < 0.75


def test_a_blur_keeps_the_mean_and_is_a_gaussian_s_width():
    image = torch.zeros(1, 3, 65, 65)
    image[..., 32, 32] = 1
    soft = blurred(image, 2.0)[0, 0]
    place = torch.arange(65.0) - 32
    assert soft.sum() == pytest.approx(1, abs=1e-4)
    assert (soft.sum(0) * place**2).sum().sqrt() == pytest.approx(2.0, rel=0.03)


def looks_stage(panel: Panel, cache: DataCache) -> LooksStage:
    truth = prompted_looks(cache)
    return LooksStage(Panel(dataclasses.replace(panel.config, looks=truth.phrases)), cache, truth)


@pytest.mark.parametrize("kind", [LookStage, LabelsStage, looks_stage])
def test_a_stage_of_the_judges_learns(kind, held_out, tmp_path):
    torch.manual_seed(0)
    panel = Panel(SIZES["mini"].panel)
    stage, losses = kind(panel, held_out), []
    real = stage.loss

    def noted(rng, batch_size):
        found = real(rng, batch_size)
        losses.append(float(found["loss"].detach()))
        return found

    stage.loss = noted
    settings = StageConfig(steps=40, batch_size=32, learning_rate=5e-3, warmup_steps=2, checkpoint_every=40)
    train(stage, settings, tmp_path, precision="fp32", seed=0)
    assert (tmp_path / "preview.png").stat().st_size > 0
    assert np.mean(losses[-8:]) < 0.8 * np.mean(losses[:8])


def test_judges_that_look_for_other_phrases_are_refused(held_out):
    panel = Panel(dataclasses.replace(SIZES["mini"].panel, looks=(("hair", "green hair"),)))
    with pytest.raises(ValueError, match="look for 1 phrases"):
        LooksStage(panel, held_out, prompted_looks(held_out))


def test_rounded_weights_are_float16_numbers():
    panel = Panel(SIZES["mini"].panel)
    round_weights(panel)
    assert all(
        torch.equal(tensor, tensor.half().float())
        for tensor in panel.state_dict().values()
        if tensor.is_floating_point()
    )


def test_what_a_data_set_does_not_say_drops_out(held_out, monkeypatch):
    monkeypatch.setattr(held_out, "age", np.full(len(held_out), np.nan, np.float32))
    monkeypatch.setattr(held_out, "emotion", np.full(len(held_out), -1))
    monkeypatch.setattr(held_out, "sources", ("folder",))
    panel = Panel(SIZES["mini"].panel)
    stage = LabelsStage(panel, held_out)
    assert "traits" not in stage.module
    losses = stage.loss(np.random.default_rng(0), 8)
    losses["loss"].backward()
    assert losses["loss"].isfinite()
    assert losses["age_mae"].isnan() and losses["emotion_accuracy"].isnan()
    assert not panel.age.head.weight.grad.any() and not panel.emotion.labels.weight.grad.any()
    assert panel.identity.trunk.project.weight.grad.any() and panel.emotion.values.weight.grad.any()
    found = measured(panel, held_out)["clean"]
    assert not {"age_mae", "emotion_accuracy", "trait_r2"} & set(found) and {"avd", "id_auc", "fid"} <= set(found)


def test_judges_can_learn_from_data_of_one_s_own(trained, tmp_path):
    people, others = (str(trained / "work" / name) for name in ("people", "others"))
    arguments = ["--size", "mini", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "work")]
    assert main([*arguments, "--data", people, "--held-out", others]) == 0
    card = json.loads((tmp_path / "out" / "judges.json").read_text())
    assert card["trained_on"]["caches"][0]["key"]["seed"] == WORLD_SEED
    # The same people, drawn or given, make the same judges.
    first, second = ((folder / "out" / "judges.safetensors").read_bytes() for folder in (trained, tmp_path))
    assert first == second


def test_finished_networks_are_not_reused_for_other_people(trained, tmp_path, capsys):
    people, others, drawn = (str(trained / "work" / name) for name in ("people", "others", ""))
    arguments = ["--size", "mini", "--out", str(tmp_path / "out"), "--data", others, "--held-out", people, "--work"]
    assert main([*arguments, drawn]) == 1
    assert "holds judges with another trained_on; choose another --work" in capsys.readouterr().err
    before = tmp_path / "before"  # there was a plan.json
    shutil.copytree(trained / "work", before, ignore=shutil.ignore_patterns("plan.json"))
    assert main([*arguments, str(before)]) == 1
    assert not (tmp_path / "out").exists()
    assert (before / "labels").is_dir() and not (before / "plan.json").exists()


def test_finished_networks_are_not_reused_for_another_schooling(trained, tmp_path):
    longer = dataclasses.replace(SIZES["mini"], seed=32)
    with pytest.raises(BundleError, match="another schooling"):
        schooling.make_judges(longer, tmp_path / "out", trained / "work", processes=1)


def test_data_without_held_out_people_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["--out", "nowhere", "--data", "somewhere"])
    assert "go together" in capsys.readouterr().err


def test_a_face_pack_judges_people_in_place_of_our_network(judges_folder, held_out):
    class Pack:
        def identity(self, image):
            return np.eye(512, dtype=np.float32)[3]

    class Blind:
        def identity(self, image):
            return None

    panel = load(judges_folder)
    ours = panel.read(held_out.images[:3])
    panel.face_pack = Pack()
    theirs = panel.read(held_out.images[:3])
    assert theirs.identity.shape == (3, 512) and (theirs.identity[:, 3] == 1).all()
    assert np.array_equal(theirs.age, ours.age)
    panel.face_pack = Blind()
    assert not panel.read(held_out.images[:3]).identity.any()


@pytest.mark.skipif(not JUDGES.is_dir(), reason="no judges are shipped in bundles/judges")
def test_the_shipped_judges_see_what_they_judge():
    """On real pictures of test people: softness, age, emotion and person, each far better than chance."""
    world = World(42)
    places = [(10 * n + 9, shot) for n in range(40) for shot in (0, 1)]
    pictures = np.stack([world.portrait(*place) for place in places])
    shots = [world.shot(*place) for place in places]
    panel = load(JUDGES)
    reading, soft = panel.read(pictures), panel.read(blur(pictures))
    first, second = np.arange(80) % 4 < 2, np.arange(80) % 4 >= 2
    floor = distribution.fid(reading.look[second], reading.look[first])
    assert floor < distribution.fid(soft.look[second], reading.look[first])
    found = age_figures(np.array([shot.age for shot in shots]), reading.age)
    assert found["age_mae"] < 8 and found["age_slope"] > 0.7
    assert accuracy(np.array([EMOTIONS.index(shot.emotion) for shot in shots]), reading.emotion) > 0.4
    pairs = reading.identity.reshape(40, 2, -1)
    cosine = pairs[:, 0] @ pairs[:, 1].T
    assert auc(np.diag(cosine), cosine[~np.eye(40, dtype=bool)]) > 0.8
