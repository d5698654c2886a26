"""A plan of a few steps, and a micro ablation's worlds and features, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.comparison.plan import Plan


@pytest.fixture(scope="session")
def plan() -> Plan:
    """Four steps on six people."""
    return Plan(
        base_sha256="b",
        judges_sha256="j",
        steps=4,
        batch_size=4,
        learning_rate=1e-3,
        people=6,
        count=10,
        inference_steps=2,
        world_seed=3,
        precision="fp32",
    )


@pytest.fixture(scope="session")
def judges(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained judges of 32 pixels."""
    import torch

    from training.evaluation import panel

    torch.manual_seed(0)
    untrained = panel.Panel(panel.PanelConfig(image_size=32, channels=(8, 16), features=32, look=16))
    panel.round_weights(untrained)
    folder = tmp_path_factory.mktemp("judges")
    panel.save(untrained, folder, {})
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, plan: Plan, judges: Path, micro_checkpoint: Path):  # type: ignore[no-untyped-def]
    """A prepared ablation without any result."""
    from training.comparison.work import Place, prepare

    prepared = Place(micro_checkpoint, judges, tmp_path_factory.mktemp("ablation"))
    prepare(prepared, plan, processes=1)
    return prepared
