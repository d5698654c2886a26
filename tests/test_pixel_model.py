"""The other stock UNet, `cond` alone on pixels, goes the whole way too: checkpoint → bundle → picture, the same as torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from export.bundle import export_bundle
from runtime.pipeline import Pipeline
from runtime.request import GenerateRequest
from training.checkpoint import load, save
from training.model import ClipFaceFusion
from training.presets import MICRO_PIXEL
from training.sampling import sample_images
from training.tokenizer import train_tokenizer


def test_a_pixel_model_without_tokens_draws_what_torch_draws(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ClipFaceFusion(MICRO_PIXEL, train_tokenizer(["a face"], 600, 77))
    torch.nn.init.normal_(model.conditioner.to_cond.weight, std=0.2)  # W_out starts at zero
    with torch.no_grad():  # untrained, a whole ε is chaos: the last bit of one step decides the picture twenty steps on
        model.unet.conv_out.weight.mul_(0.01)
    save(model, tmp_path / "checkpoint", {}, torch.float16)
    export_bundle(tmp_path / "checkpoint", tmp_path / "bundle")
    with Pipeline.open(tmp_path / "bundle") as pipeline:
        assert list(pipeline.bundle.model.cond) == ["cond"] and not pipeline.bundle.model.is_latent
        image = pipeline(GenerateRequest(age=30, seed=3, num_inference_steps=5)).image
        other = pipeline(GenerateRequest(age=80, seed=3, num_inference_steps=5)).image
    model = load(tmp_path / "checkpoint")
    spec = model.spec()
    given = torch.zeros(1, 9)
    given[0, 6] = 1  # age
    widths = (spec.features,) * 3 + (spec.audio_features,) + (spec.features,) * 3
    with torch.no_grad():
        cond = model.fuse(
            *(torch.zeros(1, width) for width in widths),
            torch.tensor([[30.0]]),
            torch.zeros(1, 8),
            torch.zeros(1, 2),
            given,
        )
    expected = sample_images(model, cond, 3, 5, MICRO_PIXEL.guidance_scale)[0].numpy().transpose(1, 2, 0)
    assert np.abs(image - np.rint((expected + 1) * 127.5)).max() <= 1
    assert not np.array_equal(image, other)
