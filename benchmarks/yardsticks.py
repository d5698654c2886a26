"""UNets of sizes that people run, with random weights: what a call costs depends on sizes alone.

`python -m benchmarks.yardsticks NAME FILE` exports one as ONNX. Only building one loads torch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.spec import TOKENS, ModelSpec, engine_specs
from training.presets import PAPER

if TYPE_CHECKING:
    from torch import nn

SEED = 0
NO_ENCODERS = {"features": 0, "audio_features": 0, "clip_image_size": 0, "identity_size": 0, "has_estimators": False}


@dataclass(frozen=True)
class Yardstick:
    """A UNet's diffusers configuration, and the sizes from which its tensor contract follows."""

    unet: Mapping[str, Any]
    model: ModelSpec


YARDSTICKS = {
    # google/ddpm-ema-celebahq-256, 114 M: the UNet of the paper, drawing from noise alone.
    "pixel-256": Yardstick(
        {name: value for name, value in PAPER.unet.items() if name != "class_embed_type"},
        ModelSpec(256, (3, 256, 256), is_latent=False, cond={}, **NO_ENCODERS),  # type: ignore[arg-type]
    ),
    # The demo's kind of UNet for pictures of 256x256: eightfold smaller latents, six tokens, 68 M.
    "latent-256": Yardstick(
        {
            "_class_name": "UNet2DConditionModel",
            "sample_size": 32,
            "in_channels": 8,
            "out_channels": 8,
            "block_out_channels": [128, 256, 384],
            "layers_per_block": 2,
            "down_block_types": ["DownBlock2D"] + ["CrossAttnDownBlock2D"] * 2,
            "up_block_types": ["CrossAttnUpBlock2D"] * 2 + ["UpBlock2D"],
            "cross_attention_dim": 512,
            "attention_head_dim": [2, 4, 6],  # diffusers reads this as the number of heads
            "class_embed_type": "identity",
            "resnet_time_scale_shift": "scale_shift",
        },
        ModelSpec(
            256,
            (8, 32, 32),
            is_latent=True,
            cond={"cond": (512,), "cond_tokens": (len(TOKENS), 512)},
            **NO_ENCODERS,  # type: ignore[arg-type]
        ),
    ),
}


def build(yardstick: Yardstick) -> nn.Module:
    """The same weights on every call; `denoise` takes the inputs of the contract in order. In eval mode."""
    import diffusers
    import torch
    from torch import nn

    from training.model import ClipFaceFusion

    class Denoiser(nn.Module):
        denoise = ClipFaceFusion.denoise if yardstick.model.cond else _denoise_freely

    torch.manual_seed(SEED)
    settings = {name: value for name, value in yardstick.unet.items() if not name.startswith("_")}
    model = Denoiser()
    model.unet = getattr(diffusers, yardstick.unet["_class_name"])(**settings)
    return model.eval()


def export(name: str, file: Path) -> None:
    """Write a yardstick's UNet as ONNX with its weights inside, through the exporter of bundles."""
    from export.exportable import Exportable
    from export.to_onnx import serialize, to_onnx

    yardstick = YARDSTICKS[name]
    file.write_bytes(serialize(to_onnx(Exportable(build(yardstick), engine_specs(yardstick.model)["unet"]))))  # type: ignore[arg-type]


def _denoise_freely(self: Any, sample: Any, timestep: Any) -> Any:
    return self.unet(sample, timestep).sample


if __name__ == "__main__":
    export(sys.argv[1], Path(sys.argv[2]))
