"""Everything frozen, computed once: latents of every picture and features of every reference, caption and voice.

The diffusion stage trains only the UNet and the conditioner, so it reads these instead of running encoders.
Letters: N pictures, V voices, K captions per picture, U distinct texts, C H W latents, D features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from runtime.words import find_phrases
from training.data.cache import DataCache
from training.durable import publish
from training.model import ClipFaceFusion
from training.pictures import augmented_crop, resized, to_clip, to_model

BATCH = 64
VOICE_BATCH = 16
NOT_ASKED = ("unet.", "conditioner.", "autoencoder.network.decoder.")  # may change, and the features stay


class FeatureCache:
    """Tensors by name.

    `samples` (N, C, H, W) float16 latents that the UNet denoises, None where it denoises the pictures themselves ·
    `image`, `identity` (N, D) · `identity_crop` (N, D) identity of an augmented crop where a person has one picture, elsewhere the
    same as `identity` · `age`, `emotion` (N, D) features of the estimators · `texts` (U, D) · `caption`, `age_phrase`,
    `emotion_phrase` (N, K) int64 rows of `texts`, -1 where a picture has no such caption or a caption no such phrase ·
    `audio` (V, Da), `audio_emotion` (V, D)
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.samples = tensors.get("samples")
        self.image, self.identity, self.identity_crop = tensors["image"], tensors["identity"], tensors["identity_crop"]
        self.age, self.emotion = tensors["age"], tensors["emotion"]
        self.texts = tensors["texts"]
        self.caption, self.age_phrase, self.emotion_phrase = (
            tensors["caption"],
            tensors["age_phrase"],
            tensors["emotion_phrase"],
        )
        self.audio, self.audio_emotion = tensors["audio"], tensors["audio_emotion"]


@torch.no_grad()
def build(path: Path, model: ClipFaceFusion, cache: DataCache) -> FeatureCache:
    """Read `path` if it was made by the same encoders from the same data; else compute it with those of `model` and write it."""
    made_from = {"encoders": _sha256(model), "data": cache.sha256}
    if path.is_file():
        with safe_open(path, "pt") as file:
            if file.metadata() == made_from:
                return FeatureCache(load_file(path))
    model.eval()
    found = _pictures(model, cache) | _texts(model, cache) | _voices(model, cache)
    # Laid out as a file is: convolutions of another memory layout differ in their last bits, so a resumed run would too.
    found = {name: tensor.contiguous() for name, tensor in found.items()}
    partial = path.with_name(path.name + ".partial")
    save_file(found, partial, made_from)
    publish(partial, path)
    return FeatureCache(found)


def _sha256(model: ClipFaceFusion) -> str:
    """One hash of every network that makes features."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if not name.startswith(NOT_ASKED):
            digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _pictures(model: ClipFaceFusion, cache: DataCache) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    device = next(model.identity_encoder.parameters()).device
    parts: dict[str, list[Tensor]] = {}
    for part in _parts(len(cache), BATCH, "pictures"):
        image = to_model(cache.images[part]).to(device)
        face = resized(image, model.config.identity_size)
        found = {
            "image": model.encode_image(to_clip(resized(image, model.image_encoder.config.image_size))),
            "identity": model.identify(face),
            "age": model.age_estimator.features(image),
            "emotion": model.emotion_estimator.features(image),
        }
        if model.autoencoder is not None:
            found["samples"] = model.encode(image).half()
        found["identity_crop"] = found["identity"].clone()
        single = torch.from_numpy(cache.pictures[part] == 1)
        if single.any():
            found["identity_crop"][single] = model.identify(augmented_crop(face[single], rng))
        for name, tensor in found.items():
            parts.setdefault(name, []).append(tensor.cpu())
    return {name: torch.cat(tensors) for name, tensors in parts.items()}


def _texts(model: ClipFaceFusion, cache: DataCache) -> dict[str, Tensor]:
    """Phrases are found by the parser that requests meet at run time, so that training sees what serving will send."""
    index: dict[str, int] = {}

    def place(text: str | None) -> int:
        return -1 if text is None else index.setdefault(text, len(index))

    width = max([1, *map(len, cache.captions)])
    captions, ages, emotions = (torch.full((len(cache), width), -1) for _ in range(3))
    for row, wordings in enumerate(cache.captions):
        for column, text in enumerate(wordings):
            phrases = find_phrases(text)
            captions[row, column] = place(text)
            ages[row, column], emotions[row, column] = place(phrases.age), place(phrases.emotion)
    # Alike lengths together: padding to the longest of a batch is most of the cost otherwise.
    texts = list(index)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    features = torch.empty(len(texts), model.config.features)
    device = next(model.text_encoder.parameters()).device
    for part in _parts(len(order), 4 * BATCH, "texts"):
        rows = order[part]
        tokens = model.tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=77, return_tensors="pt"
        )
        features[rows] = model.encode_text(tokens.input_ids.to(device), tokens.attention_mask.to(device)).cpu()
    return {"texts": features, "caption": captions, "age_phrase": ages, "emotion_phrase": emotions}


def _voices(model: ClipFaceFusion, cache: DataCache) -> dict[str, Tensor]:
    """Neighbours in length share a batch and lose their few extra samples: never padding."""
    order = np.argsort(cache.audio_length, kind="stable")
    count, width = len(order), model.audio_encoder.wav2vec2.config.hidden_size
    audio, emotion = torch.empty(count, width), torch.empty(count, model.config.features)
    device = next(model.audio_encoder.parameters()).device
    for part in _parts(count, VOICE_BATCH, "voices"):
        rows = order[part]
        clips = cache.audio[rows, : int(cache.audio_length[rows].min())].astype(np.float32)
        clips = (clips - clips.mean(1, keepdims=True)) / np.sqrt(clips.var(1, keepdims=True) + 1e-7)
        pooled, heard = model.encode_audio(torch.from_numpy(clips).to(device))
        audio[rows], emotion[rows] = pooled.cpu(), heard.cpu()
    return {"audio": audio, "audio_emotion": emotion}


def _parts(count: int, size: int, what: str) -> Iterator[slice]:
    for start in tqdm(range(0, count, size), desc=f"features of {what}", unit="batch", mininterval=5):
        yield slice(start, min(start + size, count))
