"""The one training loop: any stage, any number of processes, exact resume.

A step's batch is worked through in equal parts. What a part trains on is drawn from generators seeded by (seed, stage, step,
part), so one process with two parts sees what two processes see, and a run that was killed and resumed ends with the same bits
as one that was not (same machine, same number of processes; on a GPU as far as its kernels add in a fixed order).
"""

from __future__ import annotations

import json
import math
import shutil
import zlib
from collections.abc import Mapping
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from training.config import StageConfig
from training.divergence import TrainingDivergedError, Watch
from training.durable import publish, write_json, write_tensors
from training.optimisation import Optimisation
from training.processes import Processes
from training.progress import Progress

KEPT_STATES = 2  # the newest and one to go back to


class Stage(Protocol):
    """What the loop needs of a stage: a name, the module whose parameters it trains, a loss, and a look at the result."""

    name: str
    module: nn.Module

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """Scalars by name, the same names at every call; "loss" is minimised, the others are shown (NaN: not measured here).

        Whatever is random comes from `rng` or from torch's default generators.
        """
        ...

    def preview(self, path: Path) -> None:
        """Write a picture of what has been learned so far to `path`."""
        ...


def train(
    stage: Stage,
    config: StageConfig,
    folder: Path,
    *,
    precision: str,
    seed: int,
    preview: bool = True,
    stop_after: int | None = None,
) -> None:
    """Train `stage` to `config.steps`, resuming from the newest state in `folder` if there is one.

    Afterwards `stage.module` holds the final weights (their moving average where `ema_decay` is set) and is in eval mode.
    `stop_after` ends early, after that many steps of this call, as a kill would: state is only what was saved.
    Raises TrainingDivergedError when the loss or the gradient is no number or explodes; ValueError when the batch cannot be
    shared among the processes, or when the state in `folder` was made with another number of parts.
    """
    processes = Processes()
    parts = config.parts(processes.count)
    if processes.is_main:
        folder.mkdir(parents=True, exist_ok=True)
        if parts != config.micro_batches:
            print(
                f"{stage.name}: {parts} micro-batches instead of {config.micro_batches}, for {processes.count} processes"
            )
    stage.module.to(processes.device)
    run = Optimisation(stage.module, config, precision=precision, parts=parts, processes=processes)
    watch = Watch()
    processes.wait()
    step = first = _resume(run, watch, folder)
    progress = None
    if processes.is_main:
        progress = Progress(folder, stage.name, step=step, steps=config.steps, batch_size=config.batch_size)
    with closing(progress) if progress else nullcontext():
        while step < config.steps:
            if stop_after is not None and step - first >= stop_after:
                return
            stage.module.train()
            run.start()
            losses = _work_through(stage, run, seed, step, config.batch_size // parts)
            norm = run.gradient_norm()
            if not (math.isfinite(losses["loss"]) and run.is_overflow(norm)):
                fault = watch.fault(losses, norm)
                if fault:
                    raise TrainingDivergedError(_advice(stage.name, step, fault, config, precision, folder))
            run.step(step)
            step += 1
            if progress:
                progress.show(step, {**losses, "gradient_norm": norm})
            if (step % config.checkpoint_every == 0 and watch.is_healthy) or step == config.steps:
                if progress:
                    _save(run, watch, step, folder)
                    if preview:
                        _look(stage, run, progress, step, folder / "preview.png")
                processes.wait()
    run.use(run.average)
    stage.module.eval()


def _look(stage: Stage, run: Optimisation, progress: Progress, step: int, path: Path) -> None:
    """Draw what has been learned, by the averaged weights."""
    # In eval mode, or a look would move running statistics, and a run killed before it would end elsewhere.
    stage.module.eval()
    with run.averaged():
        stage.preview(path)
    progress.picture(path, step)


def _work_through(stage: Stage, run: Optimisation, seed: int, step: int, part_size: int) -> dict[str, float]:
    """Losses of one step, each the mean over the parts that measured it; the gradients of this process's parts lie ready."""
    sums: dict[str, Tensor] = {}
    for part in range(run.processes.index, run.parts, run.processes.count):
        rng = _seed(seed, stage.name, step, part)
        with run.autocast():
            losses = stage.loss(rng, part_size)
        run.add(losses["loss"])
        counted = {name: _counted(value, losses["loss"]) for name, value in losses.items()}
        if sums and sums.keys() != counted.keys():
            raise ValueError(
                f"{stage.name}: two parts of a step name different losses: {sorted(sums.keys() ^ counted)}"
            )
        sums = {name: sums[name] + value for name, value in counted.items()} if sums else counted
    names = sorted(sums)
    totals = run.processes.sum(torch.stack([sums[name] for name in names]))
    return dict(zip(names, (totals[:, 0] / totals[:, 1]).tolist(), strict=True))


def _counted(value: Tensor, loss: Tensor) -> Tensor:
    """(2,) float32: `value` and 1, or zeros where it was not measured. A NaN is an honest one if the loss is none."""
    value = value.detach().float()
    is_measured = (~value.isnan() | ~loss.detach().isfinite()).float()
    return torch.stack([torch.where(is_measured > 0, value, torch.zeros_like(value)), is_measured])


def _seed(seed: int, name: str, step: int, part: int) -> np.random.Generator:
    """Seed every generator that a stage may draw from. Returns the one that it is handed."""
    words = zlib.crc32(f"{seed} {name} {step} {part}".encode())
    torch.manual_seed(words)
    np.random.seed(words)  # transformers masks Wav2Vec 2.0's frames in training by numpy's global generator
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, zlib.crc32(name.encode()), step, part))))


