"""Stage: CLIP text and image encoders from scratch, on pictures and captions (Radford et al. 2021, symmetric contrastive loss).

Several captions fit one face and one caption fits many. The softmax form copes: its optimum is the pointwise mutual
information of picture and words, and a caption that says little is simply close to many pictures. Where a batch holds the same
caption or the same picture twice, as it often does where captions are composed from a few labels, all of them are right.

Contrast alone is slow to find what this product turns on, so one linear head, shared by both towers and thrown away afterwards,
also asks every feature for emotion, age and sex. Words that say nothing about one of them learn its average; a label that is not known is not asked for.
With the synthetic world in the data, a second such head asks which phrases for hair, beard, glasses, skin, eyes and background are true of the picture: at what
these add to the contrast alone, a text's feature hardly tells them apart (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.emotions import EMOTIONS
from training.data.cache import WORLD, DataCache
from training.data.looks import world_looks
from training.labels import Labels, UnlabelledError
from training.model import ClipFaceFusion
from training.pictures import resized, save_grid, to_clip, to_model

MAX_LOGIT_SCALE = 100.0
LOOKS_WEIGHT = 0.2  # a guess's error, summed over all phrases, is about 24 nats
MIDDLE_AGE_YEARS, AGE_SCALE_YEARS = 45.0, 20.0


class ClipStage:
    """Pictures and one of their captions, drawn anew at every step."""

    name = "clip"

    def __init__(self, model: ClipFaceFusion, cache: DataCache) -> None:
        """Raises UnlabelledError if no picture that may be drawn has a caption."""
        self.cache = cache
        self.captioned = cache.drawable & np.array([bool(wordings) for wordings in cache.captions])
        if not self.captioned.any():
            raise UnlabelledError(
                "clip: no picture has a caption; add data with captions or labels, or start from published weights"
            )
        self.tokenizer = model.tokenizer
        attributes = nn.Linear(model.config.features, len(EMOTIONS) + 2)
        self.module = nn.ModuleDict(
            {"text": model.text_encoder, "image": model.image_encoder, "attributes": attributes}
        )
        self.looks = world_looks(cache).true if WORLD in cache.sources else None
        if self.looks is not None:
            self.module["looks"] = nn.Linear(model.config.features, self.looks.shape[1])
        self.module.register_parameter("logit_scale", nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32)))

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module."""
        rows = np.sort(self.cache.draw(rng, batch_size, self.captioned))
        texts = [captions[rng.integers(len(captions))] for captions in (self.cache.captions[row] for row in rows)]
        text_features, image_features = self._text(texts), self._image(self._pictures(rows))
        scale = self.module.get_parameter("logit_scale").exp().clamp(max=MAX_LOGIT_SCALE)
        logits = scale * F.normalize(text_features, dim=1) @ F.normalize(image_features, dim=1).T
        wording = np.unique(texts, return_inverse=True)[1]
        fits = (rows[:, None] == rows) | (wording[:, None] == wording)
        contrast = contrastive_loss(logits, torch.from_numpy(fits).to(logits.device))
        from_text, from_image = self._attributes(text_features, rows), self._attributes(image_features, rows)
        losses = {
            "loss": contrast + from_text + from_image,
            "contrast": contrast,
            "attributes_text": from_text,
            "attributes_image": from_image,
        }
        if self.looks is not None:
            true = Labels.of(self.looks[rows], logits.device)
            for name, features in (("looks_text", text_features), ("looks_image", image_features)):
                error = self._looks_error(features, true)
                losses["loss"] = losses["loss"] + LOOKS_WEIGHT * true.mean(error)
                losses[name] = true.measured(error)
        return losses

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """For four prompts, the eight nearest of 256 pictures, a row each."""
        prompts = [
            "a happy child",
            "an angry old man",
            "a young woman with red hair and glasses",
            "a surprised elderly woman",
        ]
        image = self._pictures(self.cache.draw(np.random.default_rng(0), 256))
        towards = F.normalize(self._image(image), dim=1)
        nearest = (F.normalize(self._text(prompts), dim=1) @ towards.T).topk(8, dim=1).indices
        save_grid(image[nearest.flatten()], 8, path)

    def _attributes(self, features: Tensor, rows: np.ndarray) -> Tensor:
        """Emotion, age and sex from features (B, D): one number, about 3.5 for a guess."""
        predicted = self.module["attributes"](features).float()
        emotion, age, sex = (
            Labels.of(known[rows], features.device) for known in (self.cache.emotion, self.cache.age, self.cache.sex)
        )
        emotion_error = F.cross_entropy(predicted[:, : len(EMOTIONS)], emotion.values, reduction="none")
        age_error = (predicted[:, -2] - (age.values - MIDDLE_AGE_YEARS) / AGE_SCALE_YEARS).abs()
        sex_error = F.binary_cross_entropy_with_logits(predicted[:, -1], sex.values.float(), reduction="none")
        return emotion.mean(emotion_error) + age.mean(age_error) + sex.mean(sex_error)

    def _looks_error(self, features: Tensor, true: Labels) -> Tensor:
        """(B,) which phrases are true of the picture, from features (B, D): cross entropies in nats, summed over the phrases."""
        predicted = self.module["looks"](features).float()
        return F.binary_cross_entropy_with_logits(predicted, true.values, reduction="none").sum(dim=1)

    def _text(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        return self.module["text"](**tokens.to(self._device())).text_embeds.float()

    def _image(self, image: Tensor) -> Tensor:
        size = self.module["image"].config.image_size
        return self.module["image"](pixel_values=to_clip(resized(image, size))).image_embeds.float()

    def _pictures(self, rows: np.ndarray) -> Tensor:
        return to_model(self.cache.images[rows]).to(self._device())

    def _device(self) -> torch.device:
        return self.module.get_parameter("logit_scale").device


def contrastive_loss(logits: Tensor, fits: Tensor) -> Tensor:
    """Symmetric cross entropy of `logits` (texts, pictures) against what `fits` (texts, pictures) bool, shared alike among a row's."""
    logits, fits = logits.float(), fits.float()
    by_text = F.cross_entropy(logits, fits / fits.sum(1, keepdim=True))
    by_picture = F.cross_entropy(logits.T, (fits / fits.sum(0)).T)
    return (by_text + by_picture) / 2
