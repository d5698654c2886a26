"""Checkpoints and bundles with random weights: what anything costs depends on sizes alone."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import ClipFaceFusionError

if TYPE_CHECKING:
    from training.config import ModelConfig

VOCABULARY = 400
LEVELS = 6  # of the pixel UNet, halving the side each time, so that the attention in its middle stays small
CHANNELS = (4, 4, 8, 8, 8, 8)


def write_checkpoint(model: ModelConfig, vocabulary: int, folder: Path) -> None:
    """A checkpoint of `model`, its weights rounded to FP16 as shipped ones are."""
    import torch

    from runtime.spec import ModelSpec
    from training.checkpoint import save
    from training.model import ClipFaceFusion
    from training.tokenizer import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["a smiling old man", "an angry woman"], vocabulary, ModelSpec.text_length)
    save(ClipFaceFusion(model, tokenizer), folder, {"data": "none: random weights"}, torch.float16)


def write_pixel_bundle(side: int, folder: Path) -> Path:
    """The bundle of a model that denoises 3 x side x side pictures with small networks, below `folder`. Raises ClipFaceFusionError."""
    from training.presets import MICRO_PIXEL

    if side < 2**LEVELS or side % 2 ** (LEVELS - 1):
        raise ClipFaceFusionError(
            f"got a side of {side}, allowed are multiples of {2 ** (LEVELS - 1)} from {2**LEVELS} on"
        )
    unet = {
        **MICRO_PIXEL.unet,
        "sample_size": side,
        "block_out_channels": list(CHANNELS),
        "down_block_types": ["DownBlock2D"] * LEVELS,
        "up_block_types": ["UpBlock2D"] * LEVELS,
        "norm_num_groups": 2,
    }
    checkpoint, bundle = folder / "checkpoint", folder / f"untrained-{side}"
    write_checkpoint(replace(MICRO_PIXEL, image_size=side, unet=unet), VOCABULARY, checkpoint)
    command = [sys.executable, "-m", "export", str(checkpoint), str(bundle), "--targets", "onnx"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise ClipFaceFusionError(f"the export failed: {done.stdout.strip().splitlines()[-1]}")
    return bundle
