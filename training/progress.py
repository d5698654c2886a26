"""What one stage shows while it trains: a line on the terminal, `log.jsonl`, and TensorBoard's events beside it."""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from training.durable import write_text

EVERY, ALL_UNTIL = 20, 20  # steps between two lines; the first steps are all shown, because that is where one looks
LOG = "log.jsonl"
GIB = 2**30


class Progress:
    """Belongs to process 0. `step` is the number of steps done. A resumed run goes on in the same files, from its state's step."""

    def __init__(self, folder: Path, name: str, *, step: int, steps: int, batch_size: int) -> None:
        self.folder, self.steps, self.batch_size = folder, steps, batch_size
        self.first, self.started = step, time.monotonic()
        _forget_after(folder / LOG, step)
        self._events = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        self._bar = tqdm(total=steps, initial=step, desc=name, unit="step", mininterval=5)

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """After every step: `values` by name. One that is no number was not measured in this step and is left out."""
        self._bar.update()
        if step > ALL_UNTIL and step % EVERY and step != self.steps:
            return
        seconds = time.monotonic() - self.started
        rate = (step - self.first) * self.batch_size / seconds
        eta = (self.steps - step) * seconds / (step - self.first)
        shown = {name: float(f"{value:.6g}") for name, value in values.items() if math.isfinite(value)}
        with (self.folder / LOG).open("a") as log:
            about = {"samples_per_s": round(rate, 2), "eta_s": round(eta), "peak_gib": round(peak_memory() / GIB, 3)}
            log.write(json.dumps({"step": step, **shown, **about}) + "\n")
        for name, value in shown.items():
            self._events.add_scalar(name, value, step)
        self._events.add_scalar("throughput/samples_per_s", rate, step)
        self._events.add_scalar("throughput/eta_s", eta, step)
        self._events.add_scalar("throughput/peak_gib", peak_memory() / GIB, step)
        losses = {name: f"{value:.4g}" for name, value in shown.items()}
        self._bar.set_postfix({**losses, "samples/s": f"{rate:.3g}", "ETA": _duration(eta)}, refresh=False)

    def picture(self, path: Path, step: int) -> None:
        """Put the image grid at `path` on TensorBoard."""
        self._events.add_image("preview", np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Flush everything."""
        self._bar.close()
        self._events.close()


def peak_memory() -> int:
    """The most bytes that this process has held so far: on the GPU if it uses one, else in main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024  # what getrusage counts in
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _forget_after(log: Path, step: int) -> None:
    """Drop lines of steps that a kill took back, and one that it cut."""
    if not log.is_file():
        return
    kept = [line for line in log.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
    write_text(log, "".join(line + "\n" for line in kept))


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
