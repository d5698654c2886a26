"""A checkpoint's figures on held-out data, seed by seed: what `evaluate` reports and what an ablation compares."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training import features as feature_files
from training.data.cache import DataCache
from training.evaluation import rating
from training.evaluation.diversity import rate_spread
from training.evaluation.figure import Figure, metric_of
from training.evaluation.looks import rate_looks
from training.evaluation.lpips import LPIPS
from training.evaluation.making import ALL, CHANGED, Made, MeasureSettings, make, plan
from training.evaluation.panel import Panel, Reading
from training.evaluation.person import rate_person
from training.evaluation.rating import Rating, Ratings, Skip, Trial
from training.evaluation.scene import Scene
from training.examples import Examples
from training.features import FeatureCache
from training.model import ClipFaceFusion

UNKNOWN_L_CM = "whether L_CM was on is not recorded"


@dataclass(frozen=True)
class SeedEvidence:
    """What one seed's figures rest on, for plots: `made` per condition, the judges' `readings` of them, the identity `trials`, the
    radial `spectra`."""

    made: Mapping[str, Made]
    readings: Mapping[str, Reading]
    trials: Mapping[str, Trial]
    spectra: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """`figures` by key, in the order of the report; `skipped` maps what could not be measured to the reason; `evidence` is of the
    first seed; `scene` what was looked at."""

    figures: Mapping[str, Figure]
    skipped: Mapping[str, str]
    evidence: SeedEvidence
    scene: Scene


def measure(
    model: ClipFaceFusion,
    cache: DataCache,
    judges: Panel,
    settings: MeasureSettings,
    features: FeatureCache | None = None,
) -> dict[str, Figure]:
    """The figures of `model` on the held-out `cache`, read by `judges`. What the data cannot show has no figure.

    `features` are those of `training.features.build` for this model's frozen encoders and this cache; computed where not given.
    The model is left in eval mode.
    """
    if features is None:
        with tempfile.TemporaryDirectory() as folder:
            features = feature_files.build(Path(folder) / "features.safetensors", model, cache)
            examples = Examples(model, cache, features, settings.never)
            return dict(evaluate(examples, judges, settings).figures)
    return dict(evaluate(Examples(model, cache, features, settings.never), judges, settings).figures)


def evaluate(
    examples: Examples,
    judges: Panel,
    settings: MeasureSettings,
    lpips: LPIPS | None = None,
    l_cm: str = UNKNOWN_L_CM,
    heard: np.ndarray | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Evaluation:
    """Make and measure, seed by seed. `l_cm` says whether L_CM was on, `heard` is `Scene.heard`, `report` is told the progress."""
    examples.model.eval()
    scene = Scene.of(examples, judges, settings.count, lpips, heard)
    if len(scene.targets) < settings.count:
        report(f"{len(scene.targets)} held-out targets of {settings.count} wanted: the data has no more")
    ratings: list[Ratings] = []
    first: SeedEvidence | None = None
    for seed in settings.seeds:
        asked, absent = plan(examples, scene.targets, settings, seed)
        if not asked:
            raise ValueError(f"nothing can be asked for: {absent}")
        report(f"seed {seed}: {sum(len(request.rows) for request in asked)} pictures at {settings.steps} steps")
        evidence, rated = _rate(scene, make(examples, asked, settings, seed), l_cm)
        rated |= rate_spread(scene, settings, seed)
        rated |= {f"condition {name}": Skip(reason) for name, reason in absent.items()}
        ratings.append(rated)
        first = first or evidence
    assert first is not None  # there is at least one seed
    figures, skipped = _over_seeds(ratings)
    return Evaluation(figures, skipped, first, scene)


def _rate(scene: Scene, made: list[Made], l_cm: str) -> tuple[SeedEvidence, Ratings]:
    readings = {part.asked.condition: scene.judges.read(part.pictures) for part in made}
    everything = np.concatenate([part.pictures for part in made])
    rated, spectra = rating.rate_distribution(
        scene, everything, np.concatenate([reading.look for reading in readings.values()])
    )
    trials = {}
    for part in made:
        condition = part.asked.condition
        reading = readings[condition]
        if condition == ALL:
            rated |= rating.rate_likeness(scene, part)
            rated |= rating.rate_direction(scene, part)
            rated |= rating.rate_consistency(scene, part, l_cm)
        if condition in (ALL, "reference", CHANGED) and part.asked.told["identity"].all():
            trials[condition] = rating.try_identity(scene, part, reading)
            rated |= rating.rate_identity(scene, part, reading, trials[condition])
        if condition == CHANGED:
            rated |= rate_person(scene, part, reading)
        if condition in (ALL, "text"):
            rated |= rating.rate_words(scene, part)
        if condition == "text":
            rated |= rate_looks(scene, part, reading)
        if condition in (ALL, "text", "audio", "age"):
            rated |= rating.rate_age(scene, part, reading)
        if condition in (ALL, "text", "audio", "emotion"):
            rated |= rating.rate_emotion(scene, part, reading)
    return SeedEvidence({part.asked.condition: part for part in made}, readings, trials, spectra), rated


def _over_seeds(ratings: list[Ratings]) -> tuple[dict[str, Figure], dict[str, str]]:
    """Figures of what every seed could measure, in order of appearance; the rest is skipped, with the first reason given."""
    figures: dict[str, Figure] = {}
    skipped: dict[str, str] = {}
    for key in _in_order(ratings):
        found = [rated.get(key, Skip("not every seed's pictures have what it needs")) for rated in ratings]
        reasons = [entry.reason for entry in found if isinstance(entry, Skip)]
        measured = [entry for entry in found if isinstance(entry, Rating)]
        if not reasons and any(math.isnan(entry.value) for entry in measured):
            reasons = ["it has no value on such pictures"]
        if reasons:
            skipped[key] = reasons[0]
            continue
        names = [name for name in measured[0].beside if all(name in entry.beside for entry in measured)]
        figures[key] = Figure(
            tuple(entry.value for entry in measured),
            metric_of(key).direction,
            min(entry.count for entry in measured),
            {name: float(np.mean([entry.beside[name] for entry in measured])) for name in names},
            measured[0].note,
        )
    return figures, skipped


def _in_order(ratings: Iterable[Ratings]) -> list[str]:
    return list(dict.fromkeys(key for rated in ratings for key in rated))
