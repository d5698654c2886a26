"""Training examples: a target picture, and what the model is told about it.

Reference and target are different pictures of one person wherever the data allow. Of a person with a single photo the CLIP token is
dropped most of the time and the ArcFace token comes from an augmented crop: otherwise the photo gives everything away and the other
inputs are ignored. Letters: B batch, C H W sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from runtime.emotions import EMOTIONS
from runtime.spec import SOURCES, engine_specs
from training.data.cache import DataCache
from training.data.pairing import match_voices
from training.dropout import MODALITIES, sample_modalities
from training.features import FeatureCache
from training.model import ClipFaceFusion
from training.pictures import to_model

LABEL_ONLY, VALUES_ONLY = 0.5, 0.25  # of the samples that are told an emotion; the rest get label and valence/arousal
# Of the captions; the others come without the phrases that the parser finds in them. A model that always gets both never learns to read
# the prompt itself (docs/log.md).
PARSED = 0.5
SINGLE_PHOTO_DROP = 0.8  # of the CLIP image token, where the reference is the target itself


@dataclass(frozen=True)
class Batch:
    """Everything about B targets. `rows` and `reference` index the caches and stay on the CPU; the rest is on the model's device.

    `rows` (B,) int64 target pictures · `clean` (B, C, H, W) float32, what the UNet denoises · `inputs` the `fusion` engine's
    inputs by name in spec order, zero where absent · `wording` (B,) int64 which of the target's captions its words are, given or not ·
    `reference` (B,) int64 the reference picture, given or not (see `present`) ·
    `has_other` (B,) bool: it is another picture than the target.
    """

    rows: Tensor
    clean: Tensor
    inputs: dict[str, Tensor]
    wording: Tensor
    reference: Tensor
    has_other: Tensor


class Examples:
    """Draws batches from a cache. `never` names modalities (`training.dropout.MODALITIES`) that no example is given.

    A modality that a picture's data lacks is never present.
    """

    def __init__(
        self, model: ClipFaceFusion, cache: DataCache, features: FeatureCache, never: Sequence[str] = ()
    ) -> None:
        if unknown := sorted(set(never) - set(MODALITIES)):
            raise ValueError(f"never {unknown}; modalities are {', '.join(MODALITIES)}")
        self.model, self.cache, self.features = model, cache, features
        self.names = [tensor.name for tensor in engine_specs(model.spec())["fusion"].inputs]
        self.voices = match_voices(cache)
        self.wordings = (features.caption >= 0).sum(1).numpy()
        has = {
            "text": self.wordings > 0,
            "audio": self.voices[:, 0] >= 0,
            "reference": np.ones(len(cache), bool),
            "age": ~np.isnan(cache.age),
            "emotion": (cache.emotion >= 0) | ~np.isnan(cache.valence_arousal).any(1),
        }
        self.available = {name: has[name] & (name not in never) for name in MODALITIES}

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        """`count` targets by the mixture, each with the modalities that `training.dropout` leaves it."""
        return self.describe(self.cache.draw(rng, count), rng)

    def describe(
        self, rows: np.ndarray, rng: np.random.Generator, given: Mapping[str, np.ndarray] | None = None
    ) -> Batch:
        """Target pictures `rows` with the modalities `given` (each (B,) bool), as far as the data has them; default: drawn."""
        cache, features, count = self.cache, self.features, len(rows)
        available = {name: has[rows] for name, has in self.available.items()}
        if given is None:
            told = sample_modalities(rng, count, available)
        else:  # draws nothing: what a caller asks for must not depend on training's rates
            told = {name: given[name] & has for name, has in available.items()}
        reference, has_other = cache.another(rows, rng)
        # A photo that is the target itself shows too much; but where the caller chooses, it is shown.
        shows_image = (given is not None) | has_other | (rng.random(count) >= SINGLE_PHOTO_DROP)
        parsed = told["text"] & ((given is not None) | (rng.random(count) < PARSED))

        wording = (rng.random(count) * self.wordings[rows]).astype(int)
        text, age_text, emotion_text = (
            phrases[rows, wording].numpy()
            for phrases in (features.caption, features.age_phrase, features.emotion_phrase)
        )
        voice = self.voices[rows, rng.integers(0, self.voices.shape[1], count)]
        how = rng.random(count)
        has_label, has_values = cache.emotion[rows] >= 0, ~np.isnan(cache.valence_arousal[rows]).any(1)
        wants_label, wants_values = (how < LABEL_ONLY) | (how >= LABEL_ONLY + VALUES_ONLY), how >= LABEL_ONLY
        present = {
            "text": told["text"],
            "age_text": parsed & (age_text >= 0),
            "emotion_text": parsed & (emotion_text >= 0),
            "audio": told["audio"],
            "image": told["reference"] & shows_image,
            "identity": told["reference"],
            "age": told["age"],
            "emotion": told["emotion"] & has_label & (wants_label | ~has_values),
            "valence_arousal": told["emotion"] & has_values & (wants_values | ~has_label),
        }
        label = np.zeros((count, len(EMOTIONS)), np.float32)
        # A label without intensity means full intensity, as in a request.
        label[np.arange(count), cache.emotion[rows]] = np.nan_to_num(cache.intensity[rows], nan=1.0)
        identity = _picked(features.identity, reference, present["identity"] & has_other)
        identity += _picked(features.identity_crop, reference, present["identity"] & ~has_other)
        inputs = {
            "text_features": _picked(features.texts, text, present["text"]),
            "age_text_features": _picked(features.texts, age_text, present["age_text"]),
            "emotion_text_features": _picked(features.texts, emotion_text, present["emotion_text"]),
            "audio_features": _picked(features.audio, voice, present["audio"]),
            "audio_emotion_features": _picked(features.audio_emotion, voice, present["audio"]),
            "image_features": _picked(features.image, reference, present["image"]),
            "identity_features": identity,
            "age": _picked(torch.from_numpy(cache.age[:, None]), rows, present["age"]),
            "emotion": _picked(torch.from_numpy(label), np.arange(count), present["emotion"]),
            "valence_arousal": _picked(torch.from_numpy(cache.valence_arousal), rows, present["valence_arousal"]),
            "present": torch.from_numpy(np.stack([present[name] for name in SOURCES], axis=1)).float(),
        }
        device = next(self.model.conditioner.parameters()).device
        return Batch(
            rows=torch.from_numpy(rows),
            clean=self.clean(rows).to(device),
            inputs={name: inputs[name].to(device) for name in self.names},
            wording=torch.from_numpy(wording),
            reference=torch.from_numpy(reference),
            has_other=torch.from_numpy(has_other).to(device),
        )

    def clean(self, rows: np.ndarray) -> Tensor:
        """(B, C, H, W) float32 on the CPU: the pictures themselves, or their latents."""
        if self.features.samples is None:
            return to_model(self.cache.images[rows])
        return self.features.samples[torch.from_numpy(rows)].float()


def _picked(table: Tensor, rows: np.ndarray, present: np.ndarray) -> Tensor:
    """(B, D) rows of `table` (_, D) where `present` (B,), zero elsewhere: what is absent is not even read."""
    picked = torch.zeros(len(rows), table.shape[1], dtype=table.dtype)
    picked[torch.from_numpy(present)] = table[torch.from_numpy(rows[present])]
    return picked
