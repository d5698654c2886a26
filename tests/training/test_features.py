"""The cache of frozen features: equal to the encoders' own answers, and thrown away when they or the data change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.data.odd import write
from training import features
from training.data.cache import DataCache
from training.data.cache_writer import Truth
from training.features import FeatureCache
from training.model import ClipFaceFusion
from training.pictures import to_clip, to_model
from training.presets import MICRO_PIXEL


@torch.no_grad()
def test_features_are_the_frozen_networks_answers(
    little_world: DataCache, little_model: ClipFaceFusion, little_features: FeatureCache
) -> None:
    image = to_model(little_world.images[3:4])
    expected = {
        "image": little_model.encode_image(to_clip(image)),
        "identity": little_model.identify(image),
        "age": little_model.age_estimator.features(image),
        "emotion": little_model.emotion_estimator.features(image),
        "samples": little_model.encode(image),
    }
    for name, answer in expected.items():
        tolerance = 2e-3 if name == "samples" else 1e-5  # latents are kept in half precision
        torch.testing.assert_close(getattr(little_features, name)[3:4].float(), answer, rtol=tolerance, atol=tolerance)


@torch.no_grad()
def test_each_clip_is_heard_at_its_own_length(
    little_world: DataCache, little_model: ClipFaceFusion, little_features: FeatureCache
) -> None:
    shortest = int(little_world.audio_length.argmin())
    clip = little_world.audio[shortest, : little_world.audio_length[shortest]].astype(np.float32)
    clip = (clip - clip.mean()) / np.sqrt(clip.var() + 1e-7)
    pooled, emotion = little_model.encode_audio(torch.from_numpy(clip)[None])
    torch.testing.assert_close(little_features.audio[shortest : shortest + 1], pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(little_features.audio_emotion[shortest : shortest + 1], emotion, rtol=1e-4, atol=1e-4)


def test_a_file_of_other_encoders_or_other_data_is_not_used(
    little_world: DataCache, little_model: ClipFaceFusion, tmp_path: Path
) -> None:
    path = tmp_path / "features.safetensors"
    first = features.build(path, little_model, little_world)
    written = path.stat().st_mtime_ns
    assert torch.equal(features.build(path, little_model, little_world).identity, first.identity)
    assert path.stat().st_mtime_ns == written
    torch.nn.init.normal_(little_model.conditioner.to_cond.weight)  # not frozen here, so nothing changes
    features.build(path, little_model, little_world)
    assert path.stat().st_mtime_ns == written
    with torch.no_grad():
        little_model.identity_encoder.trunk.project.weight.mul_(
            torch.rand_like(little_model.identity_encoder.trunk.project.weight)
        )
    assert not torch.equal(features.build(path, little_model, little_world).identity, first.identity)
    photos = DataCache(write(tmp_path / "photos", [Truth(0), Truth(1)]))
    assert len(features.build(path, little_model, photos).identity) == 2


def test_pictures_without_captions_and_sources_without_voices_have_features(
    little_model: ClipFaceFusion, tmp_path: Path
) -> None:
    cache = DataCache(write(tmp_path / "photos", [Truth(0), Truth(1)]))
    found = features.build(tmp_path / "features", little_model, cache)
    again = features.build(tmp_path / "features", little_model, cache)
    assert found.caption.shape[0] == again.caption.shape[0] == 2 and not (found.caption >= 0).any()
    assert len(found.audio) == len(found.texts) == 0


def test_a_pixel_model_keeps_no_copy_of_the_pictures(little_model: ClipFaceFusion, tmp_path: Path) -> None:
    model = ClipFaceFusion(MICRO_PIXEL, little_model.tokenizer)
    cache = DataCache(write(tmp_path / "photos", [Truth(0), Truth(1)]))
    assert features.build(tmp_path / "features", model, cache).samples is None
    assert "samples" not in load_file(tmp_path / "features")


@pytest.mark.parametrize("single", [True, False])
def test_only_who_has_one_picture_gets_an_identity_by_a_crop(
    single: bool, little_model: ClipFaceFusion, tmp_path: Path
) -> None:
    folder = write(tmp_path / "photos", [Truth(0), Truth(int(single))])
    found = features.build(tmp_path / "features", little_model, DataCache(folder))
    assert torch.equal(found.identity, found.identity_crop) != single


def test_features_lie_in_memory_as_they_do_when_read_from_their_file(
    little_world: DataCache, little_model: ClipFaceFusion, tmp_path: Path
) -> None:
    """A convolution of another layout differs in its last bits, and so would a run that was killed and resumed."""
    made = features.build(tmp_path / "features.safetensors", little_model, little_world)
    assert made.samples is not None and made.samples.is_contiguous() and made.image.is_contiguous()
