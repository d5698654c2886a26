"""The model's contract with the engine specs, at every size and with both stock UNets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from runtime.spec import engine_specs
from training.checkpoint import checkpoint_sha256, load, save
from training.config import ModelConfig
from training.model import ENGINE_METHODS, ClipFaceFusion, build_unet, cond_width
from training.presets import DEMO, MICRO, MICRO_PIXEL, PAPER
from training.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["a smiling old man", "an angry young woman"], 600, 77)


@pytest.fixture(scope="module", params=[MICRO, MICRO_PIXEL], ids=["latent with tokens", "pixels with cond alone"])
def model(request: pytest.FixtureRequest) -> ClipFaceFusion:
    torch.manual_seed(0)
    return ClipFaceFusion(request.param, TOKENIZER).eval()


@torch.no_grad()
def test_every_engine_method_takes_and_returns_what_its_spec_says(model: ClipFaceFusion) -> None:
    for name, spec in engine_specs(model.spec()).items():
        sizes = {letter: min(2 if letter == "B" else opt, high) for letter, (_, opt, high) in spec.ranges.items()}
        inputs = [
            torch.ones(
                [sizes[d] if isinstance(d, str) else d for d in tensor.shape], dtype=getattr(torch, tensor.dtype)
            )
            for tensor in spec.inputs
        ]
        outputs = getattr(model, ENGINE_METHODS[name])(*inputs)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        for tensor, output in zip(spec.outputs, outputs, strict=True):
            assert list(output.shape) == [sizes[d] if isinstance(d, str) else d for d in tensor.shape], (
                f"{name}.{tensor.name}"
            )


def test_a_checkpoint_comes_back_as_it_was_rounded(model: ClipFaceFusion, tmp_path: Path) -> None:
    save(model, tmp_path / "c", {}, torch.float16)
    again = load(tmp_path / "c")
    for (name, before), (_, after) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        # the latents' statistics are kept as JSON numbers, unrounded
        assert torch.equal(
            before
            if name.startswith("autoencoder.") and before.dim() == 4 and before.shape[0] == 1
            else before.half().float(),
            after,
        )


def test_saving_twice_gives_the_same_hash_and_one_changed_weight_another(model: ClipFaceFusion, tmp_path: Path) -> None:
    save(model, tmp_path / "a", {})
    save(model, tmp_path / "b", {})
    assert checkpoint_sha256(tmp_path / "a") == checkpoint_sha256(tmp_path / "b")
    with torch.no_grad():
        model.conditioner.to_cond.bias[0] += 1
    save(model, tmp_path / "b", {})
    assert checkpoint_sha256(tmp_path / "a") != checkpoint_sha256(tmp_path / "b")


def test_the_papers_unet_is_the_published_one() -> None:
    """google/ddpm-ema-celebahq-256 has 113.67 M parameters and a 512 wide time embedding, the width of `f_final`."""
    with torch.device("meta"):
        unet = build_unet(PAPER)
    assert round(sum(p.numel() for p in unet.parameters()) / 1e6, 2) == 113.67
    assert cond_width(PAPER) == PAPER.features == 512


def test_the_demo_fits_into_the_repository() -> None:
    """Checkpoint and bundle, two bytes a weight each, stay within 64 MB together."""
    with torch.device("meta"):
        model = ClipFaceFusion(DEMO, TOKENIZER)
    assert 2 * 2 * sum(p.numel() for p in model.parameters()) < 60e6


def test_settings_that_cannot_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="UNet2DModel takes none"):
        ModelConfig(**{**MICRO_PIXEL.to_dict(), "token_width": 32})
    with pytest.raises(ValueError, match="unknown entries"):
        ModelConfig.from_dict({**MICRO.to_dict(), "tokens": 1})
