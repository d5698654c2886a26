"""A checkpoint folder: safetensors and JSON only, every network in the layout of the library it comes from.

    clipfacefusion.json      format version, ModelConfig, latent statistics, provenance of the training
    unet/                    diffusers              text_encoder/ image_encoder/ audio_encoder/   transformers
    tokenizer/               transformers           scheduler/scheduler_config.json               diffusers
    fusion/                  the conditioner        estimators/   age, emotion, identity, voice emotion
    autoencoder/             diffusers, where the model is latent

Published weights may replace a slot's folder: the slot is read by its library's own loader. Reading and writing never unpickle.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn
from transformers import CLIPTokenizer

from runtime.errors import BundleError
from training.config import ModelConfig
from training.durable import publish
from training.model import ClipFaceFusion
from training.published import estimator, fill_slot

FORMAT_VERSION = 1
CONFIG_FILE = "clipfacefusion.json"
ESTIMATORS = {  # file name: slot
    "age": "age_estimator",
    "emotion": "emotion_estimator",
    "identity": "identity_encoder",
    "voice_emotion": "voice_emotion",
}


def save(
    model: ClipFaceFusion, folder: Path, provenance: Mapping[str, Any], dtype: torch.dtype = torch.float32
) -> None:
    """Write `model` to `folder`, replacing it whole: a reader sees the old checkpoint or the new one, never half of each.

    `provenance` is copied into the checkpoint, and from there into every bundle: what it was trained on, with what, for how long.
    With `dtype` float16 the weights are rounded on the way out; the model in memory keeps its own.
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    rounded = copy.deepcopy(model).to(dtype)
    rounded.unet.save_pretrained(partial / "unet")
    rounded.text_encoder.save_pretrained(partial / "text_encoder")
    rounded.image_encoder.save_pretrained(partial / "image_encoder")
    rounded.audio_encoder.wav2vec2.save_pretrained(partial / "audio_encoder")
    model.tokenizer.save_pretrained(partial / "tokenizer")
    DDIMScheduler(**model.schedule.to_dict()).save_pretrained(partial / "scheduler")
    _save_module(rounded.conditioner, partial / "fusion" / "model.safetensors")
    for name, slot in ESTIMATORS.items():
        _save_module(estimator(rounded, slot), partial / "estimators" / f"{name}.safetensors")
    latents = None
    if model.autoencoder is not None and rounded.autoencoder is not None:
        rounded.autoencoder.network.save_pretrained(partial / "autoencoder")
        latents = {"mean": model.autoencoder.mean.flatten().tolist(), "std": model.autoencoder.std.flatten().tolist()}
    settings = {
        "format_version": FORMAT_VERSION,
        "model": model.config.to_dict(),
        "latents": latents,
        "provenance": dict(provenance),
    }
    (partial / CONFIG_FILE).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    publish(partial, folder)


def load(folder: Path) -> ClipFaceFusion:
    """Read a checkpoint as a float32 model in eval mode. Raises BundleError if it is not one, or of a newer format."""
    folder = Path(folder)
    settings = read_settings(folder)
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "tokenizer"))
    model = ClipFaceFusion(ModelConfig.from_dict(settings["model"]), tokenizer)
    for slot in ("unet", "text_encoder", "image_encoder", "audio_encoder"):
        fill_slot(model, slot, folder / slot)
    _load_module(model.conditioner, folder / "fusion" / "model.safetensors")
    for name, slot in ESTIMATORS.items():
        fill_slot(model, slot, folder / "estimators" / f"{name}.safetensors")
    if model.autoencoder is not None:
        fill_slot(model, "autoencoder", folder / "autoencoder")
        for name in (
            ("mean", "std") if settings["latents"] else ()
        ):  # none: those that a published network states itself
            getattr(model.autoencoder, name).copy_(torch.tensor(settings["latents"][name]).view(1, -1, 1, 1))
    return model.float().eval()


def read_settings(folder: Path) -> dict[str, Any]:
    """The checkpoint's `clipfacefusion.json`."""
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise BundleError(f"{folder} is not a checkpoint: it has no {CONFIG_FILE}; make one with `python -m training`")
    settings = json.loads(path.read_text())
    if settings["format_version"] > FORMAT_VERSION:
        raise BundleError(
            f"checkpoint format {settings['format_version']} is newer than {FORMAT_VERSION}; update this package"
        )
    return settings


def checkpoint_sha256(folder: Path) -> str:
    """One hash over every file's relative name and content, so that a bundle can say what it was made from."""
    digest = hashlib.sha256()
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _save_module(module: nn.Module, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    # Not `save_file`, which makes files that only their owner can read.
    path.write_bytes(to_bytes({name: tensor.contiguous() for name, tensor in module.state_dict().items()}))


def _load_module(module: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise BundleError(f"checkpoint: {path.parent.name}/{path.name} is missing; train or copy the checkpoint again")
    module.load_state_dict(load_file(path))
