"""Stage: the attribute modules learn to say in the judges' spaces what a picture should look like (eqs 4-7, 15, 16).

From any subset of what may be said of a picture, f_Age meets the frozen age estimator's features of that picture, f_Emo the
emotion estimator's, f_AV CLIP's picture features: the same distances by which eqs 17, 18 and 22 later judge generated pictures, with
the roles exchanged. f_AV is contrastive as well, or it would learn the average face. The mixing weights learn with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from runtime.emotions import EMOTIONS
from runtime.spec import SOURCES, TOKENS
from training import losses
from training.data.cache import DataCache
from training.dropout import MODALITIES
from training.examples import Examples
from training.features import FeatureCache
from training.labels import UnlabelledError
from training.model import ClipFaceFusion
from training.pictures import save_grid, to_model

MAX_LOGIT_SCALE = 100.0
SHOWN_AGES = np.linspace(8, 85, len(EMOTIONS), dtype=np.float32)


def was_aligned(provenance: Mapping[str, Any]) -> bool:
    """Whether a checkpoint, or one that it started from, went through this stage; yes if it does not name its stages."""
    if AlignmentStage.name in provenance.get("stages", (AlignmentStage.name,)):
        return True
    earlier: Mapping[str, Any] = provenance.get("started_from") or {}
    return bool(earlier) and was_aligned(earlier["provenance"])


class AlignmentStage:
    """Examples as the diffusion stage draws them; trains MLP_age, the projections, W_A and α, β, η, γ, nothing else."""

    name = "alignment"

    def __init__(
        self, model: ClipFaceFusion, cache: DataCache, features: FeatureCache, never: Sequence[str] = ()
    ) -> None:
        self.cache, self.features, self.conditioner = cache, features, model.conditioner
        self.examples = Examples(model, cache, features, never)
        told = any(self.examples.available[name].any() for name in ("audio", "age", "emotion"))
        phrases = (features.age_phrase, features.emotion_phrase)
        told_in_words = self.examples.available["text"].any() and any((found >= 0).any() for found in phrases)
        if not told and not told_in_words:
            raise UnlabelledError(
                "alignment: no row of the data has a voice, an age or an emotion, in labels or in words, to be brought into the "
                "estimators' spaces; add data that has, or leave the stage out"
            )
        self.module = nn.ModuleDict({"attributes": model.conditioner.attributes.requires_grad_(True)})
        self.module.register_parameter("logit_scale", nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32)))

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module. `found` is how often a voice finds its own picture among those of the batch."""
        batch = self.examples.draw(rng, batch_size)
        tokens, present = self.conditioner.tokens(*batch.inputs.values())
        device = tokens.device
        f_av, f_age, f_emo = (tokens[:, TOKENS.index(name)] for name in ("audio_visual", "age", "emotion"))
        has_voice, has_age, has_emo = (present[:, TOKENS.index(name)] for name in ("audio_visual", "age", "emotion"))
        age = losses.masked_mean(losses.age_loss(f_age, self.features.age[batch.rows].to(device)), has_age)
        emotion = losses.masked_mean(losses.emotion_loss(f_emo, self.features.emotion[batch.rows].to(device)), has_emo)
        picture = self.features.image[batch.rows].to(device)
        attraction = losses.masked_mean(losses.cosine_loss(f_av, picture), has_voice)
        contrast, found = self._contrast(f_av[has_voice > 0], picture[has_voice > 0])
        return {
            "loss": age + emotion + attraction + contrast,
            "age": age,
            "emotion": emotion,
            "audio_visual": attraction,
            "contrast": contrast,
            "found": found,
        }

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Three rows of eight pictures, nearest of 256 to: an age in years (8 to 85), an emotion's name, a voice."""
        rows = np.linspace(0, len(self.cache) - 1, min(256, len(self.cache))).astype(int)
        found = [self._nearest(token, rows) for token in ("age", "emotion", "audio_visual")]
        save_grid(to_model(self.cache.images[np.concatenate(found)]), len(EMOTIONS), path)

    def _contrast(self, f_av: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Symmetric contrastive loss of n voices and their pictures (n, D), and the share of voices that find theirs."""
        if len(f_av) < 2:
            return f_av.sum() * 0, torch.tensor(torch.nan, device=f_av.device)
        scale = self.module.get_parameter("logit_scale").exp().clamp(max=MAX_LOGIT_SCALE)
        cosine = F.normalize(f_av.float(), dim=1) @ F.normalize(picture.float(), dim=1).T
        target = torch.arange(len(cosine), device=cosine.device)
        contrast = (F.cross_entropy(scale * cosine, target) + F.cross_entropy(scale * cosine.T, target)) / 2
        return contrast, (cosine.argmax(1) == target).float().mean()

    def _nearest(self, token: str, rows: np.ndarray) -> np.ndarray:
        """(8,) of `rows`: whose features are nearest to `token` made of one thing alone."""
        count = len(EMOTIONS)
        told = np.linspace(0, len(self.cache) - 1, count).astype(int)
        given = {name: np.full(count, name == "audio" and token == "audio_visual") for name in MODALITIES}
        inputs = self.examples.describe(told, np.random.default_rng(0), given).inputs
        if token == "age":
            inputs["age"][:, 0] = torch.from_numpy(SHOWN_AGES)
            inputs["present"][:, SOURCES.index("age")] = 1
        elif token == "emotion":
            inputs["emotion"] += torch.eye(count, device=inputs["emotion"].device)
            inputs["present"][:, SOURCES.index("emotion")] = 1
        made = self.conditioner.tokens(*inputs.values())[0][:, TOKENS.index(token)]
        space = {"age": self.features.age, "emotion": self.features.emotion, "audio_visual": self.features.image}[token]
        cosine = F.normalize(made, dim=1) @ F.normalize(space[rows].to(made.device), dim=1).T
        return rows[cosine.argmax(1).cpu().numpy()]
