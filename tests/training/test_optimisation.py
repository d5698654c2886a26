"""What one step does to weights, averages, statistics and learning rate, by arithmetic."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from training.config import StageConfig
from training.optimisation import MAX_GRADIENT_NORM, Optimisation, learning_rate
from training.processes import Processes

CONFIG = StageConfig(steps=10, batch_size=4, learning_rate=0.1, warmup_steps=4)


def optimisation(module: nn.Module, parts: int = 1, config: StageConfig = CONFIG) -> Optimisation:
    return Optimisation(module, config, precision="fp32", parts=parts, processes=Processes())


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    config = dataclasses.replace(CONFIG, decay=False)
    assert [learning_rate(config, step) for step in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])
    assert learning_rate(CONFIG, 5) == pytest.approx(0.1 * 0.5) and learning_rate(CONFIG, 9) == pytest.approx(0.01)
    assert learning_rate(dataclasses.replace(CONFIG, warmup_steps=0), 0) == 0.1


def test_the_gradient_is_the_mean_over_the_parts() -> None:
    weight = nn.Linear(1, 1, bias=False)
    run = optimisation(weight, parts=2)
    run.start()
    for factor in (0.2, 0.6):
        run.add(factor * weight.weight.sum())
    assert run.gradient_norm() == pytest.approx(0.4)
    assert weight.weight.grad is not None and weight.weight.grad.item() == pytest.approx(0.4)


def test_gradients_are_clipped_and_the_norm_is_that_before() -> None:
    weight = nn.Linear(1, 1, bias=False)
    run = optimisation(weight)
    run.start()
    run.add(30 * weight.weight.sum())
    assert run.gradient_norm() == pytest.approx(30.0)
    assert weight.weight.grad is not None and weight.weight.grad.item() == pytest.approx(MAX_GRADIENT_NORM)


def test_batch_statistics_of_a_step_are_the_mean_over_its_parts_in_any_order() -> None:
    """Momentum 0.1 from mean 0: batches of mean 1 and 3 leave 0.1 and 0.3, so 0.2; one after the other they would leave 0.39."""
    for order in ((1.0, 3.0), (3.0, 1.0)):
        norm = nn.BatchNorm1d(1)
        run = optimisation(norm, parts=2)
        run.start()
        for mean in order:
            run.add(norm(torch.tensor([[mean - 1], [mean + 1]])).sum())
        run.gradient_norm()
        assert norm.running_mean is not None and norm.running_mean.item() == pytest.approx(0.2)
        assert norm.num_batches_tracked is not None and norm.num_batches_tracked.item() == 1


def test_the_moving_average_follows_faster_at_first() -> None:
    weight = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(weight.weight)
    run = optimisation(weight, config=dataclasses.replace(CONFIG, ema_decay=0.99, weight_decay=0.0, warmup_steps=0))
    run.start()
    run.add(weight.weight.sum())
    run.gradient_norm()
    run.step(0)
    assert weight.weight.item() == pytest.approx(-0.1, rel=1e-4)  # AdamW's first step is the learning rate
    assert run.average["weight"].item() == pytest.approx(-0.09, rel=1e-4)  # a decay of 1/10
    with run.averaged():
        assert weight.weight.item() == pytest.approx(-0.09, rel=1e-4)
    assert weight.weight.item() == pytest.approx(-0.1, rel=1e-4)


def test_frozen_parameters_are_neither_trained_nor_decayed() -> None:
    module = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).requires_grad_(False))
    before = module[1].weight.item()
    run = optimisation(module, config=dataclasses.replace(CONFIG, weight_decay=0.5, ema_decay=0.5))
    run.start()
    run.add(module(torch.ones(1, 1)).sum())
    run.gradient_norm()
    run.step(0)
    assert module[1].weight.item() == before and set(run.average) == {"0.weight", "0.bias"}
