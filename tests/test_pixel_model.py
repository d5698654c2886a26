"""The other stock UNet, `cond` alone on pixels, goes the whole way too: checkpoint → bundle → picture, the same as torch's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

import export.bundle
from export.bundle import export_bundle
from export.exportable import Exportable
from runtime.__main__ import main
from runtime.errors import BundleError
from runtime.manifest import ONNX, Manifest
from runtime.pipeline import Pipeline
from runtime.request import GenerateRequest
from tests.export.traced import trace_from
from training.checkpoint import load, save
from training.model import ClipFaceFusion
from training.presets import MICRO_PIXEL
from training.sampling import sample_images
from training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained checkpoint and its bundle. Its ε is chaos: the last bit of one step decides the picture twenty on."""
    folder = tmp_path_factory.mktemp("pixel")
    torch.manual_seed(0)
    model = ClipFaceFusion(MICRO_PIXEL, train_tokenizer(["a face"], 600, 77))
    torch.nn.init.normal_(model.conditioner.to_cond.weight, std=0.2)  # W_out starts at zero
    save(model, folder / "checkpoint", {}, torch.float16)
    export_bundle(folder / "checkpoint", folder / "bundle")
    return folder


def test_a_pixel_model_without_tokens_draws_what_torch_draws(exported: Path) -> None:
    with Pipeline.open(exported / "bundle") as pipeline:
        assert list(pipeline.bundle.model.cond) == ["cond"] and not pipeline.bundle.model.is_latent
        image = pipeline(GenerateRequest(age=30, seed=3, num_inference_steps=5)).image
        other = pipeline(GenerateRequest(age=80, seed=3, num_inference_steps=5)).image
    model = load(exported / "checkpoint")
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


def test_a_chaotic_model_is_exported_with_the_mark_and_verify_holds_it_to_that(
    exported: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = Manifest.read(exported / "bundle")
    figures = manifest.parity[ONNX]
    assert max(figures["step"]["relative_error"]) < 1e-5 < 0.01 < figures["trajectory"]["relative_error"]
    assert figures["sensitivity"]["trajectory"] > 0.01 and not manifest.parity_missed
    assert main(["verify", str(exported / "bundle")]) == 0
    assert "(torch against itself " in capsys.readouterr().out


def test_a_wrong_epsilon_of_a_chaotic_model_is_refused(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one in a thousand: the walk cannot tell, a single call does."""

    def scale_epsilon(reference: Exportable) -> onnx.ModelProto:
        network = trace_from(exported / "bundle")(reference)
        for weight in network.graph.initializer:
            if reference.spec.name == "unet" and weight.name.endswith("conv_out.weight"):
                weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
        return network

    monkeypatch.setattr(export.bundle, "to_onnx", scale_epsilon)
    with pytest.raises(BundleError, match=r"engine unet: relative error .*, limit 0\.0001; no bundle was written"):
        export_bundle(exported / "checkpoint", tmp_path / "bundle")
