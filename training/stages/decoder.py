"""Stage: the decoder alone, on latents that stay as they are.

It may run before the other networks learn from latents or after: features that were computed stay valid, and so does the UNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.data.cache import DataCache
from training.model import ClipFaceFusion
from training.stages.autoencoder import GATE_EVERY, MEASURED, Pictures, disturbed_latents, reconstruction_loss


class DecoderStage:
    """Reconstruction as in the autoencoder's stage, without its encoder's part."""

    name = "decoder"

    def __init__(self, model: ClipFaceFusion, cache: DataCache) -> None:
        if model.autoencoder is None:
            raise ValueError("the decoder stage needs a latent model; this preset's model works on pixels")
        self.autoencoder = model.autoencoder
        self.module: nn.Module = self.autoencoder.network.decoder
        self.pictures = Pictures(cache, self.autoencoder)

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See class."""
        image = self.pictures.crops(rng, batch_size)
        with torch.no_grad():
            latents = disturbed_latents(self.autoencoder.latents(image))
        error = self.autoencoder.network.decode(latents).sample.float() - image
        return {"loss": reconstruction_loss(error), "psnr_db": 10 * torch.log10(4 / error.square().mean())}

    def preview(self, path: Path) -> None:
        """Originals above reconstructions."""
        self.pictures.preview(path)

    def finish(self) -> float:
        """The mean PSNR in dB of whole pictures of the training data, decoded from their latents."""
        return self.pictures.psnr(self.pictures.sample(MEASURED)[::GATE_EVERY])
