"""Stage: the two face estimators on one batch of pictures: age, and emotion with valence/arousal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from runtime.emotions import EMOTIONS
from training.data.cache import WorldCache
from training.model import ClipFaceFusion
from training.pictures import disturbed, save_grid, to_model

AGE_SCALE_YEARS = 10.0  # an error of ten years weighs as much as a nat of the label's cross entropy
VALUE_WEIGHT = 4.0


class EstimatorsStage:
    """Random pictures, disturbed a little."""

    name = "estimators"

    def __init__(self, model: ClipFaceFusion, cache: WorldCache) -> None:
        self.cache = cache
        self.age, self.emotion = model.age_estimator, model.emotion_estimator
        self.module = nn.ModuleDict({"age": self.age, "emotion": self.emotion})

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module."""
        rows = rng.integers(0, len(self.cache), batch_size)
        image = disturbed(to_model(self.cache.images[rows]), rng).to(memory_format=torch.channels_last)
        age_error = (self.age(image).float()[:, 0] - torch.from_numpy(self.cache.age[rows])).abs()
        labels, values = self.emotion.logits(image)
        truth = torch.from_numpy(self.cache.emotion[rows])
        emotion = F.cross_entropy(labels.float(), truth)
        value_error = (values.float() - torch.from_numpy(self.cache.valence_arousal[rows])).square().mean()
        age = F.smooth_l1_loss(age_error / AGE_SCALE_YEARS, torch.zeros_like(age_error))
        return {
            "loss": age + emotion + VALUE_WEIGHT * value_error,
            "age_mae": age_error.mean(),
            "emotion_accuracy": (labels.argmax(1) == truth).float().mean(),
        }

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Sixteen pictures, each with what it was taken for."""
        rows = np.linspace(0, len(self.cache) - 1, 16).astype(int)
        image = to_model(self.cache.images[rows])
        ages, labels = self.age(image)[:, 0], self.emotion(image)[0].argmax(1)
        save_grid(image, 8, path)
        sheet = Image.open(path)
        draw, size = ImageDraw.Draw(sheet), image.shape[-1]
        for n, (age, label) in enumerate(zip(ages.tolist(), labels.tolist(), strict=True)):
            draw.text((n % 8 * size + 2, n // 8 * size + 2), f"{age:.0f} {EMOTIONS[label]}", "black")
        sheet.save(path)
