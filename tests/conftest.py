"""Session fixtures: one untrained `micro` checkpoint and the bundle exported from it, made once per run."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def micro_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint of the `micro` latent model with random weights from seed 0."""
    import torch

    from training.checkpoint import save
    from training.model import ClipFaceFusion
    from training.presets import PRESETS
    from training.tokenizer import train_tokenizer

    torch.manual_seed(0)
    captions = ["a smiling old man with glasses", "an angry young woman, 25 years old", "a sad boy with red hair"]
    model = ClipFaceFusion(PRESETS["micro"].model, train_tokenizer(captions, 600, 77))
    # W_out starts at zero; a test bundle whose conditions have no effect would prove nothing.
    torch.nn.init.normal_(model.conditioner.to_cond.weight, std=0.2)
    folder = tmp_path_factory.mktemp("micro") / "checkpoint"
    save(model, folder, {"data": "none: random weights for tests"}, torch.float16)
    return folder


@pytest.fixture(scope="session")
def micro_bundle(micro_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle exported from `micro_checkpoint`."""
    from export.bundle import export_bundle

    folder = tmp_path_factory.mktemp("micro-bundle") / "bundle"
    export_bundle(micro_checkpoint, folder)
    return folder


@pytest.fixture(scope="session")
def full_bundle(micro_checkpoint: Path, micro_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`micro_bundle` with FP16 networks, and with TensorRT-RTX plans for three GPUs where that library is installed."""
    from importlib.util import find_spec

    import export.bundle
    from export.targets import Targets
    from tests.export.traced import trace_from

    targets = "onnx-fp16,tensorrt-rtx:sm75+sm89+sm120" if find_spec("tensorrt_rtx") else "onnx-fp16"
    folder = tmp_path_factory.mktemp("full-bundle") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.bundle, "to_onnx", trace_from(micro_bundle))
        export.bundle.export_bundle(micro_checkpoint, folder, targets=Targets.parse(targets))
    return folder
