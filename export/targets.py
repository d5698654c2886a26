"""What an export can be asked to make: the names of `--targets`, and what each one needs of the others. It builds nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import BundleError
from runtime.manifest import ONNX, ONNX_FP16
from runtime.plans import TENSORRT, TENSORRT_RTX

# What TensorRT-RTX 1.7 compiles for. There is no SM90 or SM100: for a data-centre GPU, TensorRT itself builds on that GPU.
RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
EXAMPLE = f"{ONNX},{ONNX_FP16},{TENSORRT_RTX}:{'+'.join(RTX_TARGETS[2:5])}"
KNOWN = f"{ONNX}, {ONNX_FP16}, {TENSORRT_RTX}[:smXX+smYY…] ({', '.join(RTX_TARGETS)}), {TENSORRT}"


@dataclass(frozen=True)
class Targets:
    """What to make beside the FP32 ONNX files, which every bundle has.

    fp16      FP16 ONNX files; plans are built from them, so a bundle with plans has them too
    rtx       compute capabilities for TensorRT-RTX, ascending; empty: no such plans
    tensorrt  TensorRT plans for the GPU of this machine
    """

    fp16: bool = False
    rtx: tuple[str, ...] = ()
    tensorrt: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.rtx if name not in RTX_TARGETS]
        if unknown:
            raise BundleError(
                f"targets: {TENSORRT_RTX} cannot compile for {', '.join(unknown)}; it knows {', '.join(RTX_TARGETS)}. "
                f"For other GPUs use the target {TENSORRT} on the machine that has one"
            )
        if (self.rtx or self.tensorrt) and not self.fp16:
            raise BundleError(f"targets: plans are built from {ONNX_FP16}; add it")

    @classmethod
    def parse(cls, text: str) -> Targets:
        """Read `--targets`; whatever has plans implies `onnx-fp16`. Raises BundleError naming what is unknown."""
        asked: dict[str, Sequence[str]] = {}
        for word in text.split(","):
            name, colon, list_ = word.partition(":")
            if name not in (ONNX, ONNX_FP16, TENSORRT_RTX, TENSORRT) or (colon and name != TENSORRT_RTX):
                raise BundleError(f"targets: unknown target {word!r}; known: {KNOWN}")
            if name in asked:
                raise BundleError(f"targets: {name} is named twice; join its GPUs with +")
            asked[name] = list_.split("+") if colon else RTX_TARGETS
        rtx = tuple(sorted(set(asked.get(TENSORRT_RTX, ())), key=_number))
        plans = TENSORRT_RTX in asked or TENSORRT in asked
        return cls(ONNX_FP16 in asked or plans, rtx, TENSORRT in asked)


def _number(name: str) -> tuple[int, str]:
    digits = re.sub(r"\D", "", name)
    return int(digits or 0), name
