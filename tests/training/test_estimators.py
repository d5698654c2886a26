"""What every estimator offers, and a user's own weights in their place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from runtime.errors import BundleError
from training.encoders import AudioEncoder, build_wav2vec2
from training.estimators import AgeEstimator, EmotionEstimator, Estimator, IdentityEncoder, load_estimator
from training.presets import MICRO

D, SIZE = MICRO.features, MICRO.image_size
INPUTS = {"age": (3, 3, SIZE, SIZE), "emotion": (3, 3, SIZE, SIZE), "identity": (3, 3, SIZE, SIZE), "voice": (3, 4000)}
READ = {
    "age": {"age": (3,)},
    "emotion": {"emotion": (3, 8), "valence_arousal": (3, 2)},
    "identity": {"identity": (3, D)},
    "voice": {"emotion": (3, 8)},
}


def make() -> Mapping[str, Estimator]:
    torch.manual_seed(0)
    networks = {
        "age": AgeEstimator(MICRO.face_channels, D),
        "emotion": EmotionEstimator(MICRO.face_channels, D),
        "identity": IdentityEncoder(MICRO.face_channels, D),
        "voice": AudioEncoder(build_wav2vec2(MICRO.audio_encoder), D),
    }
    for network in networks.values():
        network.eval().requires_grad_(False)  # as the losses meet them: frozen
    return networks


@pytest.fixture(scope="module")
def estimators() -> Mapping[str, Estimator]:
    return make()


@pytest.mark.parametrize("name", INPUTS)
def test_features_are_one_row_each_and_their_gradient_reaches_the_input(
    estimators: Mapping[str, Estimator], name: str
) -> None:
    inputs = torch.randn(INPUTS[name], requires_grad=True)
    features = estimators[name].features(inputs)
    assert features.shape == (3, D)
    features.square().mean(0).sub(0.5).square().sum().backward()
    assert inputs.grad is not None
    assert (inputs.grad.flatten(1).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("name", INPUTS)
def test_readings_are_named_in_range_and_without_gradient(estimators: Mapping[str, Estimator], name: str) -> None:
    read = estimators[name].read(torch.randn(INPUTS[name], requires_grad=True))
    assert {field: tuple(value.shape) for field, value in read.items()} == READ[name]
    assert not any(value.requires_grad for value in read.values())
    if "age" in read:
        assert ((read["age"] >= 0) & (read["age"] <= 120)).all()
    if "emotion" in read:
        torch.testing.assert_close(read["emotion"].sum(1), torch.ones(3))
    if "valence_arousal" in read:
        assert (read["valence_arousal"].abs() <= 1).all()
    if "identity" in read:
        torch.testing.assert_close(read["identity"].norm(dim=1), torch.ones(3))


def test_what_is_read_is_what_the_engine_will_return(estimators: Mapping[str, Estimator]) -> None:
    image = torch.randn(INPUTS["age"])
    assert torch.equal(estimators["age"](image)[:, 0], estimators["age"].read(image)["age"])
    probabilities, values = estimators["emotion"](image)
    assert torch.equal(probabilities, estimators["emotion"].read(image)["emotion"])
    assert torch.equal(values, estimators["emotion"].read(image)["valence_arousal"])
    assert torch.equal(estimators["identity"](image), estimators["identity"].features(image))
    clip = torch.randn(INPUTS["voice"])
    assert torch.equal(estimators["voice"](clip)[1], estimators["voice"].features(clip))


def tensors_of(estimator: AgeEstimator) -> dict[str, torch.Tensor]:
    return {name: torch.randn_like(tensor) for name, tensor in estimator.state_dict().items()}


def test_own_weights_of_half_precision_replace_the_networks(tmp_path: Path) -> None:
    estimator = AgeEstimator(MICRO.face_channels, D)
    own = {name: tensor.half() for name, tensor in tensors_of(estimator).items()}
    save_file(own, tmp_path / "age.safetensors")
    load_estimator("age_estimator", estimator, tmp_path / "age.safetensors")
    assert all(torch.equal(tensor, own[name].float()) for name, tensor in estimator.state_dict().items())


def test_a_checkpoints_own_files_are_such_weights(micro_checkpoint: Path) -> None:
    path = micro_checkpoint / "estimators" / "identity.safetensors"
    estimator = IdentityEncoder(MICRO.face_channels, D)
    load_estimator("identity_encoder", estimator, path)
    assert torch.equal(estimator.trunk.project.weight, load_file(path)["trunk.project.weight"].float())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda own: own.pop("head.bias"), r"age_estimator: own.safetensors lacks head\.bias \(1 in all\)"),
        (lambda own: own.update(extra=torch.zeros(1)), "has unknown extra"),
        (lambda own: own.update({"head.weight": torch.zeros(1, 7)}), r"head.weight of shape \(1, 7\), this model needs \(1, 64\)"),
        (lambda own: own["head.bias"].fill_(float("nan")), "head.bias that are not finite"),
    ],
    ids=["missing", "unknown", "of another size", "not finite"],
)  # fmt: skip
def test_weights_that_do_not_fit_are_refused_and_change_nothing(damage, message: str, tmp_path: Path) -> None:
    estimator = AgeEstimator(MICRO.face_channels, D)
    before = {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
    own = tensors_of(estimator)
    damage(own)
    save_file(own, tmp_path / "own.safetensors")
    with pytest.raises(BundleError, match=message):
        load_estimator("age_estimator", estimator, tmp_path / "own.safetensors")
    assert all(torch.equal(tensor, before[name]) for name, tensor in estimator.state_dict().items())


def test_a_missing_file_and_a_file_of_something_else_are_named(tmp_path: Path) -> None:
    estimator = AgeEstimator(MICRO.face_channels, D)
    with pytest.raises(BundleError, match=r"age_estimator: .*nothing\.safetensors is not a file"):
        load_estimator("age_estimator", estimator, tmp_path / "nothing.safetensors")
    (tmp_path / "model.pt").write_bytes(b"PK\x03\x04" + bytes(64))
    with pytest.raises(BundleError, match=r"model\.pt is not a safetensors file"):
        load_estimator("age_estimator", estimator, tmp_path / "model.pt")
