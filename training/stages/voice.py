"""Stage: Wav2Vec 2.0 and the speech-emotion head on labelled voices (eqs 2, 6).

The pooled features must also carry what else a voice says of a face, so two more heads, thrown away afterwards, ask for sex
and age. Clips of one batch are cut to one length: the encoder never sees padding.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from runtime.emotions import EMOTIONS
from runtime.spec import SAMPLING_RATE_HZ
from training.data.cache import WorldCache
from training.model import ClipFaceFusion

CROP_S = 1.4
AGE_SCALE_YEARS = 20.0


class VoiceStage:
    """Random crops of random clips."""

    name = "voice"

    def __init__(self, model: ClipFaceFusion, cache: WorldCache) -> None:
        self.cache = cache
        width = model.audio_encoder.wav2vec2.config.hidden_size
        self.encoder = model.audio_encoder
        self.module = nn.ModuleDict({"encoder": self.encoder, "sex": nn.Linear(width, 1), "age": nn.Linear(width, 1)})

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module."""
        return self._losses(*self._batch(rng, batch_size))

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """The confusion of 256 clips as a labelled table: rows said, columns heard."""
        rng = np.random.default_rng(0)
        clips, rows = self._batch(rng, 256)
        heard = self.encoder.emotion_labels(self.encoder(clips)[1]).argmax(1).numpy()
        counts = np.zeros((8, 8), int)
        np.add.at(counts, (self.cache.emotion[rows], heard), 1)
        sheet = Image.new("RGB", (90 + 60 * 8, 20 * 9), "white")
        draw = ImageDraw.Draw(sheet)
        for i, label in enumerate(EMOTIONS):
            draw.text((4, 20 * i + 24), label, "black")
            draw.text((94 + 60 * i, 4), label[:8], "black")
            for j in range(8):
                draw.text((94 + 60 * j, 20 * i + 24), str(counts[i, j]), "black")
        sheet.save(path)

    def _batch(self, rng: np.random.Generator, batch_size: int) -> tuple[Tensor, np.ndarray]:
        """Normalised clips (B, T) and the rows of the pictures whose truth they speak."""
        length = int(CROP_S * SAMPLING_RATE_HZ)
        chosen = rng.integers(0, len(self.cache.audio), batch_size)
        starts = (rng.random(batch_size) * np.maximum(self.cache.audio_length[chosen] - length, 0)).astype(int)
        clips = np.stack([self.cache.audio[c, s : s + length] for c, s in zip(chosen, starts, strict=True)]).astype(
            np.float32
        )
        clips = (clips - clips.mean(1, keepdims=True)) / np.sqrt(clips.var(1, keepdims=True) + 1e-7)
        return torch.from_numpy(clips), self.cache.audio_picture[chosen]

    def _losses(self, clips: Tensor, rows: np.ndarray) -> Mapping[str, Tensor]:
        pooled, features = self.encoder(clips)
        labels = self.encoder.emotion_labels(features).float()
        truth = torch.from_numpy(self.cache.emotion[rows])
        # A faint emotion is barely in the voice: it should not be learned as if it were shouted.
        weight = torch.from_numpy(self.cache.intensity[rows]).clamp(min=0.2)
        emotion = (F.cross_entropy(labels, truth, reduction="none") * weight).sum() / weight.sum()
        sex = F.binary_cross_entropy_with_logits(
            self.module["sex"](pooled)[:, 0].float(), torch.from_numpy(self.cache.sex[rows]).float()
        )
        age_error = (
            self.module["age"](pooled)[:, 0].float() * AGE_SCALE_YEARS + 40 - torch.from_numpy(self.cache.age[rows])
        ).abs()
        return {
            "loss": emotion + sex + age_error.mean() / AGE_SCALE_YEARS,
            "emotion_accuracy": (labels.argmax(1) == truth).float().mean(),
            "sex": sex,
            "age_mae": age_error.mean(),
        }
