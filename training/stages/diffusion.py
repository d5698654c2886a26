"""Stage: UNet and conditioner, L_simple only, on frozen features. Reference and target are different pictures of one person."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from runtime.emotions import EMOTIONS
from runtime.spec import SOURCES
from training.data.cache import WorldCache
from training.diffusion import add_noise, sample_timesteps, simple_loss
from training.dropout import sample_modalities
from training.features import FeatureCache
from training.model import ClipFaceFusion
from training.pictures import save_grid
from training.sampling import sample_images

LABEL_ONLY, VALUES_ONLY = 0.5, 0.25  # of the samples that are told an emotion; the rest get label and valence/arousal
ALIKE_VOICES = 4  # a target is paired with one of this many clips of its sex and emotion, nearest in age and intensity
YEARS_PER_INTENSITY = 25.0


class DiffusionStage:
    """Draws a target picture, another picture of the person, a voice, a caption, and which of them may be seen."""

    name = "diffusion"

    def __init__(self, model: ClipFaceFusion, cache: WorldCache, features: FeatureCache) -> None:
        self.model, self.cache, self.features = model, cache, features
        self.module = nn.ModuleDict({"unet": model.unet, "conditioner": model.conditioner})
        if isinstance(model.unet, UNet2DConditionModel):
            model.unet.set_attn_processor(AttnProcessor())  # see training.encoders.ATTENTION
        self.shots = cache.shots
        self.voices = match_voices(cache)

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """L_simple over one batch."""
        rows = rng.integers(0, len(self.cache), batch_size)
        clean = self.features.samples[rows].float()
        cond = self.model.fuse(*self.inputs(rows, rng))
        noise = torch.randn(
            clean.shape
        )  # randn_like would follow the memory layout, and a resumed run would draw other noise
        timesteps = sample_timesteps(batch_size, self.model.schedule)
        noisy = add_noise(clean, noise, timesteps, self.model.schedule)
        prediction = self.model.denoise(noisy, timesteps, *cond)
        return {"loss": simple_loss(prediction, clean, noise, timesteps, self.model.schedule).mean()}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Sixteen targets, and below each the face made from everything said about it (with another picture as reference)."""
        rng = np.random.default_rng(0)
        rows = np.linspace(0, len(self.cache) - 1, 16).astype(int)
        self.module.eval()
        everything = {name: np.ones(16, bool) for name in ("text", "audio", "reference", "age", "emotion")}
        cond = self.model.fuse(*self.inputs(rows, rng, everything))
        made = sample_images(
            self.model, cond, seed=0, num_inference_steps=20, guidance_scale=self.model.config.guidance_scale
        )
        target = self.features.samples[rows].float()
        target = target if self.model.autoencoder is None else self.model.decode(target)
        save_grid(torch.cat([target[:8], made[:8], target[8:], made[8:]]), 8, path)

    def inputs(
        self, rows: np.ndarray, rng: np.random.Generator, given: Mapping[str, np.ndarray] | None = None
    ) -> list[Tensor]:
        """The `fusion` engine's inputs for target pictures `rows`; `given` says which modalities (default: drawn)."""
        count, cache, features = len(rows), self.cache, self.features
        given = given or sample_modalities(rng, count)
        wording = torch.from_numpy(rng.integers(0, features.caption.shape[1], count))
        rows_t = torch.from_numpy(rows)
        phrase = {
            "age_text": features.age_phrase[rows_t, wording],
            "emotion_text": features.emotion_phrase[rows_t, wording],
        }
        person, shot = np.divmod(rows, self.shots)
        reference = torch.from_numpy(person * self.shots + (shot + rng.integers(1, self.shots, count)) % self.shots)
        voice = torch.from_numpy(self.voices[rows, rng.integers(0, self.voices.shape[1], count)])
        how = rng.random(count)
        present = {
            "text": given["text"],
            "age_text": given["text"] & (phrase["age_text"] >= 0).numpy(),
            "emotion_text": given["text"] & (phrase["emotion_text"] >= 0).numpy(),
            "audio": given["audio"],
            "image": given["reference"],
            "identity": given["reference"],
            "age": given["age"],
            "emotion": given["emotion"] & ((how < LABEL_ONLY) | (how >= LABEL_ONLY + VALUES_ONLY)),
            "valence_arousal": given["emotion"] & (how >= LABEL_ONLY),
        }
        masks = {name: torch.from_numpy(present[name]).float()[:, None] for name in SOURCES}
        label = torch.zeros(count, len(EMOTIONS))
        label[torch.arange(count), torch.from_numpy(cache.emotion[rows])] = torch.from_numpy(cache.intensity[rows])
        return [
            features.texts[features.caption[rows_t, wording]] * masks["text"],
            features.texts[phrase["age_text"].clamp(min=0)] * masks["age_text"],
            features.texts[phrase["emotion_text"].clamp(min=0)] * masks["emotion_text"],
            features.audio[voice] * masks["audio"],
            features.audio_emotion[voice] * masks["audio"],
            features.image[reference] * masks["image"],
            features.identity[reference] * masks["identity"],
            torch.from_numpy(cache.age[rows])[:, None] * masks["age"],
            label * masks["emotion"],
            torch.from_numpy(cache.valence_arousal[rows]) * masks["valence_arousal"],
            torch.cat([masks[name] for name in SOURCES], dim=1),
        ]


def match_voices(cache: WorldCache) -> np.ndarray:
    """(N, k) clips that could be heard from each picture: same sex and emotion, nearest in age and intensity.

    Nothing else connects them, so a voice tells a face's sex, age and emotion and no more.
    """
    source = cache.audio_picture
    matches = np.empty((len(cache), ALIKE_VOICES), np.int64)
    for sex in np.unique(cache.sex):
        for emotion in np.unique(cache.emotion):
            pictures = np.flatnonzero((cache.sex == sex) & (cache.emotion == emotion))
            if not len(pictures):
                continue
            clips = np.flatnonzero((cache.sex[source] == sex) & (cache.emotion[source] == emotion))
            if not len(clips):  # only in a world of a few people
                clips = np.arange(len(source))
            distance = np.abs(cache.age[pictures, None] - cache.age[source[clips]])
            distance = distance + YEARS_PER_INTENSITY * np.abs(
                cache.intensity[pictures, None] - cache.intensity[source[clips]]
            )
            nearest = np.argsort(distance, axis=1, kind="stable")[:, :ALIKE_VOICES]
            matches[pictures] = clips[
                np.resize(nearest, (len(pictures), ALIKE_VOICES)) if nearest.shape[1] < ALIKE_VOICES else nearest
            ]
    return matches
