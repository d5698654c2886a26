"""The decoder's stage: the decoder changes and nothing else; deeper ones keep what they had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from training import features
from training.autoencoder import Autoencoder, build_network
from training.config import StageConfig
from training.data.cache import DataCache
from training.loop import train
from training.model import ClipFaceFusion
from training.presets import MICRO_PIXEL
from training.stages.decoder import DecoderStage

MakeCache = Callable[..., DataCache]
SETTINGS = {"latent_channels": 4, "block_out_channels": [8, 8, 8], "num_blocks": [0, 1, 2]}


def test_the_latents_and_the_features_stay_and_the_decoder_changes(
    model: ClipFaceFusion, make_cache: MakeCache, tmp_path: Path
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    made_by = features._sha256(model)
    config = StageConfig(steps=2, batch_size=4, learning_rate=1e-3, warmup_steps=0, checkpoint_every=2)
    stage = DecoderStage(model, make_cache([0, 1, 2]))
    train(stage, config, tmp_path / "decoder", precision="fp32", seed=1)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(name.startswith("autoencoder.network.decoder.") for name in changed)
    assert features._sha256(model) == made_by
    assert (tmp_path / "decoder" / "preview.png").stat().st_size > 0
    assert 0 < stage.finish() < 60


def test_a_deeper_decoder_keeps_what_it_had_and_the_latents() -> None:
    autoencoder, image = Autoencoder(build_network(SETTINGS)), torch.rand(2, 3, 16, 16)
    autoencoder.mean += 0.5
    shallow, latents = autoencoder.network.decoder, autoencoder.encode(image)
    autoencoder.deepen({**SETTINGS, "num_decoder_blocks": [1, 2, 2]})
    deep = autoencoder.network.decoder
    assert torch.equal(autoencoder.encode(image), latents)
    assert len(deep.layers) == len(shallow.layers) + 2
    kept = {tensor.data_ptr(): tensor for tensor in deep.state_dict().values()}.values()
    for tensor in shallow.state_dict().values():
        assert any(tensor.shape == other.shape and torch.equal(tensor, other) for other in kept)
    assert autoencoder.decode(latents).shape == image.shape


def test_the_same_blocks_change_no_picture() -> None:
    autoencoder, latents = Autoencoder(build_network(SETTINGS)), torch.randn(1, 4, 4, 4)
    before = autoencoder.decode(latents)
    autoencoder.deepen({**SETTINGS, "num_decoder_blocks": SETTINGS["num_blocks"]})
    assert torch.equal(autoencoder.decode(latents), before)


def test_an_encoder_cannot_be_changed_on_the_way() -> None:
    autoencoder = Autoencoder(build_network(SETTINGS))
    with pytest.raises(ValueError, match="only the blocks of the decoder can change"):
        autoencoder.deepen({**SETTINGS, "num_blocks": [1, 1, 2]})


def test_a_model_of_pixels_has_no_such_stage(model: ClipFaceFusion, make_cache: MakeCache) -> None:
    with pytest.raises(ValueError, match="works on pixels"):
        DecoderStage(ClipFaceFusion(MICRO_PIXEL, model.tokenizer), make_cache([0]))
