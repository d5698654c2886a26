"""The micro model's networks without tracing them again, which takes most of an export's time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx

from export.exportable import Exportable
from export.storage import widen


def trace_from(bundle: Path) -> Callable[[Exportable], onnx.ModelProto]:
    """A stand-in for `to_onnx`: the FP32 networks that tracing gave to `bundle`."""

    def traced(reference: Exportable) -> onnx.ModelProto:
        model = onnx.load(bundle / "onnx" / f"{reference.spec.name}.onnx")
        widen(model)
        return model

    return traced
