"""The public face of the product: everything a user imports, loaded when first touched.

`from clipfacefusion import Client` must load neither torch nor an engine library, hence the lazy table below.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.access import Access
    from runtime.client import Client
    from runtime.errors import ClipFaceFusionError, RequestError
    from runtime.pipeline import Pipeline
    from runtime.preprocess.face_paste import paste_back
    from runtime.provenance import read_provenance, save_image
    from runtime.request import GenerateRequest, GenerateResult, Preview
    from runtime.retry import Retry

_HOME = {
    "Access": "runtime.access",
    "Client": "runtime.client",
    "ClipFaceFusionError": "runtime.errors",
    "GenerateRequest": "runtime.request",
    "GenerateResult": "runtime.request",
    "Pipeline": "runtime.pipeline",
    "Preview": "runtime.request",
    "RequestError": "runtime.errors",
    "Retry": "runtime.retry",
    "paste_back": "runtime.preprocess.face_paste",
    "read_provenance": "runtime.provenance",
    "save_image": "runtime.provenance",
}
__all__ = [
    "Access",
    "Client",
    "ClipFaceFusionError",
    "GenerateRequest",
    "GenerateResult",
    "Pipeline",
    "Preview",
    "RequestError",
    "Retry",
    "paste_back",
    "read_provenance",
    "save_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'clipfacefusion' has no attribute '{name}'; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
