"""Stage: Wav2Vec 2.0 and the speech-emotion head on labelled voices (eqs 2, 6).

The pooled features must also carry what else a voice says of a face, so two more heads, thrown away afterwards, ask for sex
and age. A clip teaches what it is labelled with: RAVDESS has an emotion and a sex, VoxCeleb a sex at most. Clips of one batch are
cut to one length: the encoder never sees padding.
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
from training.data.cache import DataCache
from training.labels import LabelledRows, Labels, known_rows
from training.model import ClipFaceFusion

CROP_S = 1.4
AGE_SCALE_YEARS = 20.0
FAINTEST = 0.2  # weight of an emotion of intensity 0


class VoiceStage:
    """Random crops; half of a batch are clips of known emotion, half of known sex or age.

    Raises BundleError where no clip has a label.
    """

    name = "voice"

    def __init__(self, model: ClipFaceFusion, cache: DataCache) -> None:
        self.cache = cache
        width = model.audio_encoder.wav2vec2.config.hidden_size
        self.encoder = model.audio_encoder
        self.module = nn.ModuleDict({"encoder": self.encoder, "sex": nn.Linear(width, 1), "age": nn.Linear(width, 1)})
        self.labelled = LabelledRows(
            "voice",
            audio_emotion=known_rows(cache.audio_emotion),
            audio_sex_or_age=known_rows(cache.audio_sex) | known_rows(cache.audio_age),
        )

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module. A term is zero in a batch without any label for it."""
        rows = self.labelled.draw(rng, batch_size)
        clips = self._clips(rows, rng)
        emotion, intensity, sex, age = (
            Labels.of(array[rows], clips.device)
            for array in (
                self.cache.audio_emotion,
                self.cache.audio_intensity,
                self.cache.audio_sex,
                self.cache.audio_age,
            )
        )
        pooled, features = self.encoder(clips)
        logits = self.encoder.emotion_labels(features).float()
        # A faint emotion is barely in the voice: it should not be learned as if it were shouted.
        weight = torch.where(intensity.known, intensity.values.clamp(min=FAINTEST), 1.0)
        emotion_loss = emotion.mean(F.cross_entropy(logits, emotion.values, reduction="none"), weight)
        sex_logit = self.module["sex"](pooled)[:, 0].float()
        sex_error = F.binary_cross_entropy_with_logits(sex_logit, sex.values.to(sex_logit.dtype), reduction="none")
        age_error = (self.module["age"](pooled)[:, 0].float() * AGE_SCALE_YEARS + 40 - age.values).abs()
        return {
            "loss": emotion_loss + sex.mean(sex_error) + age.mean(age_error) / AGE_SCALE_YEARS,
            "emotion_accuracy": emotion.measured((logits.argmax(1) == emotion.values).float()),
            "sex": sex.measured(sex_error),
            "age_mae": age.measured(age_error),
        }

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """The confusion of 256 clips of known emotion as a labelled table: rows said, columns heard."""
        rng = np.random.default_rng(0)
        counts = np.zeros((8, 8), int)
        spoken = np.flatnonzero(known_rows(self.cache.audio_emotion))
        if len(spoken):
            rows = rng.choice(spoken, 256)
            heard = self.encoder.read(self._clips(rows, rng))["emotion"].argmax(1).cpu().numpy()
            np.add.at(counts, (self.cache.audio_emotion[rows], heard), 1)
        sheet = Image.new("RGB", (90 + 60 * 8, 20 * 9), "white")
        draw = ImageDraw.Draw(sheet)
        for i, label in enumerate(EMOTIONS):
            draw.text((4, 20 * i + 24), label, "black")
            draw.text((94 + 60 * i, 4), label[:8], "black")
            for j in range(8):
                draw.text((94 + 60 * j, 20 * i + 24), str(counts[i, j]), "black")
        sheet.save(path)

    def _clips(self, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Normalised crops (B, T) of clips, as long as the shortest of them allows."""
        length = int(min(CROP_S * SAMPLING_RATE_HZ, self.cache.audio_length[rows].min()))
        starts = rng.integers(0, self.cache.audio_length[rows] - length, endpoint=True)
        crops = [self.cache.audio[row, start : start + length] for row, start in zip(rows, starts, strict=True)]
        clips = np.stack(crops).astype(np.float32)
        clips = (clips - clips.mean(1, keepdims=True)) / np.sqrt(clips.var(1, keepdims=True) + 1e-7)
        return torch.from_numpy(clips).to(next(self.module.parameters()).device)
