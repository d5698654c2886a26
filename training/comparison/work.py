"""Doing an ablation's jobs: fine-tune, make pictures, measure. Each job is whole or not done; a killed one goes on.

Folder of an ablation:
    plan.json                      what all its results have in common
    world/ test-world/             drawn once        features.safetensors test-features.safetensors   computed once
    rows/<row>/seed-<n>/result.json                  figures, a value for every picture, settings, seconds
                        training/                    the loop's states while the job runs, its log and losses afterwards
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from runtime.errors import BundleError
from training import checkpoint, features
from training.comparison.pictures import per_picture
from training.comparison.plan import Job, Plan
from training.config import TrainConfig
from training.data.cache import DataCache, build
from training.data.parallel import process_pool
from training.durable import write_json
from training.evaluation import panel
from training.evaluation.measure import evaluate
from training.examples import Examples
from training.loop import states, train
from training.model import ClipFaceFusion
from training.processes import Processes
from training.stages.consistency import ConsistencyStage

PLAN_FILE, RESULT_FILE = "plan.json", "result.json"


@dataclass(frozen=True)
class Place:
    """Where things lie: the checkpoint that every row starts from, the judges, the ablation's own folder."""

    base: Path
    judges: Path
    out: Path

    def result(self, job: Job) -> Path:
        """The file that says that a job is done."""
        return self.out / job.folder / RESULT_FILE


def prepare(place: Place, plan: Plan, processes: int) -> None:
    """Draw both worlds and compute their features, unless they are there. Raises BundleError if the folder is another plan's."""
    place.out.mkdir(parents=True, exist_ok=True)
    path = place.out / PLAN_FILE
    if path.is_file():
        changes = plan.differences(json.loads(path.read_text()))
        if changes:
            raise BundleError(
                f"{place.out} holds an ablation with other settings ({'; '.join(changes)}); repeat them, or choose another --out"
            )
    write_json(path, plan.to_dict())
    model = checkpoint.load(place.base).to(Processes().device)
    size = model.config.image_size
    features.build(
        place.out / "features.safetensors", model, build(place.out / "world", plan.training_world(size), processes)
    )
    features.build(
        place.out / "test-features.safetensors",
        model,
        build(place.out / "test-world", plan.test_world(size), processes),
    )


def run(place: Place, plan: Plan, wanted: list[Job], processes: int) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Do the jobs that are not done, `processes` at a time, each with as many threads as that leaves; yield each when it is done."""
    threads = max(1, torch.get_num_threads() // processes)
    missing = [job for job in wanted if not place.result(job).is_file()]
    if processes == 1:
        for job in missing:
            yield job, do(place, plan, job, threads)
        return
    with process_pool(processes) as pool:
        started = {pool.submit(do, place, plan, job, threads): job for job in missing}
        try:
            for future in as_completed(started):
                yield started[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)  # what runs ends; what waits does not begin


def do(place: Place, plan: Plan, job: Job, threads: int) -> dict[str, Any]:
    """One job; its result, as it was written to `result.json`."""
    torch.set_num_threads(threads)
    folder = place.out / job.folder
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    base = checkpoint.load(place.base)
    config = plan.training(base.config, job.row, job.seed)
    device = Processes().device  # of the whole model: the loop itself moves only what it trains
    model = with_fusion(base, config.model.fusion).to(device)
    if job.row.is_trained:
        fine_tune(stage_for(place, config, model), config, folder / "training")
    trained = time.monotonic()
    cache = DataCache(place.out / "test-world")
    settings = plan.measuring(job.row, job.seed)
    frozen = features.build(place.out / "test-features.safetensors", model, cache)
    examples = Examples(model, cache, frozen, settings.never)
    is_on = config.losses.cross_modal > 0 and job.row.is_trained
    evaluation = evaluate(
        examples, panel.load(place.judges).to(device), settings, l_cm=f"L_CM was {'on' if is_on else 'off'}"
    )
    result = {
        "row": job.row.name,
        "seed": job.seed,
        "settings": {"losses": asdict(config.losses), "never": list(config.never), "fusion": config.model.fusion},
        "training_seconds": round(trained - start, 1),
        "measuring_seconds": round(time.monotonic() - trained, 1),
        "figures": {
            name: {"value": figure.value, "direction": figure.direction} for name, figure in evaluation.figures.items()
        },
        "skipped": dict(evaluation.skipped),
        "targets": evaluation.scene.targets.tolist(),
        "person": cache.person[evaluation.scene.targets].tolist(),
        "pictures": {
            name: [float(value) if np.isfinite(value) else None for value in column]
            for name, column in per_picture(evaluation).items()
        },
    }
    write_json(folder / RESULT_FILE, result)
    for state in states(folder / "training"):
        shutil.rmtree(state)
    return result


def fine_tune(stage: ConsistencyStage, config: TrainConfig, folder: Path) -> None:
    """Train the stage's model in place, going on where a killed job was."""
    train(
        stage,
        config.stages[stage.name],
        folder,
        precision=config.precision,
        seed=config.seed,
        preview=config.preview,
    )


def stage_for(place: Place, config: TrainConfig, model: ClipFaceFusion) -> ConsistencyStage:
    """What trains `model` on the ablation's world by a row's settings."""
    cache = DataCache(place.out / "world")
    frozen = features.build(place.out / "features.safetensors", model, cache)
    torch.manual_seed(config.seed)  # the projection heads of L_CM
    return ConsistencyStage(model, cache, frozen, config.losses, config.never)


def with_fusion(model: ClipFaceFusion, fusion: str) -> ClipFaceFusion:
    """`model`, or the same weights in a model with another fusion."""
    if fusion == model.config.fusion:
        return model
    changed = ClipFaceFusion(replace(model.config, fusion=fusion), model.tokenizer)
    changed.load_state_dict(model.state_dict())
    return changed.eval()
