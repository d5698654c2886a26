"""What an ablation does, before it does it: which checkpoint, how long, how many pictures; and the jobs that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training import checkpoint
from training.comparison.rows import ROWS, TableRow
from training.config import LossConfig, ModelConfig, StageConfig, TrainConfig
from training.data.cache import CacheKey
from training.evaluation.making import ALL, MeasureSettings

SHOTS, TEST_SHOTS = 4, 2
WARM_UP, RAMP = 0.1, 0.2  # shares of a row's steps


@dataclass(frozen=True)
class Plan:
    """What all results of one folder have in common. `people` of the training half are drawn to fine-tune on, `count` held-out pictures
    asked for; `steps`, `batch_size` and `learning_rate` are those of every row, `inference_steps` those of every picture.

    `base_sha256` and `judges_sha256` say which checkpoint and judges these are.
    """

    base_sha256: str
    judges_sha256: str
    steps: int
    batch_size: int
    learning_rate: float
    people: int
    count: int
    inference_steps: int
    world_seed: int
    precision: str

    def __post_init__(self) -> None:
        if self.people < 2:
            raise ValueError(f"people {self.people} must be at least 2: a batch needs somebody else")
        self.measuring(ROWS["full"], 0)  # count and inference_steps
        self._stage()  # steps, batch_size and learning_rate

    def training(self, model: ModelConfig, row: TableRow, seed: int) -> TrainConfig:
        """The settings of one row."""
        full = TrainConfig(
            model=model,
            stages={"consistency": self._stage()},
            losses=LossConfig(ramp_steps=round(RAMP * self.steps)),
            people=self.people,
            shots=SHOTS,
            voices=self.people,
            precision=self.precision,
            preview=False,
            seed=seed,
        )
        return row.applied(full)

    def measuring(self, row: TableRow, seed: int) -> MeasureSettings:
        """Everything that the row leaves is given at once; pictures and noise depend on the seed alone."""
        return MeasureSettings(
            count=self.count, seeds=(seed,), steps=self.inference_steps, conditions=(ALL,), never=row.never
        )

    def training_world(self, image_size: int) -> CacheKey:
        """Whom the rows are fine-tuned on."""
        return CacheKey(self.world_seed, self.people, SHOTS, self.people, image_size)

    def test_world(self, image_size: int) -> CacheKey:
        """Whom they are judged on: half of the pictures are asked for, the others compared with."""
        return CacheKey(self.world_seed, self.count, TEST_SHOTS, self.count, image_size, split="test")

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    def differences(self, other: Mapping[str, Any]) -> list[str]:
        """What another plan's JSON form has otherwise."""
        mine = self.to_dict()
        return [f"{name} {other.get(name)} → {value}" for name, value in mine.items() if other.get(name) != value]

    def _stage(self) -> StageConfig:
        return StageConfig(
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=round(WARM_UP * self.steps),
            checkpoint_every=max(1, self.steps // 2),
        )


@dataclass(frozen=True)
class Job:
    """One row with one seed; `folder` is its place below the ablation's."""

    row: TableRow
    seed: int

    @property
    def folder(self) -> Path:
        """Relative."""
        return Path("rows") / self.row.name / f"seed-{self.seed}"

    def __str__(self) -> str:
        return f"{self.row.name} seed {self.seed}"


def jobs(names: list[str], seeds: list[int]) -> list[Job]:
    """The rows in the table's order: key rows with every seed, the others with the first; first seeds first."""
    rows = [row for name, row in ROWS.items() if name in names]
    first = [Job(row, seeds[0]) for row in rows]
    return first + [Job(row, seed) for seed in seeds[1:] for row in rows if row.is_key]


def read_plan(base: Path, judges_sha256: str, **settings: Any) -> Plan:
    """A plan for the checkpoint `base`."""
    return Plan(base_sha256=checkpoint.checkpoint_sha256(base), judges_sha256=judges_sha256, **settings)
