"""The stock encoders in their libraries' own classes: CLIP text and image (eqs 1, 8), Wav2Vec 2.0 with an emotion head (eqs 2, 6).

Each is built small from a preset, or loaded from published weights in the library's folder layout; both fit the same slot.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Wav2Vec2Config,
    Wav2Vec2Model,
)

from runtime.emotions import EMOTIONS

# At these lengths torch's fused attention gains nothing on a CPU, and its backward pass is several times slower.
ATTENTION = "eager"


class AudioEncoder(nn.Module):
    """A voice → pooled features (B, Da) and the penultimate features (B, D) of a speech-emotion classifier.

    It is the `training.estimators.Estimator` of emotion in a voice as well. Clips run unpadded, so every frame is valid and the
    mean of eq. 2 is a plain mean. Da is Wav2Vec 2.0's hidden size.
    """

    def __init__(self, wav2vec2: Wav2Vec2Model, features: int) -> None:
        super().__init__()
        self.wav2vec2 = wav2vec2
        self.emotion = nn.Linear(wav2vec2.config.hidden_size, features)
        self.emotion_labels = nn.Linear(features, len(EMOTIONS))

    def forward(self, input_values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) zero-mean, unit-variance samples at 16 kHz → `f_A` (B, Da), `f_Emo,Audio` (B, D)."""
        pooled = self.wav2vec2(input_values).last_hidden_state.mean(dim=1)
        return pooled, F.silu(self.emotion(pooled))

    def features(self, input_values: Tensor) -> Tensor:
        """(B, D) `f_Emo,Audio` of eq. 6."""
        return self(input_values)[1]

    @torch.no_grad()
    def read(self, input_values: Tensor) -> dict[str, Tensor]:
        """`emotion` (B, 8) probabilities in the order of EMOTIONS."""
        return {"emotion": self.emotion_labels(self.features(input_values)).softmax(dim=1)}


def build_text_encoder(
    settings: Mapping[str, Any], features: int, tokenizer: CLIPTokenizer
) -> CLIPTextModelWithProjection:
    """A CLIP text tower of the given size over the tokenizer's vocabulary."""
    config = CLIPTextConfig(
        **settings,
        projection_dim=features,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,  # pooling takes the hidden state at this token
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModelWithProjection._from_config(config, attn_implementation=ATTENTION)


def build_image_encoder(settings: Mapping[str, Any], features: int) -> CLIPVisionModelWithProjection:
    """A CLIP vision tower of the given size."""
    config = CLIPVisionConfig(**settings, projection_dim=features)
    return CLIPVisionModelWithProjection._from_config(config, attn_implementation=ATTENTION)


def build_wav2vec2(settings: Mapping[str, Any]) -> Wav2Vec2Model:
    """A Wav2Vec 2.0 of the given size; no settings give wav2vec2-base."""
    return Wav2Vec2Model._from_config(Wav2Vec2Config(**settings), attn_implementation=ATTENTION)
