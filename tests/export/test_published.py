"""Published models as they are: a checkpoint whose slots hold the layouts of their libraries becomes a bundle. Small sizes, random weights.

The structures are those of openai/clip-vit-base-patch32, facebook/wav2vec2-base and google/ddpm-ema-celebahq-256, and an insightface pack.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from transformers import CLIPConfig, CLIPModel, Wav2Vec2Config, Wav2Vec2Model

from export.bundle import export_bundle
from export.exportable import Exportable
from export.face_pack import LICENCE
from export.parity import TorchEngine, answers, measure
from export.reference import ReferenceInputs
from export.to_onnx import serialize, to_onnx
from runtime.engines.ort import OrtEngine
from runtime.inspection import bundle_lines
from runtime.ladder import LIMITS
from runtime.manifest import ONNX
from runtime.pipeline import Pipeline
from runtime.request import GenerateRequest
from runtime.spec import engine_specs
from tests.export.test_face_pack import arcface
from tests.test_parity import png, wav
from tests.training.test_published import AUTOENCODERS
from training.checkpoint import save
from training.model import ClipFaceFusion
from training.presets import MICRO, MICRO_PIXEL, PAPER
from training.published import fill_slot
from training.tokenizer import train_tokenizer

CHANNELS = {"block_out_channels": [8, 8, 8, 8, 16, 16], "norm_num_groups": 8, "layers_per_block": 1, "sample_size": 32}
# ddpm-ema-celebahq-256's own structure: six levels, one with attention, its time embedding's phases, its padding.
CELEBAHQ = {**PAPER.unet, **CHANNELS}
# wav2vec2-base: group norm in the first convolution alone, norms behind the layers, no bias in convolutions; trained with these masks.
WAV2VEC2_BASE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "conv_dim": [16] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
}
CONFIG = dataclasses.replace(MICRO_PIXEL, unet=CELEBAHQ)


def put(checkpoint: Path, slot: str, published: torch.nn.Module) -> None:
    """Replace a slot's folder by what `save_pretrained` writes."""
    shutil.rmtree(checkpoint / slot)
    published.save_pretrained(checkpoint / slot)  # type: ignore[operator]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    model = ClipFaceFusion(CONFIG, train_tokenizer(["a face"], 600, 77))
    torch.nn.init.normal_(model.conditioner.to_cond.weight, std=0.2)
    checkpoint = folder / "checkpoint"
    save(model, checkpoint, {})
    text = model.text_encoder.config.to_dict() | {
        "eos_token_id": 2,
        "hidden_act": "quick_gelu",
    }  # 2: as it was published
    vision = model.image_encoder.config.to_dict() | {"hidden_act": "quick_gelu"}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=CONFIG.features))
    put(checkpoint, "text_encoder", clip)
    put(checkpoint, "image_encoder", clip)
    put(checkpoint, "audio_encoder", Wav2Vec2Model(Wav2Vec2Config(**WAV2VEC2_BASE)))
    put(
        checkpoint,
        "unet",
        UNet2DModel(**{k: v for k, v in CELEBAHQ.items() if k not in ("_class_name", "class_embed_type")}),
    )
    assert json.loads((checkpoint / "unet" / "config.json").read_text())["class_embed_type"] is None
    arcface(folder / "pack" / "w600k_r50.onnx", features=CONFIG.features)
    export_bundle(checkpoint, folder / "bundle", face_pack=folder / "pack")
    return folder / "bundle"


def test_every_published_network_is_as_near_to_torch_as_ours(bundle: Path) -> None:
    with Pipeline.open(bundle) as pipeline:
        manifest = pipeline.bundle.manifest
    errors = {name: reached["relative_error"] for name, reached in manifest.parity[ONNX]["engines"].items()}
    assert max(errors.values()) <= LIMITS[ONNX].engine and not manifest.parity_missed
    assert manifest.weights["identity_encoder"]["licence"] == LICENCE
    assert manifest.weights["identity_encoder"]["commercial_use"] == "no"
    assert manifest.model.identity_size == 112
    (line,) = (line for line in bundle_lines(manifest) if line.startswith("identity_encoder "))
    assert line.endswith(LICENCE)


def test_a_bundle_of_published_networks_makes_pictures_of_all_it_is_given(bundle: Path) -> None:
    with Pipeline.open(bundle) as pipeline:
        whole, without = (
            pipeline(GenerateRequest(text="an old man", audio=wav(), reference=photo, seed=1, num_inference_steps=3))
            for photo in (png(), None)
        )
    assert whole.image.shape == (32, 32, 3) and (whole.image != without.image).any()


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_published_autoencoder_becomes_encoder_and_decoder(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ClipFaceFusion(MICRO, train_tokenizer(["a face"], 600, 77)).eval()
    AUTOENCODERS[kind]().save_pretrained(tmp_path)
    fill_slot(model, "autoencoder", tmp_path)
    model.eval()
    for name in ("encoder", "decoder"):
        spec = engine_specs(model.spec())[name]
        exportable = Exportable(model, spec)
        engine = OrtEngine(serialize(to_onnx(exportable)), spec, threads=1)
        expected = answers(TorchEngine(exportable), ReferenceInputs.of(model))
        assert measure(engine, expected).relative_error < LIMITS[ONNX].engine
