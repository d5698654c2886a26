"""Stage: CLIP text and image encoders from scratch, on captions of the world (Radford et al. 2021, symmetric contrastive loss).

Several captions fit one face and one caption fits many. The softmax form copes: its optimum is the pointwise mutual
information of picture and words, and a caption that says little is simply close to many pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.data.cache import WorldCache
from training.model import ClipFaceFusion
from training.pictures import save_grid, to_clip, to_model

MAX_LOGIT_SCALE = 100.0


class ClipStage:
    """Pictures and one of their captions, drawn anew at every step."""

    name = "clip"

    def __init__(self, model: ClipFaceFusion, cache: WorldCache) -> None:
        self.cache = cache
        self.tokenizer = model.tokenizer
        self.module = nn.ModuleDict({"text": model.text_encoder, "image": model.image_encoder})
        self.module.register_parameter("logit_scale", nn.Parameter(torch.tensor(np.log(10.0), dtype=torch.float32)))

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See module."""
        rows = rng.choice(len(self.cache), min(batch_size, len(self.cache)), replace=False)
        image = to_clip(to_model(self.cache.images[np.sort(rows)]))
        texts = [captions[rng.integers(len(captions))] for captions in (self.cache.captions[r] for r in np.sort(rows))]
        text_features, image_features = self._text(texts), self._image(image)
        scale = self.module.get_parameter("logit_scale").exp().clamp(max=MAX_LOGIT_SCALE)
        logits = scale * text_features @ image_features.T
        target = torch.arange(len(rows))
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return {"loss": loss, "accuracy": (logits.argmax(1) == target).float().mean()}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """For four prompts, the eight nearest of 256 pictures, a row each."""
        prompts = [
            "a happy child",
            "an angry old man",
            "a young woman with red hair and glasses",
            "a surprised elderly woman",
        ]
        rows = np.linspace(0, len(self.cache) - 1, min(256, len(self.cache))).astype(int)
        image = to_model(self.cache.images[rows])
        nearest = (self._text(prompts) @ self._image(to_clip(image)).T).topk(8, dim=1).indices
        save_grid(image[nearest.flatten()], 8, path)

    def _text(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        return F.normalize(self.module["text"](**tokens).text_embeds.float(), dim=1)

    def _image(self, image: Tensor) -> Tensor:
        return F.normalize(self.module["image"](pixel_values=image).image_embeds.float(), dim=1)
