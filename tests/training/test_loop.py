"""The loop: exact resume, atomic state, divergence. On a stage of four numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training.config import StageConfig
from training.loop import TrainingDivergedError, train

CONFIG = StageConfig(steps=10, batch_size=4, learning_rate=0.1, warmup_steps=2, ema_decay=0.5, checkpoint_every=3)


class Line:
    """Fits y = 3x with dropout, so that any random state that a resume loses would show."""

    name = "line"

    def __init__(self, poison_at: int | None = None) -> None:
        torch.manual_seed(1)
        self.module = nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.5), nn.Linear(3, 1))
        self.calls, self.poison_at = 0, poison_at

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        self.calls += 1
        x = torch.from_numpy(rng.normal(size=(batch_size, 1)).astype(np.float32))
        loss = (self.module(x) - 3 * x).square().mean()
        return {"loss": loss * (float("nan") if self.calls == self.poison_at else 1)}

    def preview(self, path: Path) -> None:
        path.write_bytes(b"seen")


def weights(stage: Line) -> list[Tensor]:
    return [p.detach().clone() for p in stage.module.parameters()]


def run(stage: Line, folder: Path, stop_after: int | None = None) -> list[Tensor]:
    train(stage, CONFIG, folder, precision="fp32", seed=5, stop_after=stop_after)
    return weights(stage)


@pytest.mark.parametrize("killed_after", [1, 3, 5, 9])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(tmp_path: Path, killed_after: int) -> None:
    whole = run(Line(), tmp_path / "whole")
    run(Line(), tmp_path / "parts", stop_after=killed_after)
    resumed = run(Line(), tmp_path / "parts")
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    stage = Line()
    train(stage, CONFIG, tmp_path / "a", precision="fp32", seed=6)
    assert not all(torch.equal(a, b) for a, b in zip(run(Line(), tmp_path / "b"), weights(stage), strict=True))


def test_the_finished_stage_holds_the_moving_average(tmp_path: Path) -> None:
    averaged = run(Line(), tmp_path / "average")
    stage = Line()
    plain = StageConfig(**{**CONFIG.__dict__, "ema_decay": 0.0})
    train(stage, plain, tmp_path / "plain", precision="fp32", seed=5)
    assert not all(torch.equal(a, b) for a, b in zip(averaged, weights(stage), strict=True))
    assert not stage.module.training


def test_a_half_written_state_is_never_resumed_from(tmp_path: Path) -> None:
    run(Line(), tmp_path, stop_after=4)
    (tmp_path / "state.partial").mkdir()
    (tmp_path / "state.partial" / "state.safetensors").write_bytes(b"cut off")
    assert all(
        torch.equal(a, b) for a, b in zip(run(Line(), tmp_path), run(Line(), tmp_path.with_name("whole")), strict=True)
    )


def test_a_loss_that_is_not_a_number_stops_with_the_last_state_intact(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="step 4"):
        run(Line(poison_at=5), tmp_path)
    assert [path.name for path in tmp_path.glob("state-*")] == ["state-00000003"]
    assert all(
        torch.equal(a, b) for a, b in zip(run(Line(), tmp_path), run(Line(), tmp_path.with_name("whole")), strict=True)
    )
