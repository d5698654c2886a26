"""Everything frozen, computed once: latents of every picture and features of every reference, caption and voice.

The diffusion stage trains only the UNet and the conditioner, so it reads these instead of running encoders.
Letters: N pictures, V voices, K captions per picture, U distinct texts, C H W latents, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from runtime.words import find_phrases
from training.data.cache import WorldCache
from training.model import ClipFaceFusion
from training.pictures import to_clip, to_model

BATCH = 64
VOICE_BATCH = 16


class FeatureCache:
    """Tensors by name.

    `samples` (N, C, H, W) float16 what the UNet denoises · `image`, `identity` (N, D) · `texts` (U, D) ·
    `caption`, `age_phrase`, `emotion_phrase` (N, K) int64 rows of `texts`, -1 where a caption has no such phrase ·
    `audio` (V, Da), `audio_emotion` (V, D)
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.samples, self.image, self.identity = tensors["samples"], tensors["image"], tensors["identity"]
        self.texts = tensors["texts"]
        self.caption, self.age_phrase, self.emotion_phrase = (
            tensors["caption"],
            tensors["age_phrase"],
            tensors["emotion_phrase"],
        )
        self.audio, self.audio_emotion = tensors["audio"], tensors["audio_emotion"]


@torch.no_grad()
def build(path: Path, model: ClipFaceFusion, cache: WorldCache) -> FeatureCache:
    """Read `path`, or compute it with the frozen encoders of `model` and write it."""
    if path.is_file():
        return FeatureCache(load_file(path))
    model.eval()
    tensors = {
        name: tensor.contiguous()
        for name, tensor in (_pictures(model, cache) | _texts(model, cache) | _voices(model, cache)).items()
    }
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.rename(path)
    return FeatureCache(tensors)


def _pictures(model: ClipFaceFusion, cache: WorldCache) -> dict[str, Tensor]:
    samples, image_features, identity = [], [], []
    for part in _parts(len(cache), BATCH, "pictures"):
        image = to_model(cache.images[part])
        samples.append((image if model.autoencoder is None else model.encode(image)).half())
        image_features.append(model.encode_image(to_clip(image)))
        identity.append(model.identify(image))
    return {"samples": torch.cat(samples), "image": torch.cat(image_features), "identity": torch.cat(identity)}


def _texts(model: ClipFaceFusion, cache: WorldCache) -> dict[str, Tensor]:
    """Phrases are found by the parser that requests meet at run time, so that training sees what serving will send."""
    index: dict[str, int] = {}

    def place(text: str | None) -> int:
        return -1 if text is None else index.setdefault(text, len(index))

    captions, ages, emotions = [], [], []
    for wordings in cache.captions:
        phrases = [find_phrases(text) for text in wordings]
        captions.append([place(text) for text in wordings])
        ages.append([place(found.age) for found in phrases])
        emotions.append([place(found.emotion) for found in phrases])
    # Alike lengths together: padding to the longest of a batch is most of the cost otherwise.
    texts = list(index)
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    features = torch.empty(len(texts), model.config.features)
    for part in _parts(len(order), 4 * BATCH, "texts"):
        rows = order[part]
        tokens = model.tokenizer(
            [texts[row] for row in rows], padding=True, truncation=True, max_length=77, return_tensors="pt"
        )
        features[rows] = model.encode_text(tokens.input_ids, tokens.attention_mask)
    return {
        "texts": features,
        "caption": torch.tensor(captions),
        "age_phrase": torch.tensor(ages),
        "emotion_phrase": torch.tensor(emotions),
    }


def _voices(model: ClipFaceFusion, cache: WorldCache) -> dict[str, Tensor]:
    """Neighbours in length share a batch and lose their few extra samples: never padding."""
    order = np.argsort(cache.audio_length, kind="stable")
    count, width = len(order), model.audio_encoder.wav2vec2.config.hidden_size
    audio, emotion = torch.empty(count, width), torch.empty(count, model.config.features)
    for part in _parts(count, VOICE_BATCH, "voices"):
        rows = order[part]
        clips = cache.audio[rows, : int(cache.audio_length[rows].min())].astype(np.float32)
        clips = (clips - clips.mean(1, keepdims=True)) / np.sqrt(clips.var(1, keepdims=True) + 1e-7)
        audio[rows], emotion[rows] = model.encode_audio(torch.from_numpy(clips))
    return {"audio": audio, "audio_emotion": emotion}


def _parts(count: int, size: int, what: str) -> Iterator[slice]:
    for start in tqdm(range(0, count, size), desc=f"features of {what}", unit="batch", mininterval=5):
        yield slice(start, min(start + size, count))
