"""The public face of the product: everything a user imports, loaded when first touched.

`from clipfacefusion import Client` must load neither torch nor an engine library, hence the lazy table below.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.client import Client
    from runtime.errors import ClipFaceFusionError, RequestError
    from runtime.pipeline import Pipeline
    from runtime.request import GenerateRequest, GenerateResult

_HOME = {
    "Client": "runtime.client",
    "ClipFaceFusionError": "runtime.errors",
    "GenerateRequest": "runtime.request",
    "GenerateResult": "runtime.request",
    "Pipeline": "runtime.pipeline",
    "RequestError": "runtime.errors",
}
__all__ = ["Client", "ClipFaceFusionError", "GenerateRequest", "GenerateResult", "Pipeline", "RequestError"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clipfacefusion' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
