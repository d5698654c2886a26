"""What a training example shows, and above all what it must not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from runtime.emotions import EMOTIONS
from runtime.spec import SOURCES, engine_specs
from tests.training.data.odd import write
from training import features
from training.data.cache import DataCache
from training.data.cache_writer import Truth
from training.dropout import MODALITIES
from training.examples import Batch, Examples
from training.features import FeatureCache
from training.model import ClipFaceFusion

# Which inputs of the fusion engine a bit of `present` speaks of.
INPUT = {"text": "text_features", "audio": "audio_features", "valence_arousal": "valence_arousal"}
INPUT |= {"age_text": "age_text_features", "emotion_text": "emotion_text_features", "emotion": "emotion", "age": "age"}
INPUT |= {"image": "image_features", "identity": "identity_features"}


def present(batch: Batch, name: str) -> np.ndarray:
    return batch.inputs["present"][:, SOURCES.index(name)].bool().numpy()


def everything(count: int, but: str = "") -> dict[str, np.ndarray]:
    return {name: np.full(count, name != but) for name in MODALITIES}


@pytest.fixture
def examples(little_world: DataCache, little_model: ClipFaceFusion, little_features: FeatureCache) -> Examples:
    return Examples(little_model, little_world, little_features)


def odd(folder: Path, model: ClipFaceFusion, pictures: list[Truth], clips=(), captions: str = "") -> Examples:  # type: ignore[no-untyped-def]
    cache = DataCache(write(folder / "odd", pictures, clips, captions))
    return Examples(model, cache, features.build(folder / "features", model, cache))


def test_inputs_are_the_fusion_engines_in_its_order(examples: Examples) -> None:
    batch = examples.draw(np.random.default_rng(0), 5)
    spec = engine_specs(examples.model.spec())["fusion"]
    assert list(batch.inputs) == [tensor.name for tensor in spec.inputs]
    assert spec.check_inputs({name: tensor.numpy() for name, tensor in batch.inputs.items()}) == {"B": 5}
    assert batch.clean.shape == (5, *examples.model.spec().sample_shape) and batch.clean.dtype == torch.float32


def test_the_same_generator_gives_the_same_batch(examples: Examples) -> None:
    first, second = (examples.draw(np.random.default_rng(3), 8) for _ in range(2))
    assert torch.equal(first.rows, second.rows) and torch.equal(first.clean, second.clean)
    assert all(torch.equal(first.inputs[name], second.inputs[name]) for name in first.inputs)


def test_what_a_caller_asks_for_does_not_depend_on_the_rates_of_training(
    examples: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.examples.sample_modalities", lambda *_: pytest.fail("drew modalities"))
    given = {name: np.ones(3, bool) for name in MODALITIES}
    batch = examples.describe(np.array([0, 1, 2]), np.random.default_rng(3), given)
    assert present(batch, "text").all()


def test_what_a_network_reads_is_on_its_device_and_what_indexes_a_cache_is_not(examples: Examples) -> None:
    examples.model.conditioner.to("meta")  # the only other device that every machine has
    batch = examples.draw(np.random.default_rng(0), 3)
    assert {tensor.device.type for tensor in (*batch.inputs.values(), batch.clean, batch.has_other)} == {"meta"}
    assert batch.rows.device.type == batch.reference.device.type == "cpu"


def test_the_reference_is_another_picture_of_the_target_person(examples: Examples) -> None:
    batch = examples.draw(np.random.default_rng(0), 200)
    person = examples.cache.person
    assert batch.has_other.all() and (batch.rows != batch.reference).all()
    assert (person[batch.rows] == person[batch.reference]).all()
    shown = present(batch, "image")
    assert torch.equal(batch.inputs["image_features"][shown], examples.features.image[batch.reference][shown])


def test_labels_are_the_targets_and_not_the_references(examples: Examples) -> None:
    rows = np.arange(len(examples.cache))
    batch = examples.describe(rows, np.random.default_rng(0), everything(len(rows)))
    assert batch.inputs["age"][:, 0].tolist() == examples.cache.age.tolist()
    told = present(batch, "emotion")
    label = batch.inputs["emotion"].numpy()[told]
    assert (label.argmax(1) == examples.cache.emotion[told]).all()
    assert label.max(1) == pytest.approx(examples.cache.intensity[told])
    known = torch.isin(batch.inputs["text_features"].sum(1), examples.features.texts.sum(1))
    assert known.all(), "the text is one of the captions"


def test_what_is_absent_is_zero(examples: Examples) -> None:
    batch = examples.draw(np.random.default_rng(0), 300)
    for bit, name in INPUT.items():
        shown = present(batch, bit)
        assert not batch.inputs[name][~shown].any(), name
        assert shown.any() and batch.inputs[name][shown].any(), name


def test_an_emotion_is_told_as_label_as_values_and_as_both(examples: Examples) -> None:
    batch = examples.describe(np.zeros(400, int), np.random.default_rng(0), everything(400))
    label, values = present(batch, "emotion"), present(batch, "valence_arousal")
    assert (label | values).all()
    shares = [(label & ~values).mean(), (values & ~label).mean(), (label & values).mean()]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.06)


def test_a_label_that_is_unknown_is_never_present_and_never_not_a_number(
    little_model: ClipFaceFusion, tmp_path: Path
) -> None:
    """Ten pictures that know one thing or nothing; every one is described with everything it has."""
    pictures = [Truth(0), Truth(1, age=30.0), Truth(2, emotion="sad"), Truth(3, valence_arousal=(0.5, -0.5))]
    pictures += [Truth(4, intensity=0.5), Truth(5, sex=1), Truth(6, emotion="sad", intensity=0.25)]
    examples = odd(tmp_path, little_model, pictures)
    for given in (None, everything(len(pictures))):
        for seed in range(10):
            batch = examples.describe(np.arange(len(pictures)), np.random.default_rng(seed), given)
            assert all(tensor.isfinite().all() for tensor in batch.inputs.values())
            for name, rows in {"age": {1}, "emotion": {2, 6}, "valence_arousal": {3}}.items():
                found = set(np.flatnonzero(present(batch, name)))
                assert found <= rows and (given is None or found == rows), name
            for name in ("text", "age_text", "emotion_text", "audio"):
                assert not present(batch, name).any(), name
    full = batch.inputs["emotion"][:, EMOTIONS.index("sad")]
    assert full[[2, 6]].tolist() == [1.0, 0.25], "a label without intensity is of full intensity"
    cond = little_model.fuse(*batch.inputs.values())
    assert all(entry.isfinite().all() for entry in cond)


def test_a_single_photo_shows_its_clip_token_in_one_of_five_and_its_identity_by_a_crop(
    little_model: ClipFaceFusion, tmp_path: Path
) -> None:
    examples = odd(tmp_path, little_model, [Truth(0), Truth(1), Truth(1)])
    batch = examples.describe(np.zeros(4000, int), np.random.default_rng(0))
    assert not batch.has_other.any() and (batch.reference == 0).all()
    identity, image = present(batch, "identity"), present(batch, "image")
    assert identity.any() and not (image & ~identity).any()
    assert image.sum() / identity.sum() == pytest.approx(0.2, abs=0.03)
    crop = examples.features.identity_crop
    assert not torch.equal(crop[0], examples.features.identity[0])
    assert torch.equal(crop[1:], examples.features.identity[1:])
    assert torch.equal(batch.inputs["identity_features"][identity][0], crop[0])
    pair = examples.describe(np.ones(4000, int), np.random.default_rng(0))
    assert pair.has_other.all() and (present(pair, "image") == present(pair, "identity")).all()


@pytest.mark.parametrize("modality", MODALITIES)
def test_a_modality_that_is_never_to_be_seen_is_not(
    modality: str, little_world: DataCache, little_model: ClipFaceFusion, little_features: FeatureCache
) -> None:
    bits = {"text": ("text", "age_text", "emotion_text"), "audio": ("audio",), "reference": ("image", "identity")}
    bits |= {"age": ("age",), "emotion": ("emotion", "valence_arousal")}
    examples = Examples(little_model, little_world, little_features, never=(modality,))
    drawn = examples.draw(np.random.default_rng(0), 300)
    asked = examples.describe(np.arange(len(little_world)), np.random.default_rng(0), everything(len(little_world)))
    for name in SOURCES:
        for batch in (drawn, asked):
            assert present(batch, name).any() == (name not in bits[modality]), name
    with pytest.raises(ValueError, match=r"never \['voice'\]; modalities are text"):
        Examples(little_model, little_world, little_features, never=("voice",))


def test_the_voice_is_one_that_may_be_heard_with_the_picture(little_model: ClipFaceFusion, tmp_path: Path) -> None:
    said = [Truth(n, sex=n, emotion="sad") for n in range(2)]
    examples = odd(tmp_path, little_model, [*said, Truth(2)], [(said[1], 1), (said[0], 0)])
    batch = examples.describe(np.arange(3), np.random.default_rng(0), everything(3))
    assert present(batch, "audio").tolist() == [True, True, False]
    assert torch.equal(batch.inputs["audio_features"][:2], examples.features.audio[[1, 0]])
    assert torch.equal(batch.inputs["audio_emotion_features"][:2], examples.features.audio_emotion[[1, 0]])


def test_phrases_come_from_the_caption_that_is_shown(little_model: ClipFaceFusion, tmp_path: Path) -> None:
    examples = odd(tmp_path, little_model, [Truth(0)], captions="a sad man, 40 years old")
    batch = examples.describe(np.zeros(1, int), np.random.default_rng(0), everything(1))
    found = examples.features
    for name, table in {
        "text": found.caption,
        "age_text": found.age_phrase,
        "emotion_text": found.emotion_phrase,
    }.items():
        assert present(batch, name).all()
        assert torch.equal(batch.inputs[f"{name}_features"][0], found.texts[table[0, 0]])
    assert len(found.texts) == 3


def test_half_of_the_captions_come_without_their_phrases_and_those_asked_for_never_do(
    little_model: ClipFaceFusion, tmp_path: Path
) -> None:
    examples = odd(tmp_path, little_model, [Truth(0)], captions="a sad man, 40 years old")
    batch = examples.describe(np.zeros(4000, int), np.random.default_rng(0))
    text, age, emotion = (present(batch, name) for name in ("text", "age_text", "emotion_text"))
    assert (age == emotion).all() and not (emotion & ~text).any()
    assert emotion.sum() / text.sum() == pytest.approx(0.5, abs=0.05)
    asked = examples.describe(np.zeros(50, int), np.random.default_rng(0), everything(50))
    assert present(asked, "emotion_text").all()


def test_a_caption_that_says_nothing_of_age_or_emotion_has_no_such_phrase(
    little_model: ClipFaceFusion, tmp_path: Path
) -> None:
    examples = odd(tmp_path, little_model, [Truth(0)], captions="a face with glasses")
    batch = examples.describe(np.zeros(1, int), np.random.default_rng(0), everything(1))
    assert present(batch, "text").all()
    assert not present(batch, "age_text").any() and not present(batch, "emotion_text").any()


def test_only_pictures_with_a_share_are_targets(little_model: ClipFaceFusion, tmp_path: Path) -> None:
    folders = [write(tmp_path / name, [Truth(n) for n in range(4)]) for name in ("ffhq", "fer2013")]
    cache = DataCache(*folders, mixture={"ffhq": 1.0})
    examples = Examples(little_model, cache, features.build(tmp_path / "f", little_model, cache))
    rows = examples.draw(np.random.default_rng(0), 100).rows
    assert set(cache.source[rows]) == {cache.sources.index("ffhq")}
