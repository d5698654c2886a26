"""Fusion of the modality tokens: attention (paper, eqs 11-13), or their plain mean. It does not know where a token came from.

Letters: B batch, M modalities (`runtime.spec.TOKENS`), D features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class AttentionFusion(nn.Module):
    """LayerNorm per modality, null tokens for what is absent, multi-head attention, mean pool, feed-forward with residual.

    `kind` "mean" leaves attention and feed-forward out, the paper's ablation without the fusion module (Table 7): `f_final` is
    the plain mean of the tokens. The weights stay, without effect, so that those of either kind load into the other.
    """

    def __init__(self, modalities: int, features: int, heads: int, dropout: float, kind: str = "attention") -> None:
        super().__init__()
        if kind not in ("attention", "mean"):
            raise ValueError(f"fusion {kind!r}, allowed attention, mean")
        self.heads, self.kind = heads, kind
        self.norms = nn.ModuleList(nn.LayerNorm(features) for _ in range(modalities))
        self.null_tokens = nn.Parameter(torch.randn(modalities, features))  # unit variance, like a LayerNorm's output
        self.query_key_value = nn.Linear(features, 3 * features)
        self.attention_out = nn.Linear(features, features)
        self.feed_forward = nn.Sequential(
            nn.Linear(features, features), nn.ReLU(), nn.Dropout(dropout), nn.Linear(features, features)
        )

    def forward(self, tokens: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """`tokens` (B, M, D) before LayerNorm and `present` (B, M) in {0, 1} give `f_final` (B, D) and the tokens used (B, M, D).

        A null token replaces an absent modality after LayerNorm and is attended like any other: masking every key of an
        attention, as an unconditional row would, gives NaN.
        """
        normed = torch.stack(
            [norm(token) for norm, token in zip(self.norms, tokens.unbind(1), strict=True)], dim=1
        )  # eq. 11
        used = torch.where(present.unsqueeze(-1) > 0, normed, self.null_tokens.to(normed.dtype))
        if self.kind == "mean":
            return used.mean(dim=1), used
        fused = self._attend(used).mean(dim=1)  # eq. 12
        return self.feed_forward(fused) + fused, used  # eq. 13

    def _attend(self, tokens: Tensor) -> Tensor:
        batch, length, width = tokens.shape
        split = self.query_key_value(tokens).view(batch, length, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.attention_out(mixed.transpose(1, 2).reshape(batch, length, width))
