"""From encoder features to the UNet's `cond` mapping: everything between the encoders and the UNet (paper, eqs 3-7, 11-16).

This is the `fusion` engine. It runs no encoder: its inputs are features, numbers and the `present` mask.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from runtime.spec import SOURCES, TOKENS
from training.attributes import AgeFeatures, AudioVisualFeatures, EmotionFeatures
from training.fusion import AttentionFusion


class Conditioner(nn.Module):
    """Builds the six tokens of `runtime.spec.TOKENS`, fuses them, and projects both results to the UNet's widths.

    `cond_width` is the UNet's time-embedding width; `token_width` None leaves `cond_tokens` out. `W_out` starts at zero, so a
    pretrained unconditional UNet is unchanged at the first step.
    """

    def __init__(
        self, features: int, audio_features: int, cond_width: int, token_width: int | None, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.age = AgeFeatures(features)
        self.emotion = EmotionFeatures(features)
        self.audio_visual = AudioVisualFeatures(audio_features, features)
        self.fusion = AttentionFusion(len(TOKENS), features, heads, dropout)
        self.to_cond = nn.Linear(features, cond_width)  # W_out
        nn.init.zeros_(self.to_cond.weight)
        nn.init.zeros_(self.to_cond.bias)
        self.to_tokens = None if token_width is None else nn.Linear(features, token_width)

    def forward(
        self,
        text_features: Tensor,
        age_text_features: Tensor,
        emotion_text_features: Tensor,
        audio_features: Tensor,
        audio_emotion_features: Tensor,
        image_features: Tensor,
        identity_features: Tensor,
        age: Tensor,
        emotion: Tensor,
        valence_arousal: Tensor,
        present: Tensor,
    ) -> tuple[Tensor, ...]:
        """Inputs as in the `fusion` engine's spec (batch first). Returns `(cond,)` or `(cond, cond_tokens)`."""
        m = dict(zip(SOURCES, present.split(1, dim=1), strict=True))
        age_token, m_age = self.age(age_text_features, m["age_text"], age, m["age"])
        emotion_token, m_emotion = self.emotion(
            emotion_text_features,
            m["emotion_text"],
            audio_emotion_features,
            m["audio"],
            (emotion, m["emotion"], valence_arousal, m["valence_arousal"]),
        )
        audio_visual = self.audio_visual(audio_features, audio_emotion_features, image_features, m["image"])
        token = {
            "text": (text_features, m["text"]),
            "audio_visual": (audio_visual, m["audio"]),
            "age": (age_token, m_age),
            "emotion": (emotion_token, m_emotion),
            "image": (image_features, m["image"]),
            "identity": (identity_features, m["identity"]),
        }
        tokens = torch.stack([token[name][0] for name in TOKENS], dim=1)
        f_final, used = self.fusion(tokens, torch.cat([token[name][1] for name in TOKENS], dim=1))
        cond = self.to_cond(f_final)
        return (cond,) if self.to_tokens is None else (cond, self.to_tokens(used))
