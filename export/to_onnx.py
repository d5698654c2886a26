"""One engine → one ONNX model: opset 20, the spec's tensor names, weights inside, the same bytes on every export.

It knows the spec and torch's exporter; files, hashes and the other engines are the bundle's. Letters as in `runtime/spec.py`.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import torch
from google.protobuf.message import Message
from torch.export import Dim

from export.exportable import Exportable, example_inputs
from runtime.spec import EngineSpec

OPSET = 20  # the newest that TensorRT, ONNX Runtime and OpenVINO all read

# What torch 2.13 says on every export, and why it does not matter here.
HARMLESS = (
    (FutureWarning, r".*isinstance\(treespec, LeafSpec\).*"),  # torch's own use of its own deprecated class
    (
        UserWarning,
        r".*The axis name: \w+ will not be used, since it shares the same shape constraints.*",
    ),  # one B for all inputs
)
TORCHVISION_LOGGER = (
    "torch.onnx._internal.exporter._registration"  # says that torchvision, unused here, is not installed
)


def to_onnx(engine: Exportable) -> onnx.ModelProto:
    """Trace `engine` and return a checked model in FP32; raises onnx.checker.ValidationError on an invalid graph.

    Every dimension that the spec gives a letter is dynamic and carries that letter.
    """
    spec = engine.spec
    with quiet():
        program = torch.onnx.export(
            engine,
            example_inputs(spec),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(dynamic_shapes(spec),),  # one entry: `forward` takes one variadic argument
            input_names=[tensor.name for tensor in spec.inputs],
            output_names=[tensor.name for tensor in spec.outputs],
            verbose=False,
        )
    assert program is not None, "torch.onnx.export returns a program unless it is given a file"
    model = program.model_proto
    strip(model, spec.name)
    onnx.checker.check_model(model, full_check=True)
    return model


def serialize(model: onnx.ModelProto) -> bytes:
    """The file's bytes, the same for the same model."""
    return model.SerializeToString(deterministic=True)


def dynamic_shapes(spec: EngineSpec) -> tuple[dict[int, Dim], ...]:
    """Per input the letter of each variable axis. A range of one size (audio's batch) stays dynamic: the contract has a letter there."""
    letters = {letter: Dim(letter, min=low, max=max(2, high)) for letter, (low, _, high) in spec.ranges.items()}
    return tuple(
        {axis: letters[d] for axis, d in enumerate(tensor.shape) if isinstance(d, str)} for tensor in spec.inputs
    )


def strip(model: onnx.ModelProto, name: str) -> None:
    """Remove what is not the network: source paths and stack traces of the exporting machine, and inferred shapes.

    Two exports of one checkpoint are then the same bytes, wherever they ran. Versions are the manifest's to tell.
    """
    graph = model.graph
    graph.name = name
    model.producer_name, model.producer_version = "clipfacefusion", ""
    del graph.value_info[:]  # engines infer it again
    for message in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output):
        forget(message)


def forget(message: Message) -> None:
    """Clear the two free-text fields that every ONNX message has."""
    message.ClearField("doc_string")
    message.ClearField("metadata_props")


@contextmanager
def quiet() -> Iterator[None]:
    """Silence exactly the exporter's known harmless messages; any other is shown."""
    logger = logging.getLogger(TORCHVISION_LOGGER)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category, message in HARMLESS:
                warnings.filterwarnings("ignore", message=message, category=category)
            yield
    finally:
        logger.setLevel(level)
