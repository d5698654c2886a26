"""Published weights load into the slots from their libraries' folder layouts (here small, with random weights)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from transformers import CLIPConfig, CLIPModel, Wav2Vec2Config, Wav2Vec2Model

from runtime.errors import BundleError
from training.model import ClipFaceFusion
from training.presets import MICRO, MICRO_PIXEL
from training.published import fill_slot
from training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def model() -> ClipFaceFusion:
    torch.manual_seed(0)
    return ClipFaceFusion(MICRO_PIXEL, train_tokenizer(["a face"], 600, 77)).eval()


def clip_folder(model: ClipFaceFusion, folder: Path, projection: int) -> Path:
    """Both towers in one folder, as openai/clip-vit-base-patch32 is published."""
    text = model.text_encoder.config.to_dict() | {"projection_dim": projection}
    vision = model.image_encoder.config.to_dict() | {"projection_dim": projection}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)).save_pretrained(folder)
    return folder


def test_a_clip_folder_fills_both_towers(model: ClipFaceFusion, tmp_path: Path) -> None:
    folder = clip_folder(model, tmp_path, MICRO_PIXEL.features)
    published = CLIPModel.from_pretrained(folder)
    fill_slot(model, "text_encoder", folder)
    fill_slot(model, "image_encoder", folder)
    assert torch.equal(model.text_encoder.text_projection.weight, published.text_projection.weight)
    assert torch.equal(model.image_encoder.visual_projection.weight, published.visual_projection.weight)


def test_weights_of_another_width_are_refused(model: ClipFaceFusion, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="text_encoder: width 48 does not fit this model's 64"):
        fill_slot(model, "text_encoder", clip_folder(model, tmp_path, 48))


def test_wav2vec2_with_group_norm_fills_the_audio_slot(model: ClipFaceFusion, tmp_path: Path) -> None:
    """wav2vec2-base is a group-norm variant; clips run one at a time and unpadded, so that is allowed."""
    config = Wav2Vec2Config(**{**MICRO.audio_encoder, "feat_extract_norm": "group", "do_stable_layer_norm": False})
    published = Wav2Vec2Model(config)
    published.save_pretrained(tmp_path)
    fill_slot(model, "audio_encoder", tmp_path)
    assert model.encode_audio(torch.randn(1, 8000))[0].shape == (1, 32)
    assert torch.equal(
        model.audio_encoder.wav2vec2.feature_projection.projection.weight,
        published.feature_projection.projection.weight,
    )


def test_an_unconditional_unet_starts_as_it_was_published(model: ClipFaceFusion, tmp_path: Path) -> None:
    """The layout of google/ddpm-ema-celebahq-256: no class embedding. With W_out at zero nothing changes."""
    settings = {
        name: value for name, value in MICRO_PIXEL.unet.items() if name not in ("_class_name", "class_embed_type")
    }
    published = UNet2DModel(**settings).eval()
    published.save_pretrained(tmp_path)
    fill_slot(model, "unet", tmp_path)
    model.unet.eval()
    sample, timestep = torch.randn(2, 3, 32, 32), torch.tensor([10, 900])
    with torch.no_grad():
        cond = model.uncond()["cond"].expand(2, -1)
        assert torch.equal(model.denoise(sample, timestep, cond), published(sample, timestep).sample)


def test_a_folder_of_pickles_is_refused(model: ClipFaceFusion, tmp_path: Path) -> None:
    folder = clip_folder(model, tmp_path, MICRO_PIXEL.features)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BundleError, match="text_encoder: cannot load"):
        fill_slot(model, "text_encoder", folder)


def test_a_missing_folder_is_named(model: ClipFaceFusion, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"config\.json"):
        fill_slot(model, "unet", tmp_path / "nothing")
