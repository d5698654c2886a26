"""Triton model `preprocess`: request tensors to checked, decoded and resized arrays. Bad input ends here.

The only model with optional inputs. What strangers send is decoded in a further process (`runtime/decoding.py`), which may die.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from runtime.decoding import DecoderProcess
from runtime.envelope import Envelope
from runtime.preprocess import Preprocessor
from runtime.preprocess.face_detector import FaceDetector
from runtime.request import GenerateRequest
from runtime.wire import FACE_PACK, INNER_KEY, MODEL
from triton_repo.admission import Admission
from triton_repo.boundary import answered, arrays_of, parameters_of
from triton_repo.bundle import open_bundle
from triton_repo.ledger import Ledger


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        bundle = open_bundle(args)
        self._decoder = DecoderProcess(log=pb_utils.Logger.log_warn)
        self._decoder.start()
        face_pack = parameters_of(args).get(FACE_PACK)
        self._preprocess = Preprocessor(
            bundle.model,
            bundle.tokenizer_path,
            bundle.manifest.guidance_scale,
            self._decoder,
            None if face_pack is None else FaceDetector(Path(face_pack)),
        )
        self._admission = Admission(args)
        self._ledger = Ledger(MODEL, parameters_of(args)[INNER_KEY])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answered(request) for request in requests]

    def finalize(self) -> None:
        self._decoder.close()

    def _answered(self, request: Any) -> Any:
        entry = self._ledger.taken(request)

        def prepared() -> Mapping[str, np.ndarray]:
            with entry.answered_on_failure():
                self._admission.check(entry.live)
                Envelope.from_triton(request.request_id(), request.parameters())
                return self._preprocess(GenerateRequest.from_tensors(arrays_of(request))).to_tensors()

        return answered(request, prepared)
