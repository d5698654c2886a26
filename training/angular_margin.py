"""The additive angular margin (ArcFace: Deng et al. 2019), against a batch's other pictures or against class weights.

A vector must be nearer to its own person than to anyone else by a margin in angle. Who "anyone else" is makes the two forms:
the rest of the batch, where every person has a few pictures, or one learned direction per person, where each has many.
Cosines are taken in float32 whatever the autocast: one of 1 - 1e-5 is 1 in bfloat16. Letters: B batch, K persons, D features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST_COSINE = 0.999  # the slope of the sine is infinite at 1


@dataclass(frozen=True)
class AngularMargin:
    """A margin of `radians`, on cosines multiplied by `scale` before the softmax."""

    radians: float
    scale: float

    def __post_init__(self) -> None:
        if not 0 <= self.radians < math.pi / 2:
            raise ValueError(f"angular margin of {self.radians} radians, must be in [0, π/2)")
        if not self.scale > 0:
            raise ValueError(f"angular margin with scale {self.scale}, must be above 0")

    def logits(self, cosine: Tensor, own: Tensor) -> Tensor:
        """Scaled cosines (…, K), with the margin added to the angle where `own` (…, K) bool holds.

        cos(θ + m) rises again beyond θ = π - m; from there on it is cosθ - m·sin m, as in the authors' code, so that the margin
        always makes it harder.
        """
        near = cosine.clamp(-LARGEST_COSINE, LARGEST_COSINE)
        sine = (1 - near**2).sqrt()
        turned = near * math.cos(self.radians) - sine * math.sin(self.radians)
        lowered = near - self.radians * math.sin(self.radians)
        harder = torch.where(near > -math.cos(self.radians), turned, lowered)
        return self.scale * torch.where(own, harder, cosine)


def pair_loss(vectors: Tensor, person: Tensor, margin: AngularMargin) -> tuple[Tensor, Tensor]:
    """Loss, and accuracy, of finding each first picture's second among the batch's, and the reverse.

    `vectors` (2B, D) of unit length, the first half paired with the second; `person` (B,) whose pair it is. Another pair of the
    same person is neither right nor wrong.
    """
    with torch.autocast(vectors.device.type, enabled=False):
        first, second = vectors.float().chunk(2)
        cosine = first @ second.T
        own = torch.eye(len(first), dtype=torch.bool, device=vectors.device)
        ambiguous = (person[:, None] == person[None, :]) & ~own
        logits = margin.logits(cosine, own).masked_fill(ambiguous, -torch.inf)
        target = torch.arange(len(first), device=vectors.device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        found = cosine.masked_fill(ambiguous, -torch.inf).argmax(1) == target
    return loss, found.float().mean()


class ClassWeights(nn.Module):
    """One direction per person, learned beside the vectors and thrown away with the stage: ArcFace's own form."""

    def __init__(self, persons: int, features: int, margin: AngularMargin) -> None:
        super().__init__()
        self.margin = margin
        self.weight = nn.Parameter(torch.empty(persons, features))
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, vectors: Tensor, person: Tensor) -> tuple[Tensor, Tensor]:
        """Loss, and accuracy, of naming the `person` (B,) in 0..K-1 of unit `vectors` (B, D)."""
        with torch.autocast(vectors.device.type, enabled=False):
            cosine = vectors.float() @ F.normalize(self.weight.float(), dim=1).T
            own = F.one_hot(person, len(self.weight)).bool()
            loss = F.cross_entropy(self.margin.logits(cosine, own), person)
            found = cosine.argmax(1) == person
        return loss, found.float().mean()
