"""The served models with nothing in them: same names, same configurations, tensors of the same sizes. What is left is Triton's own.

No server can answer sooner than that with these models between a caller and the sampler.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import numpy as np

from runtime.bundle import Bundle
from runtime.conditioning import Conditioner
from runtime.preprocess import Preprocessor
from runtime.preprocess.decode import decode
from runtime.request import GenerateRequest, GenerateResult
from runtime.serving.repository import VERSION, build_repository
from runtime.serving.server import Build

ANSWERS = "answers.npz"


def emptied(bundle: Bundle, request: GenerateRequest, result: GenerateResult) -> Build:
    """What writes the repository of a server (`Server(..., build=...)`) that answers everything as `request` is, with `result`."""
    preprocess = Preprocessor(bundle.model, bundle.tokenizer_path, bundle.manifest.guidance_scale, decode, None)
    prepared = preprocess(request)
    answers: dict[str, Mapping[str, np.ndarray]] = {
        "preprocess": prepared.to_tensors(),
        "condition": Conditioner(bundle)(prepared).to_tensors(),
        "ddim": {},  # those of the sampler, which it asks
        "sampler": {
            "image": result.image,
            "report": np.array([json.dumps(result.report).encode()], np.object_),
            "step": np.zeros(1, np.int32),
            "final": np.ones(1, np.bool_),
        },
    }

    def build(folder: Path | str, repository: Path) -> Bundle:
        opened = build_repository(folder, repository)
        source = resources.files("benchmarks").joinpath("empty_model.py").read_bytes()
        for model, arrays in answers.items():
            (repository / model / VERSION / "model.py").write_bytes(source)
            np.savez(repository / model / ANSWERS, **{name: _plain(array) for name, array in arrays.items()})
        return opened

    return build


def _plain(array: np.ndarray) -> np.ndarray:
    """Texts as their bytes: arrays of objects would be pickled."""
    return np.frombuffer(array[0], np.uint8) if array.dtype == object else array
