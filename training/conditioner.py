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
        self,
        features: int,
        audio_features: int,
        cond_width: int,
        token_width: int | None,
        heads: int,
        dropout: float,
        fusion: str = "attention",
    ) -> None:
        super().__init__()
        self.age = AgeFeatures(features)
        self.emotion = EmotionFeatures(features)
        self.audio_visual = AudioVisualFeatures(audio_features, features)
        self.fusion = AttentionFusion(len(TOKENS), features, heads, dropout, fusion)
        self.to_cond = nn.Linear(features, cond_width)  # W_out
        nn.init.zeros_(self.to_cond.weight)
        nn.init.zeros_(self.to_cond.bias)
        self.to_tokens = None if token_width is None else nn.Linear(features, token_width)

    @property
    def attributes(self) -> nn.ModuleList:
        """What makes f_Age, f_Emo and f_AV: trained by the alignment stage alone, see docs/decisions/0014."""
        return nn.ModuleList([self.age, self.emotion, self.audio_visual])

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Inputs as in the `fusion` engine's spec, in its order (batch first). Returns `(cond,)` or `(cond, cond_tokens)`."""
        return self.project(*self.fusion(*self.tokens(*inputs)))

    def tokens(
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
    ) -> tuple[Tensor, Tensor]:
        """The engine's inputs → tokens (B, M, D) in the order of TOKENS, before fusion's LayerNorm, and which are there (B, M)."""
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
        return tokens, torch.cat([token[name][1] for name in TOKENS], dim=1)

    def project(self, f_final: Tensor, used: Tensor) -> tuple[Tensor, ...]:
        """Fusion's results `f_final` (B, D) and the tokens used (B, M, D) → the entries of `cond` at the UNet's widths."""
        cond = self.to_cond(f_final)
        return (cond,) if self.to_tokens is None else (cond, self.to_tokens(used))
