"""Published weights load into the slots from their libraries' folder layouts (here small, with random weights)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DModel, VQModel
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, Wav2Vec2Config, Wav2Vec2Model

from runtime.errors import BundleError
from training import checkpoint
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


SMALL = {"block_out_channels": (8, 8, 8), "norm_num_groups": 4, "latent_channels": 4}
BLOCKS = {"down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}
AUTOENCODERS = {
    "kl": lambda: AutoencoderKL(**SMALL, **BLOCKS, scaling_factor=0.36, shift_factor=0.12),
    "kl-by-channel": lambda: AutoencoderKL(
        **SMALL, **BLOCKS, scaling_factor=0.5, latents_mean=[0.1, 0.2, 0.3, 0.4], latents_std=[1.0, 2.0, 3.0, 4.0]
    ),
    "vq": lambda: VQModel(**SMALL, **BLOCKS, scaling_factor=0.5, num_vq_embeddings=16),
    "tiny": lambda: AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        scaling_factor=2.0,
        shift_factor=0.5,
    ),
}


@pytest.fixture(scope="module")
def latent_model(model: ClipFaceFusion) -> ClipFaceFusion:
    return ClipFaceFusion(MICRO, model.tokenizer).eval()


@pytest.mark.parametrize("kind", AUTOENCODERS)
def test_a_published_autoencoder_gives_the_latents_that_its_pipelines_denoise(
    latent_model: ClipFaceFusion, kind: str, tmp_path: Path
) -> None:
    """As diffusers' pipelines write it: `(latents - shift) * scaling`, of AutoencoderKL without the encoder's noise."""
    torch.manual_seed(2)
    published = AUTOENCODERS[kind]().eval()
    published.save_pretrained(tmp_path)
    fill_slot(latent_model, "autoencoder", tmp_path)
    latent_model.eval()
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        encoded = published.encode(image)
        raw = encoded.latent_dist.mode() if kind.startswith("kl") else encoded.latents
        shift, scaling = {
            "kl": (0.12, 0.36),
            "kl-by-channel": (
                torch.tensor([0.1, 0.2, 0.3, 0.4]).view(4, 1, 1),
                0.5 / torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1),
            ),
            "vq": (0, 0.5),
            "tiny": (0.5, 2.0),
        }[kind]
        latents = (raw - shift) * scaling
        torch.testing.assert_close(latent_model.encode(image), latents)
        expected = published.decode(raw).sample.clamp(-1, 1)
        torch.testing.assert_close(latent_model.decode(latents), expected, atol=1e-5, rtol=1e-5)


def test_a_checkpoint_says_nothing_of_latents_where_a_published_autoencoder_does(
    latent_model: ClipFaceFusion, tmp_path: Path
) -> None:
    checkpoint.save(latent_model, tmp_path / "c", {})
    torch.manual_seed(3)
    AUTOENCODERS["kl"]().save_pretrained(tmp_path / "kl")
    shutil.rmtree(tmp_path / "c" / "autoencoder")
    shutil.copytree(tmp_path / "kl", tmp_path / "c" / "autoencoder")
    settings = tmp_path / "c" / checkpoint.CONFIG_FILE
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"latents": None}))
    autoencoder = checkpoint.load(tmp_path / "c").autoencoder
    assert autoencoder is not None and autoencoder.is_trained and autoencoder.factor == 4
    assert autoencoder.mean.flatten().tolist() == pytest.approx([0.12] * 4)
    assert autoencoder.std.flatten().tolist() == pytest.approx([1 / 0.36] * 4)


def test_an_autoencoder_that_does_not_fit_is_refused(
    model: ClipFaceFusion, latent_model: ClipFaceFusion, tmp_path: Path
) -> None:
    AutoencoderKL(**{**SMALL, **BLOCKS, "latent_channels": 3}).save_pretrained(tmp_path / "three")
    with pytest.raises(BundleError, match=r"autoencoder: width \(3, 8, 8\) does not fit this model's \(4, 8, 8\)"):
        fill_slot(latent_model, "autoencoder", tmp_path / "three")
    with pytest.raises(BundleError, match="this model works on pixels and has no autoencoder"):
        fill_slot(model, "autoencoder", tmp_path / "three")
    model.unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(
        BundleError, match=r"its config\.json names 'UNet2DModel'; known are AutoencoderTiny, AutoencoderKL"
    ):
        fill_slot(latent_model, "autoencoder", tmp_path / "unet")


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
