"""Stage: the two face estimators on one batch of pictures: age, and emotion with valence/arousal.

A picture teaches what it is labelled with: FER2013 has an emotion and no age, CACD an age and no emotion. Pictures are disturbed,
and some autoencoded where the autoencoder is trained already (what that gains: docs/estimators.md).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from runtime.emotions import EMOTIONS
from training.data.cache import DataCache
from training.labels import LabelledRows, Labels, known_rows
from training.model import ClipFaceFusion
from training.pictures import disturbed, save_grid, to_model

log = logging.getLogger(__name__)

AGE_SCALE_YEARS = 10.0  # an error of ten years weighs as much as a nat of the label's cross entropy
VALUE_WEIGHT = 4.0
ESTIMATED = ("age", "emotion")


class EstimatorsStage:
    """Half of a batch are pictures of known age, half of known emotion. `trained` says which of ESTIMATED learn; the other stays.

    Raises UnlabelledError where the data has no label for either.
    """

    name = "estimators"

    def __init__(self, model: ClipFaceFusion, cache: DataCache, trained: Collection[str] = ESTIMATED) -> None:
        self.cache = cache
        self.age, self.emotion = model.age_estimator, model.emotion_estimator
        both = {"age": self.age, "emotion": self.emotion}
        self.module = nn.ModuleDict({name: both[name] for name in ESTIMATED if name in trained})
        self.autoencoder = model.autoencoder if model.autoencoder is not None and model.autoencoder.is_trained else None
        known = {
            "age": known_rows(cache.age),
            "emotion": known_rows(cache.emotion) | known_rows(cache.valence_arousal),
        }
        self.labelled = LabelledRows("estimators", **{name: known[name] for name in self.module})
        for name in self.module:
            if not known[name].any():
                log.warning("estimators: no picture has a label of %s, so nothing will be learned of it", name)

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module. A term is zero in a batch without any label for it."""
        rows = self.labelled.draw(rng, batch_size)
        image = self._pictures(rows)
        image = disturbed(image, rng, self.autoencoder).to(memory_format=torch.channels_last)
        total, measured = image.new_zeros(()), {}
        if "age" in self.module:
            loss, measured["age_mae"] = self._age_loss(image, rows)
            total = total + loss
        if "emotion" in self.module:
            loss, measured["emotion_accuracy"] = self._emotion_loss(image, rows)
            total = total + loss
        return {"loss": total, **measured}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Sixteen pictures, each with what it was taken for."""
        image = self._pictures(np.linspace(0, len(self.cache) - 1, 16).astype(int))
        ages, labels = self.age.read(image)["age"], self.emotion.read(image)["emotion"].argmax(1)
        save_grid(image, 8, path)
        sheet = Image.open(path)
        draw, size = ImageDraw.Draw(sheet), image.shape[-1]
        for n, (age, label) in enumerate(zip(ages.tolist(), labels.tolist(), strict=True)):
            draw.text((n % 8 * size + 2, n // 8 * size + 2), f"{age:.0f} {EMOTIONS[label]}", "black")
        sheet.save(path)

    def _age_loss(self, image: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """What is minimised, and the mean error in years."""
        age = Labels.of(self.cache.age[rows], image.device)
        error = (self.age(image).float()[:, 0] - age.values).abs()
        scaled = F.smooth_l1_loss(error / AGE_SCALE_YEARS, torch.zeros_like(error), reduction="none")
        return age.mean(scaled), age.measured(error)

    def _emotion_loss(self, image: Tensor, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """What is minimised, and how many labels are right."""
        label = Labels.of(self.cache.emotion[rows], image.device)
        value = Labels.of(self.cache.valence_arousal[rows], image.device)
        logits, values = self.emotion.logits(image)
        label_loss = label.mean(F.cross_entropy(logits.float(), label.values, reduction="none"))
        value_loss = value.mean((values.float() - value.values).square().mean(dim=1))
        is_right = (logits.argmax(1) == label.values).float()
        return label_loss + VALUE_WEIGHT * value_loss, label.measured(is_right)

    def _pictures(self, rows: np.ndarray) -> Tensor:
        return to_model(self.cache.images[rows]).to(next(self.module.parameters()).device)
