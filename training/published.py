"""Weights put into a model's slots: published ones in their libraries' own folder layout, or a checkpoint's.

A CLIP folder holds both towers and each slot takes its half. Estimators have no published layout: theirs is one safetensors file
with our names, as in a checkpoint's `estimators/`. Only safetensors is read, never a pickle.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from torch import nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer, CLIPVisionModelWithProjection, Wav2Vec2Model
from transformers.utils import logging as transformers_logging

from runtime.errors import BundleError
from training.autoencoder import NETWORKS, Network
from training.estimators import load_estimator
from training.model import ClipFaceFusion

ESTIMATOR_SLOTS = ("age_estimator", "emotion_estimator", "identity_encoder", "voice_emotion")
SLOTS = ("unet", "text_encoder", "image_encoder", "audio_encoder", "autoencoder", *ESTIMATOR_SLOTS)

transformers_logging.disable_progress_bar()  # a bar per file of a few megabytes is noise
# AutoencoderTiny writes a `block_out_channels` into its config that it then warns about when reading it.
logging.getLogger("diffusers.configuration_utils").addFilter(
    lambda record: "block_out_channels" not in record.getMessage()
)


def estimator(model: ClipFaceFusion, slot: str) -> nn.Module:
    """The module of one of ESTIMATOR_SLOTS. Of the audio encoder it is our part; Wav2Vec 2.0 has its own layout and slot."""
    if slot == "voice_emotion":
        audio = model.audio_encoder
        return nn.ModuleDict({"emotion": audio.emotion, "emotion_labels": audio.emotion_labels})
    module: nn.Module = getattr(model, slot)
    return module


def fill_slot(model: ClipFaceFusion, slot: str, folder: Path) -> None:
    """Replace one of `SLOTS` by the weights in `folder`, a file for an estimator.

    Raises BundleError if they are missing or do not fit the model.
    """
    if slot not in SLOTS:
        raise BundleError(f"slot {slot!r} does not exist; slots are {', '.join(SLOTS)}")
    if slot in ESTIMATOR_SLOTS:
        load_estimator(slot, estimator(model, slot), folder)
        return
    if not (folder / "config.json").is_file():
        raise BundleError(
            f"{slot}: {folder} has no config.json; expected the folder layout of diffusers or transformers"
        )
    try:
        if slot == "unet":
            # The published unconditional UNet becomes ours by its stock "identity" class embedding: no new weights.
            model.unet = read_network(type(model.unet), folder, low_cpu_mem_usage=False, class_embed_type="identity")
        elif slot == "autoencoder":
            if model.autoencoder is None:
                raise ValueError("this model works on pixels and has no autoencoder; choose a latent preset")
            model.autoencoder.take(read_autoencoder(folder))
        elif slot == "text_encoder":
            model.text_encoder = read_network(CLIPTextModelWithProjection, folder)
        elif slot == "image_encoder":
            model.image_encoder = read_network(CLIPVisionModelWithProjection, folder)
        elif slot == "audio_encoder":
            model.audio_encoder.wav2vec2 = read_network(Wav2Vec2Model, folder)
    except (OSError, ValueError, RuntimeError) as error:
        raise BundleError(f"{slot}: cannot load {folder}: {error}") from error
    model.float()  # weights stored in half would be kept in half
    _check_width(model, slot)


def read_autoencoder(folder: Path) -> Network:
    """A published autoencoder, of the class that its own configuration names; raises ValueError or OSError."""
    name = json.loads((folder / "config.json").read_text()).get("_class_name")
    if name not in NETWORKS:
        raise ValueError(f"its config.json names {name!r}; known are {', '.join(NETWORKS)}")
    network: Network = read_network(NETWORKS[name], folder, low_cpu_mem_usage=False)
    return network


def read_network(network: Any, folder: Path, **settings: Any) -> Any:
    """The library's own loader; raises ValueError where it would only warn that it made up a weight that the folder lacks."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # a CLIP folder holds both towers: half of it is no surprise
    try:
        loaded, found = network.from_pretrained(folder, use_safetensors=True, output_loading_info=True, **settings)
    finally:
        transformers_logging.set_verbosity(level)
    if missing := sorted(found["missing_keys"]):
        raise ValueError(f"it lacks {', '.join(missing[:5])}{' and more' if len(missing) > 5 else ''}")
    return loaded


def read_tokenizer(folder: Path) -> CLIPTokenizer:
    """The tokenizer that a published text encoder was trained with, beside its weights. Raises BundleError if there is none."""
    if not any((folder / file).is_file() for file in ("tokenizer.json", "vocab.json")):
        raise BundleError(
            f"text_encoder: {folder} has no tokenizer.json and no vocab.json; its weights mean nothing without their own tokenizer"
        )
    return CLIPTokenizer.from_pretrained(str(folder))


def _check_width(model: ClipFaceFusion, slot: str) -> None:
    expected = {
        "text_encoder": (model.text_encoder.config.projection_dim, model.config.features),
        "image_encoder": (model.image_encoder.config.projection_dim, model.config.features),
        "audio_encoder": (model.audio_encoder.wav2vec2.config.hidden_size, model.audio_encoder.emotion.in_features),
        "unet": (model.unet.config.in_channels, model.config.unet["in_channels"]),
    }.get(slot)
    if slot == "autoencoder" and model.autoencoder is not None:
        expected = (tuple(model.autoencoder.sample_shape(model.config.image_size)), model.spec().sample_shape)
    if expected and expected[0] != expected[1]:
        raise BundleError(
            f"{slot}: width {expected[0]} does not fit this model's {expected[1]}; choose a preset of that size"
        )
