"""The optional autoencoder: a stock network of diffusers, with latents normalised to unit variance.

Ours is an `AutoencoderTiny`: it has no normalisation layers, so it may be trained on crops. A published `AutoencoderKL`, `VQModel` or
`AutoencoderTiny` stands in its place as it is. Letters: B batch, C latent channels, H and W latent size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, VQModel
from diffusers.models.autoencoders.vae import AutoencoderTinyBlock
from torch import Tensor, nn

Network: TypeAlias = AutoencoderTiny | AutoencoderKL | VQModel
NETWORKS: Mapping[str, type[Network]] = {
    network.__name__: network for network in (AutoencoderTiny, AutoencoderKL, VQModel)
}


def build_network(settings: Mapping[str, Any]) -> AutoencoderTiny:
    """`settings`: latent_channels, block_out_channels (all equal, one per resolution), num_blocks per resolution from the picture down.

    `num_decoder_blocks` says where the decoder has others: without a block at a resolution it cannot draw an edge there, only blend.
    """
    channels, blocks = tuple(settings["block_out_channels"]), tuple(settings["num_blocks"])
    decoder_blocks = tuple(settings.get("num_decoder_blocks", blocks))
    return AutoencoderTiny(
        latent_channels=settings["latent_channels"],
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        num_encoder_blocks=blocks,
        num_decoder_blocks=decoder_blocks[::-1],
    )


class Autoencoder(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] ↔ normalised latents (B, C, H, W): zero mean and unit variance per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.take(network)

    def take(self, network: Network) -> None:
        """Use `network`, with the statistics of latents that its own configuration gives: mean 0 and variance 1 where it says nothing.

        diffusers' pipelines denoise `(latents - shift_factor) * scaling_factor`, or with statistics by channel
        `(latents - latents_mean) * scaling_factor / latents_std`.
        """
        self.network = network
        config = network.config
        shift, spread = config.get("latents_mean"), config.get("latents_std")
        mean = torch.tensor(shift if shift is not None else [config.get("shift_factor") or 0.0])
        std = torch.tensor(spread if spread is not None else [1.0]) / config.scaling_factor
        shape = (1, config.get("vq_embed_dim") or config.latent_channels, 1, 1)
        self.register_buffer("mean", mean.float().view(1, -1, 1, 1).expand(shape).contiguous())
        self.register_buffer("std", std.float().view(1, -1, 1, 1).expand(shape).contiguous())

    def deepen(self, settings: Mapping[str, Any]) -> None:
        """Give the decoder the blocks that `settings` of `build_network` name. What it has keeps its weights; new blocks are untrained.

        The encoder stays, and so do the latents and their statistics. Raises ValueError if more than the decoder's blocks would change.
        """
        network = build_network(settings)
        try:
            network.encoder.load_state_dict(self.network.encoder.state_dict())
        except RuntimeError as error:
            raise ValueError(
                f"only the blocks of the decoder can change, and {dict(settings)} has another encoder"
            ) from error
        for old, new in zip(_resolutions(self.network.decoder), _resolutions(network.decoder), strict=True):
            for kind in (True, False):
                before, after = ([layer for layer in layers if _is_block(layer) is kind] for layers in (old, new))
                for source, target in zip(before, after, strict=False):
                    target.load_state_dict(source.state_dict())
        self.network = network.to(self.mean.device)

    @property
    def factor(self) -> int:
        """Picture pixels per latent pixel, along one side."""
        config = self.network.config
        return 2 ** (len(config.get("encoder_block_out_channels") or config.block_out_channels) - 1)

    def sample_shape(self, image_size: int) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a picture of that size."""
        return self.mean.shape[1], image_size // self.factor, image_size // self.factor

    @property
    def is_trained(self) -> bool:
        """Whether the latents have been measured, which is how its training ends."""
        return bool((self.std != 1).any())

    def encode(self, image: Tensor) -> Tensor:
        """Picture → normalised latents."""
        return (self.latents(image) - self.mean) / self.std

    def latents(self, image: Tensor) -> Tensor:
        """Picture → latents as the network makes them: of `AutoencoderKL` the distribution's mean, without its noise."""
        encoded = self.network.encode(image)
        return encoded.latent_dist.mean if isinstance(self.network, AutoencoderKL) else encoded.latents

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents → picture, clamped to [-1, 1]."""
        return self.network.decode(latents * self.std + self.mean).sample.clamp(-1, 1)


def _resolutions(decoder: nn.Module) -> list[list[nn.Module]]:
    """The layers of `AutoencoderTiny`'s decoder by the size that they work at, from latents up."""
    found: list[list[nn.Module]] = [[]]
    for layer in decoder.layers:
        if isinstance(layer, nn.Upsample):
            found.append([])
        found[-1].append(layer)
    return found


def _is_block(layer: nn.Module) -> bool:
    return isinstance(layer, AutoencoderTinyBlock)