def _save(run: Optimisation, watch: Watch, step: int, folder: Path) -> None:
    """Write state-<step> whole or not at all, then drop the oldest. Format: state.safetensors and state.json, written last."""
    partial = folder / "state.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    write_tensors(partial / "state.safetensors", run.tensors())
    facts = {
        "step": step,
        "micro_batches": run.parts,
        "loss_scale": run.scale(),
        "watch": {"recent": watch.recent, "suspicious": watch.suspicious},
    }
    write_json(partial / "state.json", facts)
    publish(partial, folder / f"state-{step:08d}")
    for old in states(folder)[:-KEPT_STATES]:
        shutil.rmtree(old)


def _resume(run: Optimisation, watch: Watch, folder: Path) -> int:
    """Take the newest state, if there is one. Returns the number of steps done."""
    found = states(folder)
    if not found:
        return 0
    facts: dict[str, Any] = json.loads((found[-1] / "state.json").read_text())
    if facts["micro_batches"] != run.parts:
        raise ValueError(
            f"{found[-1]} was made with {facts['micro_batches']} micro-batches a step, this run makes {run.parts}; "
            f"go on with micro_batches={facts['micro_batches']}, or delete {folder} to begin the stage again"
        )
    run.load(load_file(found[-1] / "state.safetensors"), facts["loss_scale"])
    watch.recent, watch.suspicious = facts["watch"]["recent"], facts["watch"]["suspicious"]
    return int(facts["step"])


def states(folder: Path) -> list[Path]:
    """The saved states of a stage's folder, oldest first."""
    return sorted(folder.glob("state-????????"))


def _advice(name: str, step: int, fault: str, config: StageConfig, precision: str, folder: Path) -> str:
    saved = states(folder)
    where = f"{saved[-1]} is intact" if saved else "no state was saved before"
    finer = "" if precision == "fp32" else ", or --set precision=fp32"
    return (
        f"{name} diverged at step {step}: {fault}. {where}. Go on with --resume and a smaller learning rate, "
        f"e.g. --set {name}.learning_rate={config.learning_rate / 4:g}{finer}"
    )
