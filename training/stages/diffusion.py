"""Stage: UNet and conditioner, L_simple only, on frozen features. Reference and target are different pictures of one person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from training.data.cache import DataCache
from training.diffusion import add_noise, sample_timesteps, simple_loss
from training.dropout import MODALITIES
from training.examples import Examples
from training.features import FeatureCache
from training.model import ClipFaceFusion
from training.pictures import save_grid
from training.sampling import sample_images


class DiffusionStage:
    """Draws a target picture, another picture of the person, a voice, a caption, and which of them may be seen."""

    name = "diffusion"

    def __init__(
        self, model: ClipFaceFusion, cache: DataCache, features: FeatureCache, never: Sequence[str] = ()
    ) -> None:
        self.model, self.cache = model, cache
        self.examples = Examples(model, cache, features, never)
        model.conditioner.attributes.requires_grad_(False)  # aligned already: docs/decisions/0014
        self.module = nn.ModuleDict({"unet": model.unet, "conditioner": model.conditioner})
        if isinstance(model.unet, UNet2DConditionModel):
            model.unet.set_attn_processor(AttnProcessor())  # see training.encoders.ATTENTION

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """L_simple over one batch."""
        batch = self.examples.draw(rng, batch_size)
        clean = batch.clean
        # On the CPU, and not by randn_like, which would follow the memory layout: a resumed run must draw the same noise.
        noise = torch.randn(clean.shape).to(clean.device)
        timesteps = sample_timesteps(batch_size, self.model.schedule).to(clean.device)
        noisy = add_noise(clean, noise, timesteps, self.model.schedule)
        prediction = self.model.denoise(noisy, timesteps, *self.model.fuse(*batch.inputs.values()))
        return {"loss": simple_loss(prediction, clean, noise, timesteps, self.model.schedule).mean()}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Sixteen targets, and below each the face made from everything said about it (with another picture as reference)."""
        rows = self.cache.draw(np.random.default_rng(0), 16)
        self.module.eval()
        everything = {name: np.ones(16, bool) for name in MODALITIES}
        batch = self.examples.describe(rows, np.random.default_rng(0), everything)
        made = sample_images(
            self.model,
            self.model.fuse(*batch.inputs.values()),
            seed=0,
            num_inference_steps=20,
            guidance_scale=self.model.config.guidance_scale,
        )
        target = batch.clean if self.model.autoencoder is None else self.model.decode(batch.clean)
        save_grid(torch.cat([target[:8], made[:8], target[8:], made[8:]]), 8, path)
