"""Published weights load into the slots from their libraries' folder layouts (here small, with random weights)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, Wav2Vec2Config, Wav2Vec2Model

from runtime.errors import BundleError
from training.model import ClipFaceFusion
from training.presets import MICRO, MICRO_PIXEL
from training.published import ESTIMATOR_SLOTS, estimator, fill_slot
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


def test_weights_stored_in_half_are_used_in_single_precision(model: ClipFaceFusion, tmp_path: Path) -> None:
    UNet2DModel(**{k: v for k, v in MICRO_PIXEL.unet.items() if k != "_class_name"}).half().save_pretrained(
        tmp_path / "u"
    )
    fill_slot(model, "unet", tmp_path / "u")
    CLIPModel.from_pretrained(clip_folder(model, tmp_path / "c", MICRO_PIXEL.features)).half().save_pretrained(
        tmp_path / "c"
    )
    fill_slot(model, "text_encoder", tmp_path / "c")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_folder_that_lacks_a_weight_is_refused_not_filled_up_by_chance(model: ClipFaceFusion, tmp_path: Path) -> None:
    folder = clip_folder(model, tmp_path, MICRO_PIXEL.features)
    weights = load_file(folder / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(BundleError, match=r"text_encoder: cannot load .* it lacks text_projection\.weight"):
        fill_slot(model, "text_encoder", folder)


def test_a_folder_of_pickles_is_refused(model: ClipFaceFusion, tmp_path: Path) -> None:
    folder = clip_folder(model, tmp_path, MICRO_PIXEL.features)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BundleError, match="text_encoder: cannot load"):
        fill_slot(model, "text_encoder", folder)


def test_a_missing_folder_is_named(model: ClipFaceFusion, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"config\.json"):
        fill_slot(model, "unet", tmp_path / "nothing")


@pytest.mark.parametrize("slot", ESTIMATOR_SLOTS)
def test_an_estimators_slot_takes_one_file_of_another_checkpoint(
    model: ClipFaceFusion, slot: str, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    other = ClipFaceFusion(MICRO_PIXEL, model.tokenizer)
    wanted = estimator(other, slot).state_dict()
    save_file({name: tensor.half().contiguous() for name, tensor in wanted.items()}, tmp_path / "own.safetensors")
    fill_slot(model, slot, tmp_path / "own.safetensors")
    for name, tensor in estimator(model, slot).state_dict().items():
        assert torch.equal(tensor, wanted[name].half().to(tensor.dtype)), name


def test_an_estimators_file_of_another_size_is_refused(model: ClipFaceFusion, tmp_path: Path) -> None:
    save_file({"head.weight": torch.zeros(1, 8)}, tmp_path / "own.safetensors")
    with pytest.raises(BundleError, match=r"age_estimator: own\.safetensors lacks"):
        fill_slot(model, "age_estimator", tmp_path / "own.safetensors")
