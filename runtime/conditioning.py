"""From a prepared request to the UNet's `cond` mapping: only the encoders that the request needs, then fusion.

A photo also tells what the request leaves open: without any word, number or label for age, the age estimator reads it from the
photo, and likewise the emotion (paper, "missing attributes"). It knows engines by name, and neither files nor libraries.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np

from runtime.bundle import Bundle
from runtime.emotions import EMOTIONS
from runtime.errors import EngineError
from runtime.preprocess.prepared import TEXT_SOURCES, Prepared
from runtime.report import TIMINGS, elapsed_ms
from runtime.request import FIELD_BY_NAME
from runtime.spec import SOURCES

# Sources that speak about age or emotion; a photo is asked only when all of them are silent.
AGE_SOURCES = ("age", "age_text")
EMOTION_SOURCES = ("emotion", "valence_arousal", "emotion_text", "audio")


class Conditioner:
    """Runs the encoders and fusion of one bundle, nothing where it has none. Usable from many threads, one request at a time."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._lock = threading.Lock()

    def __call__(self, prepared: Prepared) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The cond mapping, name -> float32 array without batch dimension, and the report so far.

        The report is the request's own with `inferred`, `timings_ms["condition"]` and `condition_provider`, what computed it all,
        added. Raises EngineError.
        """
        start = time.perf_counter()
        report = prepared.report
        if not self._bundle.model.cond:  # drawn from noise alone
            return {}, report
        with self._lock:
            inputs = self._encode(prepared)
            if prepared.has("image") and self._bundle.model.has_estimators:
                report["inferred"] |= self._estimate(prepared, inputs)
            cond = self._run("fusion", inputs)
        report["condition_provider"] = self._bundle.engine("fusion").provider
        report[TIMINGS]["condition"] = elapsed_ms(start, time.perf_counter())
        return {name: array[0] for name, array in cond.items()}, report

    def _encode(self, prepared: Prepared) -> dict[str, np.ndarray]:
        """The inputs of fusion, (1, ...) each: features of what is present, zeros for the rest."""
        inputs = {
            tensor.name: np.zeros(self._bundle.specs["fusion"].shape(tensor, 0), tensor.dtype)
            for tensor in self._bundle.specs["fusion"].inputs
        }
        inputs["present"] = prepared.present.copy()
        texts = [source for source in TEXT_SOURCES if prepared.has(source)]
        if texts:
            rows = [TEXT_SOURCES.index(source) for source in texts]
            tokens = {"input_ids": prepared.input_ids[rows], "attention_mask": prepared.attention_mask[rows]}
            features = self._run("text_encoder", tokens)["text_features"]
            for row, source in enumerate(texts):
                inputs[f"{source}_features"] = features[row : row + 1]
        if prepared.has("audio"):
            inputs |= self._run("audio_encoder", {"input_values": prepared.input_values})
        if prepared.has("image"):
            inputs |= self._run("image_encoder", {"pixel_values": prepared.pixel_values})
        if prepared.has("identity"):
            inputs |= self._run("identity_encoder", {"face": prepared.face})
        for source in ("age", "emotion", "valence_arousal"):
            if prepared.has(source):
                inputs[source] = getattr(prepared, source)
        return inputs

    def _estimate(self, prepared: Prepared, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        """Fill in what only the photo tells; what was filled in, for the report."""
        inferred: dict[str, Any] = {}
        if not any(prepared.has(source) for source in AGE_SOURCES):
            bounds = FIELD_BY_NAME["age"]
            inputs["age"] = np.clip(
                self._run("age_estimator", {"image": prepared.image})["age"], bounds.low, bounds.high
            )
            inferred["age"] = round(float(inputs["age"][0, 0]), 1)
        if not any(prepared.has(source) for source in EMOTION_SOURCES):
            inputs |= self._run("emotion_estimator", {"image": prepared.image})
            inferred["emotion"] = EMOTIONS[int(inputs["emotion"][0].argmax())]
            inferred["valence_arousal"] = [round(float(value), 2) for value in inputs["valence_arousal"][0]]
        for source in inferred:
            inputs["present"][0, SOURCES.index(source)] = 1
        return inferred

    def _run(self, engine: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = self._bundle.engine(engine)(inputs)
        for name, array in outputs.items():
            if not np.isfinite(array).all():
                raise EngineError(f"{engine}: output '{name}' is not finite")
        return outputs
