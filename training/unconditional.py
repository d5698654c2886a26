"""A published unconditional pipeline as it is: a folder of diffusers with a UNet, a scheduler and perhaps an autoencoder, nothing to tell it.

The bundle has a `unet` engine without `cond`, and `encoder` and `decoder` where the pipeline denoises latents. Layout of the folder:
`model_index.json`, and per component a folder of that name, or its files beside the index, as the first pipelines were published.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers import UNet2DModel
from torch import Tensor, nn

from runtime.errors import BundleError
from runtime.schedule import Schedule
from runtime.spec import ModelSpec
from training.autoencoder import Autoencoder
from training.published import read_autoencoder, read_network

INDEX = "model_index.json"
AUTOENCODERS = ("vqvae", "vae")  # what pipelines call theirs


@dataclass(frozen=True)
class Config:
    """What the exporter asks of a model's configuration. Without conditions there is nothing to guide towards."""

    guidance_scale: float = 1.0


class Unconditional(nn.Module):
    """The pipeline's networks by the names and signatures of `training.model.ClipFaceFusion`."""

    config = Config()

    def __init__(self, unet: UNet2DModel, schedule: Schedule, autoencoder: Autoencoder | None) -> None:
        super().__init__()
        self.unet, self.schedule, self.autoencoder = unet, schedule, autoencoder

    @classmethod
    def read(cls, folder: Path) -> Unconditional:
        """Read a pipeline in float32, in eval mode. Raises BundleError for one that is conditional, or that we cannot denoise."""
        index = json.loads((folder / INDEX).read_text())
        components = {name for name, value in index.items() if isinstance(value, list) and None not in value}
        needed, autoencoders = components & {"unet", "scheduler"}, components & set(AUTOENCODERS)
        if len(needed) < 2 or len(autoencoders) > 1 or components - needed - autoencoders:
            raise BundleError(
                f"{folder.name}: a {index.get('_class_name')} of {', '.join(sorted(components))}; as they are only unconditional "
                f"pipelines are exported, of unet, scheduler and at most one of {', '.join(AUTOENCODERS)}. Train a checkpoint from its UNet: "
                "python -m training --published unet=DIR"
            )
        try:
            scheduler = json.loads((component(folder, "scheduler") / "scheduler_config.json").read_text())
            schedule = Schedule.from_diffusers(scheduler)
            unet = read_network(UNet2DModel, component(folder, "unet"), low_cpu_mem_usage=False)
            networks = [read_autoencoder(component(folder, name)) for name in AUTOENCODERS if name in components]
        except (OSError, ValueError, RuntimeError) as error:
            raise BundleError(f"{folder.name}: cannot load the pipeline: {error}") from error
        if (
            unet.config.out_channels != unet.config.in_channels
            or unet.config.class_embed_type
            or unet.config.num_class_embeds
        ):
            raise BundleError(
                f"{folder.name}: its UNet has {unet.config.in_channels} channels in, {unet.config.out_channels} out and class embedding "
                f"{unet.config.class_embed_type or unet.config.num_class_embeds}; only noise predictions without classes are exported"
            )
        return cls(unet, schedule, Autoencoder(networks[0]) if networks else None).float().eval()

    def spec(self) -> ModelSpec:
        """No condition, and so nothing that makes one."""
        size = self.unet.config.sample_size
        return ModelSpec(
            image_size=size if self.autoencoder is None else size * self.autoencoder.factor,
            sample_shape=(self.unet.config.in_channels, size, size),
            is_latent=self.autoencoder is not None,
            features=0,
            audio_features=0,
            clip_image_size=0,
            identity_size=0,
            cond={},
            has_estimators=False,
        )

    def uncond(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def denoise(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """Sample (B, C, H, W) at `timestep` (B,) → `noise_pred` of the same shape."""
        return self.unet(sample, timestep).sample

    def encode(self, image: Tensor) -> Tensor:
        """Picture in [-1, 1] → normalised latents."""
        assert self.autoencoder is not None, "a pixel pipeline has no encoder"
        return self.autoencoder.encode(image)

    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents → picture in [-1, 1]."""
        assert self.autoencoder is not None, "a pixel pipeline has no decoder"
        return self.autoencoder.decode(latents)


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a pipeline of diffusers."""
    return (folder / INDEX).is_file()


def provenance(folder: Path) -> dict[str, Any]:
    """What the manifest can say of where the weights come from."""
    index = json.loads((folder / INDEX).read_text())
    return {"pipeline": index.get("_class_name"), "diffusers": index.get("_diffusers_version"), "folder": folder.name}


def component(folder: Path, name: str) -> Path:
    """Where a component's files lie."""
    return folder / name if (folder / name).is_dir() else folder
