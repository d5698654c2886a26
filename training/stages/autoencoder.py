"""Stage: the autoencoder, on crops of pictures. Ends with the latents' statistics, so that they have unit variance."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.autoencoder import Autoencoder
from training.data.cache import DataCache
from training.model import ClipFaceFusion
from training.pictures import save_grid, to_model

CROP = 64  # the network is convolutional without normalisation, so a crop teaches what a whole picture does, at a quarter of the cost
LATENT_NOISE = (
    0.1  # of each channel's spread, added before decoding: what a generator gets slightly wrong must not show
)
LATENT_PENALTY = 1e-3  # keeps latents inside the decoder's ±3 soft clamp
GATE_DB = 33.0  # below, the decoder limits what the generator can show and what the estimators can judge
GATE_EVERY = 4  # of the pictures whose latents are measured, one in this many is decoded too
PART = 64  # pictures that are measured at once
ABSOLUTE_WEIGHT, EDGE_WEIGHT = 0.05, 0.05

log = logging.getLogger(__name__)


class AutoencoderStage:
    """Reconstruction: squared error, plus the error of horizontal and vertical differences, which keeps edges sharp."""

    name = "autoencoder"

    def __init__(self, model: ClipFaceFusion, cache: DataCache) -> None:
        if model.autoencoder is None:
            raise ValueError("the autoencoder stage needs a latent model; this preset's model works on pixels")
        self.module: Autoencoder = model.autoencoder
        self.cache = cache

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See class."""
        size = self.cache.images.shape[1]
        crop = min(CROP, size)
        rows = self.cache.draw(rng, batch_size)
        tops, lefts = rng.integers(0, (size - crop) // 8 + 1, (2, batch_size)) * 8
        crops = np.stack(
            [self.cache.images[r, t : t + crop, s : s + crop] for r, t, s in zip(rows, tops, lefts, strict=True)]
        )
        image = to_model(crops).to(self._device(), memory_format=torch.channels_last)
        latents = self.module.latents(image)
        # On the CPU, as in the diffusion stage: a resumed run must draw the same noise.
        noise = torch.randn(latents.shape).to(latents.device) * latents.detach().std(dim=(0, 2, 3), keepdim=True)
        error = self.module.network.decode(latents + LATENT_NOISE * noise).sample.float() - image
        pixels = error.square().mean()
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        loss = (
            pixels
            + ABSOLUTE_WEIGHT * error.abs().mean()
            + EDGE_WEIGHT * edges
            + LATENT_PENALTY * latents.float().square().mean()
        )
        return {"loss": loss, "psnr_db": 10 * torch.log10(4 / pixels)}

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Originals above reconstructions."""
        image = to_model(self.cache.images[self.cache.draw(np.random.default_rng(0), 8)]).to(self._device())
        rebuilt = self.module.network.decode(self.module.latents(image)).sample.clamp(-1, 1)
        save_grid(torch.cat([image, rebuilt]), 8, path)

    @torch.no_grad()
    def finish(self, count: int = 1024) -> float:
        """Measure mean and standard deviation per latent channel over `count` pictures.

        Returns the mean PSNR in dB of whole pictures of the training data, decoded from their latents; warns below `GATE_DB`.
        """
        rows = np.sort(self.cache.draw(np.random.default_rng(0), count))
        latents = torch.cat(
            [
                self.module.latents(to_model(self.cache.images[part]).to(self._device()))
                for part in np.array_split(rows, -(-count // PART))
            ]
        )
        self.module.mean.copy_(latents.mean(dim=(0, 2, 3)).view(1, -1, 1, 1))
        self.module.std.copy_(latents.std(dim=(0, 2, 3)).view(1, -1, 1, 1))
        psnr = self._psnr(rows[::GATE_EVERY])
        if not psnr >= GATE_DB:
            log.warning(
                "autoencoder: decoded pictures have %.1f dB PSNR, and should have at least %.0f: what is generated will look no sharper; "
                "train it longer (--set autoencoder.steps=…), or give it more latent channels",
                psnr,
                GATE_DB,
            )
        return psnr

    def _psnr(self, rows: np.ndarray) -> float:
        """Mean over pictures `rows` of 10 log10(peak² / mean squared error), in dB; the peak of [-1, 1] is 2."""
        values = []
        for part in np.array_split(rows, -(-len(rows) // PART)):
            image = to_model(self.cache.images[part]).to(self._device())
            error = self.module.decode(self.module.encode(image)).float() - image
            values.append(10 * torch.log10(4 / error.square().mean(dim=(1, 2, 3)).clamp(min=1e-10)))
        return float(torch.cat(values).mean())

    def _device(self) -> torch.device:
        return next(self.module.parameters()).device
