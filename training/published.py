"""Weights in their libraries' own folder layout, put into a model's slots: published ones, or a checkpoint's.

A CLIP folder holds both towers and each slot takes its half. Only safetensors is read, never a pickle.
"""

from __future__ import annotations

import logging
from pathlib import Path

from diffusers import AutoencoderTiny
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection, Wav2Vec2Model
from transformers.utils import logging as transformers_logging

from runtime.errors import BundleError
from training.model import ClipFaceFusion

SLOTS = ("unet", "text_encoder", "image_encoder", "audio_encoder", "autoencoder")

transformers_logging.disable_progress_bar()  # a bar per file of a few megabytes is noise
# AutoencoderTiny writes a `block_out_channels` into its config that it then warns about when reading it.
logging.getLogger("diffusers.configuration_utils").addFilter(
    lambda record: "block_out_channels" not in record.getMessage()
)


def fill_slot(model: ClipFaceFusion, slot: str, folder: Path) -> None:
    """Replace one of `SLOTS` by the weights in `folder`. Raises BundleError if they are missing or do not fit the model."""
    if slot not in SLOTS:
        raise BundleError(f"slot {slot!r} does not exist; slots are {', '.join(SLOTS)}")
    if not (folder / "config.json").is_file():
        raise BundleError(
            f"{slot}: {folder} has no config.json; expected the folder layout of diffusers or transformers"
        )
    try:
        if slot == "unet":
            # The published unconditional UNet becomes ours by its stock "identity" class embedding: no new weights.
            model.unet = type(model.unet).from_pretrained(
                folder, use_safetensors=True, low_cpu_mem_usage=False, class_embed_type="identity"
            )
        elif slot == "autoencoder" and model.autoencoder is not None:
            model.autoencoder.network = AutoencoderTiny.from_pretrained(
                folder, use_safetensors=True, low_cpu_mem_usage=False
            )
        elif slot == "text_encoder":
            model.text_encoder = CLIPTextModelWithProjection.from_pretrained(folder, use_safetensors=True)
        elif slot == "image_encoder":
            model.image_encoder = CLIPVisionModelWithProjection.from_pretrained(folder, use_safetensors=True)
        elif slot == "audio_encoder":
            model.audio_encoder.wav2vec2 = Wav2Vec2Model.from_pretrained(folder, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{slot}: cannot load {folder}: {error}") from error
    _check_width(model, slot)


def _check_width(model: ClipFaceFusion, slot: str) -> None:
    expected = {
        "text_encoder": (model.text_encoder.config.projection_dim, model.config.features),
        "image_encoder": (model.image_encoder.config.projection_dim, model.config.features),
        "audio_encoder": (model.audio_encoder.wav2vec2.config.hidden_size, model.audio_encoder.emotion.in_features),
        "unet": (model.unet.config.in_channels, model.config.unet["in_channels"]),
    }.get(slot)
    if expected and expected[0] != expected[1]:
        raise BundleError(
            f"{slot}: width {expected[0]} does not fit this model's {expected[1]}; choose a preset of that size"
        )
