"""A GPU for machines that have none: tensors in main memory that say they lie on "cuda:0" and refuse to meet one that does not.

It sees what Python calls, not what a kernel does: that all is computed where the weights are, and nothing more. Inside `session()`
only; without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
# A GPU's tensor may be indexed by, and written from, one in main memory.
MAY_MEET = ("__getitem__", "__setitem__", "copy_")


class OnGPU(Tensor):
    """Holds its numbers in main memory."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


class _Watch(TorchFunctionMode):
    """Sees the calls that no tensor takes part in as well: `torch.zeros(2, device=...)`."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(func, args, kwargs or {})


@contextmanager
def session() -> Iterator[None]:
    """Inside, such tensors can be made and used."""
    with torch.no_grad(), _Watch():
        yield


def moved(module: nn.Module) -> nn.Module:
    """`module` with every parameter and buffer on the GPU."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(_there(parameter.data), requires_grad=False)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = _there(buffer)
    return module


def _there(tensor: Tensor) -> Tensor:
    return Tensor._make_subclass(OnGPU, tensor.detach())


def _here(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Tensor)


def _is_gpu(device: Any) -> bool:
    return torch.device(device).type == "cuda"


def _called(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    name = getattr(func, "__name__", "")
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    on_gpu = any(isinstance(tensor, OnGPU) for tensor in tensors)
    with torch._C.DisableTorchFunction():
        if name == "__get__":
            if func.__self__.__name__ == "device":
                return GPU if on_gpu else CPU
        elif name == "cpu":
            return _here(args[0]).clone()
        elif name == "to":
            return _to(args, kwargs)
        elif on_gpu:
            if name in ("numpy", "__array__"):
                raise TypeError("numpy cannot read a tensor on a GPU; copy it with .cpu() first")
            strangers = [tensor for tensor in tensors if not isinstance(tensor, OnGPU) and tensor.dim()]
            if strangers and not _may_meet(name, args):
                raise RuntimeError(f"{name}: tensors on two devices, of shapes {[tuple(t.shape) for t in tensors]}")
        if name == "__getitem__":
            on_gpu = isinstance(args[0], OnGPU)
        if kwargs.get("device") is not None:
            on_gpu, kwargs = _is_gpu(kwargs["device"]), {**kwargs, "device": CPU}
        result = func(*args, **kwargs)
        if args and isinstance(args[0], Tensor) and name.endswith("_") and not name.startswith("__"):
            return args[0]  # in place
        place = _there if on_gpu else _here
        return tree_map(lambda leaf: place(leaf) if isinstance(leaf, Tensor) else leaf, result)


def _may_meet(name: str, args: tuple[Any, ...]) -> bool:
    if name not in MAY_MEET or not isinstance(args[0], OnGPU):
        return False
    # Written through an index by arrays, values must lie where the tensor does; through a slice they are copied.
    is_copied = not any(isinstance(leaf, (Tensor, np.ndarray)) for leaf in tree_leaves(args[1]))
    return name != "__setitem__" or is_copied or not isinstance(args[2], Tensor) or isinstance(args[2], OnGPU)


def _to(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    place, rest = _there if isinstance(args[0], OnGPU) else _here, dict(kwargs)
    positional = []
    for argument in (*args[1:], rest.pop("device", None)):
        if isinstance(argument, Tensor):
            place = _there if isinstance(argument, OnGPU) else _here
            positional.append(argument.dtype)
        elif isinstance(argument, (str, torch.device)):
            place = _there if _is_gpu(argument) else _here
        elif isinstance(argument, torch.dtype):
            positional.append(argument)
    rest.pop("non_blocking", None)
    return place(_here(args[0]).to(*positional, **rest) if positional or rest else _here(args[0]))
