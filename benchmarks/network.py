"""A UNet to be timed, as every contender takes it: an ONNX file, and where torch has the same weights from. Loads no library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.yardsticks import YARDSTICKS, build
from runtime.bundle import Bundle
from runtime.errors import ClipFaceFusionError
from runtime.manifest import onnx_file
from runtime.noise import gaussian
from runtime.spec import EngineSpec, ModelSpec, engine_specs

UNET = "unet"


@dataclass(frozen=True)
class Network:
    """One UNet.

    name     what tables call it
    onnx     its file, weights inside
    model    the sizes from which its tensor contract follows
    source   where torch finds the weights: a yardstick's name, or the folder of a checkpoint
    """

    name: str
    onnx: Path
    model: ModelSpec
    source: str

    @property
    def spec(self) -> EngineSpec:
        return engine_specs(self.model)[UNET]

    def inputs(self, batch: int) -> dict[str, np.ndarray]:
        """Noise at timesteps all over the schedule; the first rows of a larger batch are those of a smaller one."""
        arrays: dict[str, np.ndarray] = {}
        for n, tensor in enumerate(self.spec.inputs):
            if tensor.dtype == "int64":
                arrays[tensor.name] = (np.arange(batch) * 377 + 500) % 1000
            else:
                shape = tuple(int(size) for size in tensor.shape[1:])
                arrays[tensor.name] = np.stack([gaussian(row, n, shape) for row in range(batch)])
        return arrays

    def torch(self) -> Callable[..., Any]:
        """The module's `denoise` in torch, FP32, in eval mode; its owner is `denoise.__self__`."""
        if self.source in YARDSTICKS:
            return build(YARDSTICKS[self.source]).denoise
        from training.checkpoint import load

        return load(Path(self.source)).eval().denoise

    def to_json(self) -> str:
        """For another process."""
        return json.dumps(
            {"name": self.name, "onnx": str(self.onnx), "model": self.model.to_dict(), "source": self.source}
        )

    @classmethod
    def from_json(cls, text: str) -> Network:
        values = json.loads(text)
        return cls(values["name"], Path(values["onnx"]), ModelSpec.from_dict(values["model"]), values["source"])


def of_bundle(folder: Path, checkpoint: Path) -> Network:
    """The UNet of a bundle, whose files are checked here, and of the checkpoint that it was exported from."""
    from benchmarks.pipeline import check_same_weights

    with Bundle.open(folder) as bundle:
        check_same_weights(bundle, checkpoint)
        return Network(bundle.manifest.name, folder / onnx_file(UNET), bundle.model, str(checkpoint))


def of_yardstick(name: str, folder: Path) -> Network:
    """A yardstick, exported into `folder` by a process of its own, whose memory is then free again."""
    file = folder / f"{name}.onnx"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.yardsticks", name, str(file)], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise ClipFaceFusionError(f"the export of {name} failed: {(done.stderr.strip() or 'killed').splitlines()[-1]}")
    return Network(name, file, YARDSTICKS[name].model, name)
