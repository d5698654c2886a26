"""Does a bundle still compute on this machine what torch computed when it was exported? Needs no torch: the answers are in the bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.engines import Engine
from runtime.errors import BundleError
from runtime.ladder import LIMITS, Check, Course, Reference, Sensitivity, checks, limits_from, relative_error
from runtime.manifest import ONNX, ONNX_FP16, PARITY, REMEDY


def verify(bundle: Bundle, kind: str | None = None, engines: Mapping[str, Engine] | None = None) -> Iterator[Check]:
    """Climb the whole ladder with an opened bundle (whose hashes are therefore checked) and one kind of its networks (by default those that its backend
    reads), or with `engines` that were built from these.

    The limits are the manifest's, and for a chaotic model its sensitivity too; an engine that computes in less than the networks has its own limits, and FP16's sensitivity. Raises BundleError if a reference or a limit is missing, EngineError if an engine fails.
    """
    if kind is None:
        kind, read = (ONNX if bundle.reads == ONNX else ONNX_FP16), bundle.reads  # plans are made from FP16 networks
    else:
        read = kind
    reduced = LIMITS.get(bundle.backend) if kind == ONNX else None
    try:
        limits = reduced or limits_from(bundle.manifest.parity[kind]["limits"])
    except (KeyError, TypeError):
        raise BundleError(f"manifest.json: no parity of {kind} networks to compare with; {REMEDY}") from None
    stored = bundle.manifest.parity.get(ONNX_FP16 if reduced else kind, {}).get("sensitivity")
    own = None if stored is None else Sensitivity.from_dict(stored)
    tensors = bundle.parity_tensors()
    reference = Reference.from_tensors(tensors)
    if engines is None:
        engines = {name: bundle.engine(name, read) for name in bundle.specs}
    course = Course(bundle.schedule, bundle.uncond, bundle.manifest.guidance_scale, bundle.model.sample_shape)
    reached = {name: {"relative_error": _engine_error(engine, tensors)} for name, engine in engines.items()}
    yield from checks({"engines": reached, **course.measure(engines, reference)}, limits, own)


def _engine_error(engine: Engine, tensors: Mapping[str, np.ndarray]) -> float | None:
    """The largest error of one call on the stored inputs, over all outputs."""
    name = engine.spec.name
    try:
        inputs = {tensor.name: tensors[f"{name}.input.{tensor.name}"] for tensor in engine.spec.inputs}
        expected = {tensor.name: tensors[f"{name}.output.{tensor.name}"] for tensor in engine.spec.outputs}
    except KeyError as error:
        raise BundleError(f"{PARITY}: nothing to compare engine '{name}' with, {error} is missing; {REMEDY}") from None
    outputs: Mapping[str, Any] = engine(inputs)
    errors = [relative_error(values, outputs[output]) for output, values in expected.items()]
    return None if None in errors else max(error for error in errors if error is not None)
