"""Optimiser, learning-rate rule, loss scaling, moving average and running statistics over one module: all that a step changes.

A step is worked through in equal parts, on one process or on several; what it does to the weights is the same either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from training.config import StageConfig
from training.processes import Processes

MAX_GRADIENT_NORM = 1.0
SMALLEST_LOSS_SCALE = 1.0  # gradients that overflow at this scale overflow by themselves
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Optimisation:
    """AdamW over the trainable parameters of `module`, which lies on `processes.device`, in `parts` parts per step."""

    def __init__(
        self, module: nn.Module, config: StageConfig, *, precision: str, parts: int, processes: Processes
    ) -> None:
        self.module, self.config, self.processes, self.parts = module, config, processes, parts
        self.parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.average = {name: p.detach().clone() for name, p in self.parameters.items()} if config.ema_decay else {}
        self.dtype = AUTOCAST.get(precision)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=precision == "fp16")
        self.buffers = list(module.buffers()) if parts > 1 else []

    def autocast(self) -> torch.autocast:
        """The context in which a loss is computed."""
        return torch.autocast(self.processes.device.type, self.dtype, enabled=self.dtype is not None)

    def start(self) -> None:
        """Begin a step."""
        self.optimizer.zero_grad(set_to_none=True)
        self.before = [buffer.clone() for buffer in self.buffers]
        self.change = [torch.zeros_like(buffer) for buffer in self.buffers]

    def add(self, loss: Tensor) -> None:
        """Add the gradient of one part's `loss`, and what its forward pass did to running statistics such as BatchNorm's."""
        self.scaler.scale(loss / self.parts).backward()
        # Statistics of a step are the mean over its parts, each starting from those before: neither order nor process matters.
        for buffer, before, change in zip(self.buffers, self.before, self.change, strict=True):
            if buffer.is_floating_point():
                change += buffer - before
            else:
                change.copy_(buffer - before)  # counts count steps, not parts
            buffer.copy_(before)

    def gradient_norm(self) -> float:
        """End the parts: agree on gradients and statistics with the other processes, clip. The norm before clipping."""
        for buffer, before, change in zip(self.buffers, self.before, self.change, strict=True):
            mean = self.processes.sum(change) / self.parts if buffer.is_floating_point() else change
            buffer.copy_(before + mean)
        parameters = list(self.parameters.values())
        self.processes.sum_gradients(parameters)
        self.scaler.unscale_(self.optimizer)
        return float(torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM))

    def is_overflow(self, norm: float) -> bool:
        """Whether a gradient that is no number is only the loss scale's fault: the step is left out and the scale halved."""
        return norm - norm != 0 and self.scaler.is_enabled() and self.scaler.get_scale() > SMALLEST_LOSS_SCALE

    def step(self, step: int) -> None:
        """Change weights and moving average by the gradients of step number `step`, from 0."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, step)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        # Early weights are noise: the average follows faster at first.
        decay = min(self.config.ema_decay, (1 + step) / (10 + step))
        for name, average in self.average.items():
            average.lerp_(self.parameters[name].detach(), 1 - decay)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the module holds its moving average, if there is one."""
        kept = {name: self.parameters[name].detach().clone() for name in self.average}
        self.use(self.average)
        try:
            yield
        finally:
            self.use(kept)

    @torch.no_grad()
    def use(self, weights: Mapping[str, Tensor]) -> None:
        """Copy `weights` by name into the module."""
        for name, tensor in weights.items():
            self.parameters[name].copy_(tensor)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor that a resume needs, by one flat name, as safetensors wants it."""
        state = {f"module.{name}": tensor for name, tensor in self.module.state_dict().items()}
        state |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        for name, parameter in self.parameters.items():
            state |= {f"optimizer.{key}.{name}": value for key, value in self.optimizer.state[parameter].items()}
        return state

    def scale(self) -> dict[str, Any]:
        """The loss scaler's few numbers, as JSON; empty without fp16."""
        return self.scaler.state_dict()

    def load(self, state: Mapping[str, Tensor], scale: Mapping[str, Any]) -> None:
        """Take `tensors()` and `scale()` of an earlier run. An average or a scaler that it did not have starts anew."""
        self.module.load_state_dict({n.removeprefix("module."): t for n, t in state.items() if n.startswith("module.")})
        for name, average in self.average.items():
            average.copy_(state.get(f"average.{name}", self.parameters[name].detach()))
        for name, parameter in self.parameters.items():
            prefix = {key: f"optimizer.{key}.{name}" for key in ("step", "exp_avg", "exp_avg_sq")}
            # AdamW keeps its step counts on the CPU and its moments beside the parameter.
            self.optimizer.state[parameter] = {
                key: state[full].to("cpu" if key == "step" else parameter.device)
                for key, full in prefix.items()
                if full in state
            }
        if self.scaler.is_enabled() and scale:
            self.scaler.load_state_dict(dict(scale))


def learning_rate(config: StageConfig, step: int) -> float:
    """The rate of step number `step`, from 0: linear warm-up, then constant or falling linearly to zero at the end."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return config.learning_rate * warm * (1 - step / config.steps if config.decay else 1.0)
