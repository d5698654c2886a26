"""The one training loop: any stage, AdamW, autocast, moving average, exact resume.

What a stage trains on is drawn from a generator seeded by (seed, stage, step), and torch's generator is reseeded at every
step, so a run that was killed and resumed ends with the same bits as one that was not (one process, same machine).
"""

from __future__ import annotations

import json
import os
import shutil
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from training.config import StageConfig

MAX_GRADIENT_NORM = 1.0


class Stage(Protocol):
    """What the loop needs of a stage: a name, the module whose parameters it trains, a loss, and a look at the result."""

    name: str
    module: nn.Module

    def loss(self, rng: np.random.Generator, batch_size: int) -> Mapping[str, Tensor]:
        """Scalars by name; "loss" is the one that is minimised, the others are shown."""
        ...

    def preview(self, path: Path) -> None:
        """Write a picture of what has been learned so far to `path`."""
        ...


class TrainingDivergedError(Exception):
    """The loss is no longer a number; the last checkpoint is intact."""


def train(
    stage: Stage, config: StageConfig, folder: Path, *, precision: str, seed: int, stop_after: int | None = None
) -> None:
    """Train `stage` to `config.steps`, resuming from the newest state in `folder` if there is one.

    Afterwards `stage.module` holds the final weights (their moving average where `ema_decay` is set) and is in eval mode.
    `stop_after` ends early, after that many steps of this call, as a kill would: state is only what was checkpointed.
    Raises TrainingDivergedError when the loss is not finite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(stage.module, config)
    step = _resume(run, folder)
    start, start_time = step, time.monotonic()
    stage.module.train()
    progress = tqdm(total=config.steps, initial=step, desc=stage.name, unit="step", mininterval=5)
    while step < config.steps:
        if stop_after is not None and step - start >= stop_after:
            return
        torch.manual_seed(zlib.crc32(f"{seed} {stage.name} {step}".encode()))
        rng = np.random.Generator(
            np.random.Philox(np.random.SeedSequence((seed, zlib.crc32(stage.name.encode()), step)))
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            losses = stage.loss(rng, config.batch_size)
        value = losses["loss"].item()
        if not np.isfinite(value):
            raise TrainingDivergedError(
                f"{stage.name}: loss is {value} at step {step}; resume from the last checkpoint with a smaller learning rate"
            )
        run.step(losses["loss"], step)
        step += 1
        progress.update()
        if step % 20 == 0 or step == config.steps:
            shown = {name: round(float(loss.detach()), 4) for name, loss in losses.items()}
            progress.set_postfix(shown, refresh=False)
            rate = (step - start) * config.batch_size / (time.monotonic() - start_time)
            with (folder / "log.jsonl").open("a") as log:
                log.write(json.dumps({"step": step, **shown, "samples_per_s": round(rate, 1)}) + "\n")
        if step % config.checkpoint_every == 0 or step == config.steps:
            _save(run, step, folder)
            with run.averaged():
                stage.preview(folder / "preview.png")
            stage.module.train()
    progress.close()
    run.use_average()
    stage.module.eval()


class _Run:
    """Optimiser, learning-rate rule and moving average over one module."""

    def __init__(self, module: nn.Module, config: StageConfig) -> None:
        self.module, self.config = module, config
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if config.ema_decay else {}

    def step(self, loss: Tensor, step: int) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * self._rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), MAX_GRADIENT_NORM)
        self.optimizer.step()
        # Early weights are noise: the average follows faster at first.
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        for name, average in self.average.items():
            average.lerp_(self.parameters[name].detach(), 1 - decay)

    def _rate(self, step: int) -> float:
        config = self.config
        warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
        return warm * (1 - step / config.steps if config.decay else 1.0)

    def averaged(self) -> _Swapped:
        return _Swapped(self.parameters, self.average)

    @torch.no_grad()
    def use_average(self) -> None:
        for name, average in self.average.items():
            self.parameters[name].copy_(average)

    def state(self) -> dict[str, Tensor]:
        """Everything a resume needs, flat, so that safetensors can hold it."""
        state = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        state |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for name, parameter in self.parameters.items():
            for key, value in self.optimizer.state[parameter].items():
                state[f"optimizer.{key}.{name}"] = value
        return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.module.load_state_dict({n.removeprefix("module."): t for n, t in state.items() if n.startswith("module.")})
        for name in self.average:
            self.average[name].copy_(state[f"average.{name}"])
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter] = {
                key: state[f"optimizer.{key}.{name}"]
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"optimizer.{key}.{name}" in state
            }


class _Swapped:
    """Context in which the module holds its moving average."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], average: Mapping[str, Tensor]) -> None:
        self.parameters, self.average = parameters, average

    @torch.no_grad()
    def __enter__(self) -> None:
        self.kept = {name: self.parameters[name].detach().clone() for name in self.average}
        for name, average in self.average.items():
            self.parameters[name].copy_(average)

    @torch.no_grad()
    def __exit__(self, *_: object) -> None:
        for name, kept in self.kept.items():
            self.parameters[name].copy_(kept)


def _save(run: _Run, step: int, folder: Path) -> None:
    """Write state-<step> whole or not at all, then drop the older ones."""
    partial, final = folder / "state.partial", folder / f"state-{step:08d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    save_file(run.state(), partial / "state.safetensors")
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    for old in _states(folder)[:-1]:
        shutil.rmtree(old)


def _resume(run: _Run, folder: Path) -> int:
    states = _states(folder)
    if not states:
        return 0
    run.load(load_file(states[-1] / "state.safetensors"))
    return int(states[-1].name.removeprefix("state-"))


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*"))
