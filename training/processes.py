"""The processes of one training and what they must agree on. `python -m training` has one, `accelerate launch` any number.

No module is wrapped: a stage calls several of them in its own order, so gradients are averaged here, explicitly, once per
step (docs/decisions/0015). Every process must see the run's folder; process 0 alone writes to it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env, reduce
from torch import Tensor, nn

BUCKET = 2**24  # numbers that travel in one message: few messages, little memory
PATIENCE = timedelta(hours=24)  # the others wait while process 0 draws the world or computes features


class Processes:
    """Which process this is, of how many, on which device; sums over all of them."""

    def __init__(self) -> None:
        # Joins the group that the launcher describes in the environment, once per interpreter; without a GPU, accelerate must be told.
        is_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
        self._state = PartialState(cpu=is_cpu, timeout=PATIENCE)
        self.count: int = self._state.num_processes
        self.index: int = self._state.process_index
        self.device: torch.device = self._state.device
        self.is_main = self.index == 0

    def wait(self) -> None:
        """Return when every process has come here."""
        self._state.wait_for_everyone()

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The body runs in process 0 first, which may write what the others then find."""
        with self._state.main_process_first():
            yield

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor` added over all processes, the same bits in each."""
        return tensor if self.count == 1 else reduce(tensor.to(self.device), reduction="sum")

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Add gradients over all processes, in place, in flat float32 buckets. What no process touched keeps no gradient."""
        if self.count == 1:
            return
        touched = self.sum(torch.tensor([float(p.grad is not None) for p in parameters])).tolist()
        used = [p for p, count in zip(parameters, touched, strict=True) if count]
        for bucket in _buckets(used):
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten().float() for p in bucket])
            for p, total in zip(bucket, self.sum(flat).split([p.numel() for p in bucket]), strict=True):
                p.grad = total.view_as(p).to(p.dtype)


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    bucket: list[nn.Parameter] = []
    for parameter in parameters:
        if bucket and sum(p.numel() for p in bucket) + parameter.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(parameter)
    if bucket:
        yield bucket
