"""Age, emotion and the audio-visual token (paper, eqs 3-7, 15, 16), each with any side absent.

Letters: B batch, D features. A presence `m` is (B, 1) in {0, 1}; what is absent arrives as zeros.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from runtime.emotions import EMOTIONS


class Mix(nn.Module):
    """Convex mixing with a trainable weight, sigmoid-parametrised (eqs 5, 7): `f = (w m1 f1 + (1-w) m2 f2) / (w m1 + (1-w) m2)`.

    With one side absent the other passes unchanged; with both absent the result is zero and its presence 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(()))

    def forward(self, first: Tensor, m1: Tensor, second: Tensor, m2: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed features (B, D) and their presence (B, 1)."""
        weight = torch.sigmoid(self.logit)
        a, b = weight * m1, (1 - weight) * m2
        return (a * first + b * second) / (a + b).clamp_min(1e-6), torch.maximum(m1, m2)


class AgeFeatures(nn.Module):
    """`f_Age = α f_Age,Text + (1-α) f_Age,num` (eqs 4, 5)."""

    FREQUENCIES = 8
    YEARS = 100.0  # normalisation: 0..1 over a life

    def __init__(self, features: int) -> None:
        super().__init__()
        self.from_number = nn.Sequential(
            nn.Linear(1 + 2 * self.FREQUENCIES, features), nn.SiLU(), nn.Linear(features, features)
        )  # MLP_age
        self.from_text = nn.Linear(features, features)  # P_text→age
        self.mix = Mix()

    def forward(self, text_features: Tensor, m_text: Tensor, age: Tensor, m_age: Tensor) -> tuple[Tensor, Tensor]:
        """`age` (B, 1) in years. Returns features (B, D) and presence (B, 1)."""
        x = age / self.YEARS
        # Sines up to a period of about a year and a half: one scalar through an MLP blurs neighbouring ages.
        phase = x * (math.pi * 2.0 ** torch.arange(self.FREQUENCIES, device=x.device, dtype=x.dtype))
        number = self.from_number(torch.cat([x, phase.sin(), phase.cos()], dim=1))
        return self.mix(self.from_text(text_features), m_text, number, m_age)


class EmotionFeatures(nn.Module):
    """`f_Emo = β f_Emo,Text + (1-β) f_Emo,Audio` (eq. 7), where the described side mixes words with label and valence/arousal.

    Valence and arousal cannot tell angry from fearful, so the numbers' side sees label × intensity, both values and two presence bits.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.from_values = nn.Sequential(
            nn.Linear(len(EMOTIONS) + 4, features), nn.SiLU(), nn.Linear(features, features)
        )
        self.from_text = nn.Linear(features, features)  # P_text→emo
        self.from_audio = nn.Linear(features, features)  # P_audio→emo
        self.mix_described = Mix()
        self.mix = Mix()

    def forward(
        self,
        text_features: Tensor,
        m_text: Tensor,
        audio_features: Tensor,
        m_audio: Tensor,
        values: tuple[Tensor, Tensor, Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """`values` = label × intensity (B, 8), its presence, valence/arousal (B, 2), its presence. Returns (B, D) and (B, 1)."""
        label, m_label, valence_arousal, m_va = values
        numbers = self.from_values(torch.cat([label * m_label, valence_arousal * m_va, m_label, m_va], dim=1))
        described, m_described = self.mix_described(
            self.from_text(text_features), m_text, numbers, torch.maximum(m_label, m_va)
        )
        return self.mix(described, m_described, self.from_audio(audio_features), m_audio)


class AudioVisualFeatures(nn.Module):
    """`f_AV = LayerNorm(η f'_A + (1-η) f_Emo,Audio + γ f_I)`, `f'_A = LayerNorm(W_A f_A + b_A)` (eqs 3, 15, 16).

    Exists only where a voice does; the photo's part only where a photo does.
    """

    def __init__(self, audio_features: int, features: int) -> None:
        super().__init__()
        self.project = nn.Linear(audio_features, features)
        self.audio_norm = nn.LayerNorm(features)
        self.norm = nn.LayerNorm(features)
        self.eta_logit = nn.Parameter(torch.zeros(()))
        self.gamma_logit = nn.Parameter(torch.zeros(()))

    def forward(self, audio: Tensor, emotion_audio: Tensor, image: Tensor, m_image: Tensor) -> Tensor:
        """Pooled audio (B, Da), speech-emotion features (B, D), CLIP image features (B, D) and their presence (B, 1) give (B, D)."""
        eta, gamma = torch.sigmoid(self.eta_logit), torch.sigmoid(self.gamma_logit)
        return self.norm(
            eta * self.audio_norm(self.project(audio)) + (1 - eta) * emotion_audio + gamma * m_image * image
        )
