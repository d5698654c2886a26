"""Stage: CLIP text and image encoders from scratch, on captions of the world (Radford et al. 2021, symmetric contrastive loss).

Several captions fit one face and one caption fits many. The softmax form copes: its optimum is the pointwise mutual
information of picture and words, and a caption that says little is simply close to many pictures.

Contrast alone is slow to find what this product turns on, so one linear head, shared by both towers and thrown away afterwards,
also asks every feature for emotion, age and sex. Words that say nothing about one of them learn its average.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.emotions import EMOTIONS
from training.data.cache import WorldCache
from training.model import ClipFaceFusion
from training.pictures import save_grid, to_clip, to_model

MAX_LOGIT_SCALE = 100.0
AGE_SCALE_YEARS = 20.0


class ClipStage:
    """Pictures and one of their captions, drawn anew at every step."""

    name = "clip"

    def __init__(self, model: ClipFaceFusion, cache: WorldCache) -> None:
        self.cache = cache
        self.tokenizer = model.tokenizer
        attributes = nn.Linear(model.config.features, len(EMOTIONS) + 2)
        self.module = nn.ModuleDict(
            {"text": model.text_encoder, "image": model.image_encoder, "attributes": attributes}
        )
        self.module.register_parameter("logit_scale", nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32)))

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module."""
        rows = np.sort(rng.choice(len(self.cache), min(batch_size, len(self.cache)), replace=False))
        texts = [captions[rng.integers(len(captions))] for captions in (self.cache.captions[row] for row in rows)]
        text_features = self._text(texts)
        image_features = self._image(to_clip(to_model(self.cache.images[rows])))
        scale = self.module.get_parameter("logit_scale").exp().clamp(max=MAX_LOGIT_SCALE)
        logits = scale * F.normalize(text_features, dim=1) @ F.normalize(image_features, dim=1).T
        target = torch.arange(len(rows))
        contrast = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        from_text, from_image = self._attributes(text_features, rows), self._attributes(image_features, rows)
        return {
            "loss": contrast + from_text + from_image,
            "contrast": contrast,
            "attributes_text": from_text,
            "attributes_image": from_image,
        }

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """For four prompts, the eight nearest of 256 pictures, a row each."""
        prompts = [
            "a happy child",
            "an angry old man",
            "a young woman with red hair and glasses",
            "a surprised elderly woman",
        ]
        rows = np.linspace(0, len(self.cache) - 1, min(256, len(self.cache))).astype(int)
        image = to_model(self.cache.images[rows])
        towards = F.normalize(self._image(to_clip(image)), dim=1)
        nearest = (F.normalize(self._text(prompts), dim=1) @ towards.T).topk(8, dim=1).indices
        save_grid(image[nearest.flatten()], 8, path)

    def _attributes(self, features: Tensor, rows: np.ndarray) -> Tensor:
        """Emotion, age and sex from features (B, D): one number, about 3.5 for a guess."""
        predicted = self.module["attributes"](features).float()
        emotion = F.cross_entropy(predicted[:, : len(EMOTIONS)], torch.from_numpy(self.cache.emotion[rows]))
        age = (predicted[:, -2] - torch.from_numpy((self.cache.age[rows] - 45) / AGE_SCALE_YEARS)).abs().mean()
        sex = F.binary_cross_entropy_with_logits(predicted[:, -1], torch.from_numpy(self.cache.sex[rows]).float())
        return emotion + age + sex

    def _text(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        return self.module["text"](**tokens).text_embeds.float()

    def _image(self, image: Tensor) -> Tensor:
        return self.module["image"](pixel_values=image).image_embeds.float()
