"""Stage: the autoencoder, on crops of pictures. Ends with the latents' statistics, so that they have unit variance.

What `training/stages/decoder.py` does alike stands here too. Letters: B batch, S crop size.
"""

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
MEASURED = 1024  # pictures, for the statistics of latents
PART = 64  # pictures that are measured at once
ABSOLUTE_WEIGHT, EDGE_WEIGHT = 0.05, 0.05

log = logging.getLogger(__name__)


class Pictures:
    """What an autoencoder is shown, and how good whole pictures come back."""

    def __init__(self, cache: DataCache, autoencoder: Autoencoder) -> None:
        self.cache, self.autoencoder = cache, autoencoder

    def crops(self, rng: np.random.Generator, batch_size: int) -> Tensor:
        """(B, 3, S, S) in [-1, 1] of pictures drawn by the mixture."""
        size = self.cache.images.shape[1]
        crop = min(CROP, size)
        rows = self.cache.draw(rng, batch_size)
        tops, lefts = rng.integers(0, (size - crop) // 8 + 1, (2, batch_size)) * 8
        crops = np.stack(
            [self.cache.images[r, t : t + crop, s : s + crop] for r, t, s in zip(rows, tops, lefts, strict=True)]
        )
        return to_model(crops).to(self.device, memory_format=torch.channels_last)

    @torch.no_grad()
    def preview(self, path: Path) -> None:
        """Originals above reconstructions."""
        image = self.whole(self.cache.draw(np.random.default_rng(0), 8))
        rebuilt = self.autoencoder.network.decode(self.autoencoder.latents(image)).sample.clamp(-1, 1)
        save_grid(torch.cat([image, rebuilt]), 8, path)

    @torch.no_grad()
    def psnr(self, rows: np.ndarray) -> float:
        """Mean over pictures `rows` of 10 log10(peak² / mean squared error), in dB; the peak of [-1, 1] is 2."""
        values = []
        for part in np.array_split(rows, -(-len(rows) // PART)):
            image = self.whole(part)
            error = self.autoencoder.decode(self.autoencoder.encode(image)).float() - image
            values.append(10 * torch.log10(4 / error.square().mean(dim=(1, 2, 3)).clamp(min=1e-10)))
        return float(torch.cat(values).mean())

    def whole(self, rows: np.ndarray) -> Tensor:
        """(B, 3, H, W) of pictures `rows`."""
        return to_model(self.cache.images[rows]).to(self.device)

    def sample(self, count: int) -> np.ndarray:
        """Rows of `count` pictures drawn by the mixture, always the same, in order."""
        return np.sort(self.cache.draw(np.random.default_rng(0), count))

    @property
    def device(self) -> torch.device:
        """Where the autoencoder is."""
        return next(self.autoencoder.parameters()).device


def disturbed_latents(latents: Tensor) -> Tensor:
    """Latents and noise."""
    # On the CPU, as in the diffusion stage: a resumed run must draw the same noise.
    noise = torch.randn(latents.shape).to(latents.device) * latents.detach().std(dim=(0, 2, 3), keepdim=True)
    return latents + LATENT_NOISE * noise


def reconstruction_loss(error: Tensor) -> Tensor:
    """Squared error of (B, 3, S, S), plus the error of horizontal and vertical differences, which keeps edges sharp."""
    edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
    return error.square().mean() + ABSOLUTE_WEIGHT * error.abs().mean() + EDGE_WEIGHT * edges


class AutoencoderStage:
    """Reconstruction of crops, through noise on their latents."""

    name = "autoencoder"

    def __init__(self, model: ClipFaceFusion, cache: DataCache) -> None:
        if model.autoencoder is None:
            raise ValueError("the autoencoder stage needs a latent model; this preset's model works on pixels")
        self.module: Autoencoder = model.autoencoder
        self.pictures = Pictures(cache, self.module)

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """See class."""
        image = self.pictures.crops(rng, batch_size)
        latents = self.module.latents(image)
        error = self.module.network.decode(disturbed_latents(latents)).sample.float() - image
        loss = reconstruction_loss(error) + LATENT_PENALTY * latents.float().square().mean()
        return {"loss": loss, "psnr_db": 10 * torch.log10(4 / error.square().mean())}

    def preview(self, path: Path) -> None:
        """Originals above reconstructions."""
        self.pictures.preview(path)

    @torch.no_grad()
    def finish(self, count: int = MEASURED) -> float:
        """Measure mean and standard deviation per latent channel over `count` pictures.

        Returns the mean PSNR in dB of whole pictures of the training data, decoded from their latents; warns below `GATE_DB`.
        """
        rows = self.pictures.sample(count)
        latents = torch.cat(
            [self.module.latents(self.pictures.whole(part)) for part in np.array_split(rows, -(-count // PART))]
        )
        self.module.mean.copy_(latents.mean(dim=(0, 2, 3)).view(1, -1, 1, 1))
        self.module.std.copy_(latents.std(dim=(0, 2, 3)).view(1, -1, 1, 1))
        psnr = self.pictures.psnr(rows[::GATE_EVERY])
        if not psnr >= GATE_DB:
            log.warning(
                "autoencoder: decoded pictures have %.1f dB PSNR, and should have at least %.0f: what is generated will look no sharper; "
                "train it longer (--set autoencoder.steps=…), or give it more latent channels",
                psnr,
                GATE_DB,
            )
        return psnr
