"""The rows of the ablation table, each a change of settings and nothing else (paper, Table 7).

A row is fine-tuned from the same checkpoint as all others, with the same seeds, so the same pictures, timesteps and noise in the same
order. What a row takes away is missing in its evaluation too, as in the paper: without audio, nobody speaks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from training.config import TrainConfig


@dataclass(frozen=True)
class TableRow:
    """`losses` are fields of `LossConfig` with other values, `never` modalities nobody is given, `fusion` another fusion.

    A row that `is_key` is run with every seed, the others with the first. `paper` holds the article's own figures by our names:
    age and emotion accuracy as shares, its "FID" as `id_sim`.
    """

    name: str
    title: str
    losses: Mapping[str, Any] = field(default_factory=dict)
    never: tuple[str, ...] = ()
    fusion: str | None = None
    is_trained: bool = True
    is_key: bool = False
    paper: Mapping[str, float] = field(default_factory=dict)

    def applied(self, config: TrainConfig) -> TrainConfig:
        """`config` with this row's change."""
        return replace(
            config,
            losses=replace(config.losses, **self.losses),
            never=(*config.never, *self.never),
            model=replace(config.model, fusion=self.fusion or config.model.fusion),
        )


PAPER_COLUMNS = ("ssim", "lpips", "s_dir", "age_within_5", "emotion_accuracy", "id_sim", "cmc")
BASE, CONTROL, FULL = "base", "denoising", "full"


def _paper(*values: float) -> dict[str, float]:
    return dict(zip(PAPER_COLUMNS, values, strict=True))


_ROWS = (
    # Ours: where everything starts, and what more training alone does.
    TableRow(BASE, "base, not fine-tuned", is_trained=False, is_key=True),
    TableRow(CONTROL, "fine-tuned on L_simple alone", losses={"scale": 0.0, "cross_modal": 0.0}, is_key=True),
    TableRow(FULL, "full", is_key=True, paper=_paper(0.921, 0.069, 0.18, 0.923, 0.907, 0.73, 0.89)),
    TableRow(
        "without-audio", "without audio", never=("audio",), paper=_paper(0.904, 0.081, 0.17, 0.902, 0.821, 0.70, 0.76)
    ),
    TableRow("without-age", "without age", never=("age",), paper=_paper(0.893, 0.092, 0.16, 0.845, 0.891, 0.68, 0.74)),
    TableRow(
        "without-emotion",
        "without emotion",
        never=("emotion",),
        paper=_paper(0.901, 0.085, 0.16, 0.897, 0.798, 0.69, 0.73),
    ),
    TableRow(
        "without-text", "without text", never=("text",), paper=_paper(0.893, 0.092, 0.14, 0.884, 0.835, 0.67, 0.71)
    ),
    TableRow(
        "without-fusion",
        "without multi-modal fusion",
        fusion="mean",
        paper=_paper(0.897, 0.087, 0.15, 0.881, 0.852, 0.65, 0.75),
    ),
    TableRow(
        "without-alignment",
        "without audio-visual alignment",
        losses={"audio_visual": 0.0},
        paper=_paper(0.899, 0.083, 0.16, 0.893, 0.834, 0.68, 0.78),
    ),
    TableRow(
        "without-age-emotion-losses",
        "without age and emotion losses",
        losses={"age": 0.0, "emotion": 0.0},
        paper=_paper(0.902, 0.080, 0.16, 0.867, 0.849, 0.67, 0.76),
    ),
    TableRow(
        "without-identity",
        "without identity preservation",
        losses={"identity": 0.0},
        paper=_paper(0.896, 0.089, 0.15, 0.889, 0.856, 0.60, 0.74),
    ),
    TableRow(
        "without-cmc-loss",
        "without CMC loss",
        losses={"cross_modal": 0.0},
        paper=_paper(0.900, 0.082, 0.16, 0.901, 0.882, 0.69, 0.73),
    ),
    TableRow(
        "without-reference",
        "without reference",
        never=("reference",),
        paper=_paper(0.905, 0.080, 0.17, 0.890, 0.870, 0.65, 0.76),
    ),
)
ROWS: Mapping[str, TableRow] = {row.name: row for row in _ROWS}
