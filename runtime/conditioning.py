"""From a prepared request to the UNet's `cond` mapping: only the encoders that the request needs, then fusion.

A photo also tells what the request leaves open: without any word, number or label for age, the age estimator reads it from the
photo, and likewise the emotion (paper, "missing attributes"). For an edit the photo is described a second time, as it is: that is
what the edit inverts it under and is guided away from. It knows engines by name, and neither files nor libraries.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from runtime.assessment import sentence
from runtime.bundle import Bundle
from runtime.conditioned import Conditioned
from runtime.emotions import EMOTIONS
from runtime.feature_cache import Arrays, FeatureCache
from runtime.options import PHOTO
from runtime.preprocess.prepared import SOURCE_TEXT, TEXT_ROWS, TEXT_SOURCES, Prepared
from runtime.report import S_DIR_TEXTS, TIMINGS, elapsed_ms
from runtime.request import FIELD_BY_NAME
from runtime.settings import SampleSettings
from runtime.spec import SOURCES

Encode = Callable[[str, Arrays], Arrays]  # an encoder's name and inputs to its outputs

# Sources that speak about age or emotion; a photo is asked only when all of them are silent.
AGE_SOURCES = ("age", "age_text")
EMOTION_SOURCES = ("emotion", "valence_arousal", "emotion_text", "audio")
FELT = ("emotion", "valence_arousal")  # what the emotion estimator gives
PHOTO_SOURCES = ("image", "identity")  # what the encoders give of a photo


class Conditioner:
    """Runs the encoders and fusion of one bundle, nothing where it has none. Usable from many threads, one request at a time."""

    def __init__(self, bundle: Bundle, cache: FeatureCache | None = None) -> None:
        """`cache` remembers what encoders gave; default: one of its default size."""
        self._bundle = bundle
        self._cache = cache if cache is not None else FeatureCache()
        self._lock = threading.Lock()

    def __call__(self, prepared: Prepared, tenant: str = "") -> Conditioned:
        """The request as the sampler reads it, and the report so far.

        The report is the request's own with `inferred`, `timings_ms["condition"]`, `condition_provider`, what computed it all, and
        `remembered`, the encoders that need not run, added. Nothing is remembered across tenants. Raises EngineError.
        """
        start = time.perf_counter()
        report, settings = prepared.report, replace(SampleSettings.from_array(prepared.settings), tenant=tenant)
        if not self._bundle.model.cond:  # drawn from noise alone
            return Conditioned({}, settings, report)
        report["remembered"] = []
        encode = partial(self._remembered, tenant, report["remembered"])
        is_edit = settings.edit_from_timestep is not None
        with self._lock:
            inputs, source_cond = self._encode(prepared, encode), None
            seen = self._see(prepared, encode, everything=is_edit)
            filled = {source: array for source, array in seen.items() if source in self._left_open(prepared)}
            report["inferred"] |= _readable(filled)
            if is_edit and settings.options.source == PHOTO:
                described = {name: inputs[f"{name}_features"] for name in PHOTO_SOURCES} | seen
                if settings.options.source_text is not None:
                    described["text"] = self._encode_texts(prepared, [SOURCE_TEXT], encode)
                    if not prepared.has("text"):  # what the request leaves open stays as it is
                        filled["text"] = described["text"]
                source_cond = self._bundle.run("fusion", self._told(self._nothing(), described))
            cond = self._bundle.run("fusion", self._told(inputs, filled))
        if is_edit and S_DIR_TEXTS not in report and not prepared.has("text"):
            report |= self._texts(prepared, seen)
        report["condition_provider"] = self._bundle.engine("fusion").provider
        report[TIMINGS]["condition"] = elapsed_ms(start, time.perf_counter())
        return Conditioned(
            cond={name: array[0] for name, array in cond.items()},
            settings=settings,
            report=report,
            source_cond=None if source_cond is None else {name: array[0] for name, array in source_cond.items()},
            image=prepared.image if prepared.has("image") else None,
            mask=prepared.mask if prepared.mask.size > 1 else None,
        )

    def _encode(self, prepared: Prepared, encode: Encode) -> dict[str, np.ndarray]:
        """The inputs of fusion, (1, ...) each: features of what is present, zeros for the rest."""
        inputs = self._nothing()
        inputs["present"] = prepared.present.copy()
        texts = [source for source in TEXT_SOURCES if prepared.has(source)]
        if texts:
            features = self._encode_texts(prepared, texts, encode)
            for row, source in enumerate(texts):
                inputs[f"{source}_features"] = features[row : row + 1]
        if prepared.has("audio"):
            inputs |= encode("audio_encoder", {"input_values": prepared.input_values})
        if prepared.has("image"):
            inputs |= encode("image_encoder", {"pixel_values": prepared.pixel_values})
        if prepared.has("identity"):
            inputs |= encode("identity_encoder", {"face": prepared.face})
        for source in ("age", "emotion", "valence_arousal"):
            if prepared.has(source):
                inputs[source] = getattr(prepared, source)
        return inputs

    def _encode_texts(self, prepared: Prepared, texts: list[str], encode: Encode) -> np.ndarray:
        """(len(texts), D) features of some of TEXT_ROWS."""
        rows = [TEXT_ROWS.index(text) for text in texts]
        tokens = {"input_ids": prepared.input_ids[rows], "attention_mask": prepared.attention_mask[rows]}
        return encode("text_encoder", tokens)["text_features"]

    def _nothing(self) -> dict[str, np.ndarray]:
        """The inputs of fusion when nothing is given."""
        spec = self._bundle.specs["fusion"]
        return {tensor.name: np.zeros(spec.shape(tensor, 0), tensor.dtype) for tensor in spec.inputs}

    def _told(self, inputs: dict[str, np.ndarray], sources: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """`inputs` with more of SOURCES in them, given by their array of the spec."""
        present = inputs["present"].copy()
        for source, array in sources.items():
            inputs = inputs | {source if source in inputs else f"{source}_features": array}
            present[0, SOURCES.index(source)] = 1
        return inputs | {"present": present}

    def _left_open(self, prepared: Prepared) -> set[str]:
        """Which attributes nothing in the request speaks about."""
        left_open = set() if any(prepared.has(source) for source in AGE_SOURCES) else {"age"}
        return left_open if any(prepared.has(source) for source in EMOTION_SOURCES) else left_open | set(FELT)

    def _see(self, prepared: Prepared, encode: Encode, everything: bool) -> dict[str, np.ndarray]:
        """What the estimators read in the photo: what the request leaves open, or everything. Nothing without photo or estimators."""
        if not prepared.has("image") or not self._bundle.model.has_estimators:
            return {}
        left_open, seen = self._left_open(prepared), {}
        if everything or "age" in left_open:
            bounds = FIELD_BY_NAME["age"]
            seen["age"] = np.clip(encode("age_estimator", {"image": prepared.image})["age"], bounds.low, bounds.high)
        if everything or left_open & set(FELT):
            seen |= encode("emotion_estimator", {"image": prepared.image})
        return seen

    def _texts(self, prepared: Prepared, seen: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Words for the photo and for what is asked, about what is known of both: for the directional similarity. Nothing if they agree."""
        open_to_photo = self._left_open(prepared)
        known = {name for name in ("age", "emotion") if name in seen and (prepared.has(name) or name in open_to_photo)}
        asked = {name: getattr(prepared, name) if prepared.has(name) else seen[name] for name in known}
        texts = [
            sentence(
                float(values["age"][0, 0]) if "age" in known else None,
                EMOTIONS[int(values["emotion"][0].argmax())] if "emotion" in known else None,
            )
            for values in (seen, asked)
        ]
        return {} if texts[0] == texts[1] else {S_DIR_TEXTS: texts}

    def _remembered(self, tenant: str, remembered: list[str], encoder: str, inputs: Arrays) -> Arrays:
        """What an encoder gives; its name goes into `remembered` if it need not run for it."""
        outputs, is_remembered = self._cache.recall(tenant, encoder, inputs, lambda: self._bundle.run(encoder, inputs))
        if is_remembered:
            remembered.append(encoder)
        return outputs


def _readable(seen: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Estimates as a report shows them."""
    readable: dict[str, Any] = {}
    if "age" in seen:
        readable["age"] = round(float(seen["age"][0, 0]), 1)
    if "emotion" in seen:
        readable["emotion"] = EMOTIONS[int(seen["emotion"][0].argmax())]
        readable["valence_arousal"] = [round(float(value), 2) for value in seen["valence_arousal"][0]]
    return readable
