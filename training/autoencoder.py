"""The optional autoencoder: a stock diffusers `AutoencoderTiny`, with latents normalised to unit variance.

It has no normalisation layers, so it may be trained on crops. Letters: B batch, C latent channels, H and W latent size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderTiny
from torch import Tensor, nn


def build_network(settings: Mapping[str, Any]) -> AutoencoderTiny:
    """`settings`: latent_channels, block_out_channels (all equal, one per resolution), num_blocks per resolution from the picture down."""
    channels, blocks = tuple(settings["block_out_channels"]), tuple(settings["num_blocks"])
    return AutoencoderTiny(
        latent_channels=settings["latent_channels"],
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=blocks,
        num_decoder_blocks=blocks[::-1],
    )


class Autoencoder(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] ↔ normalised latents (B, C, H, W): zero mean and unit variance per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: AutoencoderTiny) -> None:
        super().__init__()
        self.network = network
        channels = network.config.latent_channels
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.ones(1, channels, 1, 1))

    @property
    def factor(self) -> int:
        """Picture pixels per latent pixel, along one side."""
        return 2 ** (len(self.network.config.encoder_block_out_channels) - 1)

    @property
    def is_trained(self) -> bool:
        """Whether the latents have been measured, which is how its training ends."""
        return bool((self.std != 1).any())

    def encode(self, image: Tensor) -> Tensor:
        """Picture → normalised latents."""
        return (self.network.encode(image).latents - self.mean) / self.std

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents → picture, clamped to [-1, 1]."""
        return self.network.decode(latents * self.std + self.mean).sample.clamp(-1, 1)
