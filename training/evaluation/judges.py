"""`python -m training judges`: train the judges on people of their own, measure them on others, write both files.

Their world has a seed of its own, so none of its people is in any training; all are of the test half, where every second person has a
combination of traits that training never sees: a judge must not be a stranger to those. Everything resumes: what is finished in
the work folder is not done again.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from runtime.errors import BundleError, ClipFaceFusionError
from training.config import StageConfig
from training.data.cache import WORLD, CacheKey, DataCache, build
from training.data.looks import prompted_looks
from training.data.synthetic.traits import TRAITS
from training.durable import write_json, write_tensors
from training.evaluation import age, distribution, emotion, identity, looks, traits
from training.evaluation.impostors import match_impostors
from training.evaluation.judge_stages import LabelsStage, LooksStage, LookStage
from training.evaluation.making import halves
from training.evaluation.panel import CARD_FILE, Panel, PanelConfig, Reading, round_weights, save
from training.evaluation.scene import blur
from training.labels import known_rows
from training.loop import Stage, TrainingDivergedError, train
from training.stages.identity import person_traits

PERSON = 1 + len(TRAITS)  # sex, and what makes a face
PLAN_FILE = "plan.json"
WORLD_SEED = 7919  # of the people they learn from; the next one's are those they are measured on
EXAMPLE = """example:
  python -m training judges --out bundles/judges                      # under half an hour on two cores
  python -m training judges --size mini --out /tmp/judges             # seconds; judges nothing worth believing
  python -m training judges --data judges/train --held-out judges/test --out judges/mine --work runs/judges-mine  # people of yours
