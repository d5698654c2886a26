"""One engine of the model as a module of its own, with the engine's tensor contract as its signature.

It knows which method of the model becomes which engine, and nothing of ONNX.
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from torch import Tensor, nn

from runtime.spec import EngineSpec
from training.model import ENGINE_METHODS, ClipFaceFusion
from training.unconditional import Unconditional

DTYPES = {"float32": torch.float32, "int64": torch.int64}


class Exportable(nn.Module):
    """`spec`'s engine of `model`: takes the spec's inputs in order and returns a tuple of its outputs in order.

    The exporter calls `forward` of a module, while the model offers its engines as methods. The weights stay the model's own;
    only the networks that this engine uses are held, since the exporter carries every weight that it sees through all its passes.
    """

    def __init__(self, model: ClipFaceFusion | Unconditional, spec: EngineSpec) -> None:
        super().__init__()
        self.spec = spec
        self.method = ENGINE_METHODS[spec.name]
        self.model = only(model, used_networks(model, self.method, example_inputs(spec)))
        self.eval()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The engine's outputs, each with the batch first."""
        outputs = getattr(self.model, self.method)(*tensors)
        return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def example_inputs(spec: EngineSpec) -> tuple[Tensor, ...]:
    """Zeros to trace with: the profile's optimum, but a batch of two, because torch takes a size of 1 for a constant."""
    sizes = {letter: max(2, opt) for letter, (_, opt, _) in spec.ranges.items()}
    shapes = [[sizes[d] if isinstance(d, str) else d for d in tensor.shape] for tensor in spec.inputs]
    return tuple(
        torch.zeros(shape, dtype=DTYPES[tensor.dtype]) for shape, tensor in zip(shapes, spec.inputs, strict=True)
    )


def used_networks(model: nn.Module, method: str, inputs: tuple[Tensor, ...]) -> set[str]:
    """Names of `model`'s direct children that compute anything when `method` runs on `inputs`."""
    used: set[str] = set()

    def note(name: str, *_: object) -> None:
        used.add(name.partition(".")[0])

    hooks = [module.register_forward_pre_hook(partial(note, name)) for name, module in model.named_modules() if name]
    try:
        with torch.no_grad():
            getattr(model, method)(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return used


def only(model: nn.Module, names: set[str]) -> nn.Module:
    """`model` without its other children; the weights are shared, and using a missing network raises AttributeError."""
    part = copy.copy(model)
    part._modules = {
        name: child for name, child in model._modules.items() if name in names
    }  # deleting would reach into `model`
    return part