"""


@dataclass(frozen=True)
class Schooling:
    """How judges are made: `people` with `shots` pictures each to learn from, `held_out` people with as many to be measured on."""

    panel: PanelConfig
    people: int
    held_out: int
    stages: Mapping[str, StageConfig]
    shots: int = 4
    precision: str = "bf16"
    seed: int = 31  # of weights and draws; the presets that they judge use others


SIZES: Mapping[str, Schooling] = {
    "full": Schooling(
        PanelConfig(traits=PERSON),
        people=4000,
        held_out=250,
        stages={
            "look": StageConfig(steps=400, batch_size=128, learning_rate=2e-3, checkpoint_every=100),
            "labels": StageConfig(steps=1300, batch_size=96, learning_rate=2e-3, checkpoint_every=200),
            "looks": StageConfig(steps=1000, batch_size=96, learning_rate=2e-3, checkpoint_every=200),
        },
    ),
    "mini": Schooling(
        PanelConfig(image_size=32, channels=(8, 12), features=16, look=8, traits=PERSON),
        people=12,
        held_out=6,
        precision="fp32",
        stages={
            "look": StageConfig(steps=4, batch_size=8, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2),
            "labels": StageConfig(steps=4, batch_size=8, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2),
            "looks": StageConfig(steps=4, batch_size=8, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2),
        },
    ),
}


def make_judges(
    schooling: Schooling,
    out: Path,
    work: Path,
    processes: int,
    data: tuple[list[Path], list[Path]] | None = None,
) -> Panel:
    """Train the judges in `work`, resuming what is there, measure them and write `out`.

    `data` are finished data caches to learn from, and others, of other people, to be measured on; None draws synthetic people.
    Raises BundleError if `work` was begun with another schooling or other people.
    """
    cache, others, trained_on, held_out = _people(schooling, work, processes, data)
    torch.manual_seed(schooling.seed)
    truth = prompted_looks(cache) if WORLD in cache.sources else None
    taught = {"traits": 0} if truth is None else {"looks": truth.phrases}
    panel = Panel(replace(schooling.panel, **taught))
    stages: list[Stage] = [LookStage(panel, cache), LabelsStage(panel, cache)]
    if truth is not None:
        stages.append(LooksStage(panel, cache, truth))
    for stage in stages:
        final = work / stage.name / "final.safetensors"
        if final.is_file():
            stage.module.load_state_dict(load_file(final))
        else:
            settings = schooling.stages[stage.name]
            train(stage, settings, work / stage.name, precision=schooling.precision, seed=schooling.seed)
            write_tensors(final, stage.module.state_dict())
    panel.to("cpu").eval()
    round_weights(panel)
    card = {
        "seed": schooling.seed,
        "stages": {name: asdict(stage) for name, stage in schooling.stages.items()},
        "trained_on": trained_on,
        "held_out": {**held_out, "pictures": len(others)},
        "measured": measured(panel, others),
    }
    save(panel, out, card)
    return panel


def _people(
    schooling: Schooling, work: Path, processes: int, data: tuple[list[Path], list[Path]] | None
) -> tuple[DataCache, DataCache, dict[str, Any], dict[str, Any]]:
    """Whom the judges learn from and whom they are measured on, each with what the card says of it."""
    size = schooling.panel.image_size
    if data is None:
        keys = [
            CacheKey(WORLD_SEED + place, people, schooling.shots, 0, size, "test")
            for place, people in enumerate((schooling.people, schooling.held_out))
        ]
        _remember(work, schooling, asdict(keys[0]))
        cache, others = (
            build(work / name, key, processes) for name, key in zip(("people", "others"), keys, strict=True)
        )
        return cache, others, asdict(keys[0]), asdict(keys[1])
    caches = [DataCache(*folders) for folders in data]
    for cache in caches:
        if cache.images.shape[1] != size:
            raise BundleError(
                f"data has pictures of {cache.images.shape[1]} pixels, these judges look at {size}; "
                f"build both caches with `python -m training data build … --size {size}`"
            )
    cards = [{"caches": [json.loads((folder / "cache.json").read_text()) for folder in folders]} for folders in data]
    _remember(work, schooling, cards[0])
    return caches[0], caches[1], cards[0], cards[1]


def _remember(work: Path, schooling: Schooling, trained_on: Mapping[str, Any]) -> None:
    """Write `plan.json`, or refuse a folder whose networks were trained otherwise or on others: its finished ones are reused."""
    path = work / PLAN_FILE
    now = json.loads(json.dumps({"schooling": asdict(schooling), "trained_on": trained_on}))
    if path.is_file():
        before = json.loads(path.read_text())
        changed = [name for name, value in now.items() if before[name] != value]
    else:  # begun before this file was written: of drawn people, if the folder was the default one
        changed = ["trained_on"] if "caches" in trained_on and (work / LookStage.name).exists() else []
    if changed:
        raise BundleError(
            f"{work} holds judges with another {' and another '.join(changed)}; choose another --work, or delete that folder"
        )
    work.mkdir(parents=True, exist_ok=True)
    write_json(path, now)


def measured(panel: Panel, cache: DataCache) -> dict[str, dict[str, float]]:
    """How right the judges are about real pictures nobody has trained on: "clean" and "blurred" (see `scene.blur`).

    Each figure over the pictures that have the label. `fid` and `kid` are between the pictures of different people: the floor of half
    the pictures each, and what a blur of one half adds.
    """
    pictures = np.asarray(cache.images[:])
    real, targets = halves(cache, len(cache))
    look = panel.read(pictures[real]).look
    aged, named, felt = (known_rows(labels) for labels in (cache.age, cache.emotion, cache.valence_arousal))
    other, is_other = cache.another(np.arange(len(cache)), np.random.default_rng(0))
    found: dict[str, dict[str, float]] = {}
    for name, these in (("clean", pictures), ("blurred", blur(pictures))):
        reading = panel.read(these)
        figures = {
            "fid": distribution.fid(reading.look[targets], look),
            "kid": distribution.kid(reading.look[targets], look),
        }
        if aged.any():
            figures |= age.age_figures(cache.age[aged], reading.age[aged])
        if named.any():
            figures["emotion_accuracy"] = emotion.accuracy(cache.emotion[named], reading.emotion[named])
        if felt.any():
            figures |= emotion.value_figures(cache.valence_arousal[felt], reading.valence_arousal[felt])
        if panel.config.traits and WORLD in cache.sources:
            figures["trait_r2"] = traits.explained(person_traits(cache), reading.traits)
        if panel.config.looks and WORLD in cache.sources:
            true = prompted_looks(cache).among(panel.config.looks).true
            figures["looks_recall"], figures["looks_precision"] = looks.recall_and_precision(true, reading.looks)
        if is_other.any():
            figures |= _person_figures(cache, reading, np.flatnonzero(is_other), other[is_other])
        found[name] = {metric: round(value, 4) for metric, value in figures.items()}
    return found


def _person_figures(cache: DataCache, reading: Reading, rows: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """`rows` against `other` pictures of the same people, and against impostors who look like those."""
    impostors = match_impostors(cache, other, np.arange(len(cache))).rows
    genuine = identity.cosines(reading.identity[rows], reading.identity[other])
    impostor = identity.cosines(reading.identity[rows, None], reading.identity[impostors])
    return {
        "id_sim": float(genuine.mean()),
        "id_sim_of_impostors": float(impostor.mean()),
        "id_auc": identity.auc(genuine, impostor),
        "id_tar": identity.accept_rate(genuine, impostor),
    }


def main(argv: list[str]) -> int:
    """Exit status 0 when the judges are written, 1 on an error, 130 when interrupted."""
    parser = argparse.ArgumentParser(
        "python -m training judges",
        description="Train the networks that read pictures for the evaluation, and measure how right they are.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for judges.safetensors and judges.json")
    parser.add_argument("--size", choices=sorted(SIZES), default="full", help="(default: %(default)s)")
    parser.add_argument(
        "--work", type=Path, help="folder of the training, which resumes in it (default: runs/judges-SIZE)"
    )
    parser.add_argument(
        "--data", type=Path, nargs="+", metavar="DIR", help="data caches to learn from (default: synthetic people)"
    )
    parser.add_argument(
        "--held-out", type=Path, nargs="+", metavar="DIR", help="with --data: caches of other people, to measure on"
    )
    parser.add_argument(
        "--processes", type=int, default=len(os.sched_getaffinity(0)), help="processes that draw the people"
    )
    arguments = parser.parse_args(argv)
    if (arguments.data is None) != (arguments.held_out is None):
        parser.error("--data and --held-out go together: judges are measured on people they have not learned from")
    data = None if arguments.data is None else (arguments.data, arguments.held_out)
    work = arguments.work or Path("runs") / f"judges-{arguments.size}"
    try:
        panel = make_judges(SIZES[arguments.size], arguments.out, work, arguments.processes, data)
    except (ClipFaceFusionError, TrainingDivergedError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(json.dumps(json.loads((arguments.out / CARD_FILE).read_text())["measured"], indent=1))
    print(f"done: {arguments.out}, {sum(p.numel() for p in panel.parameters()):,} parameters")
    return 0
