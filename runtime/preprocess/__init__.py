"""From a request to the arrays that networks read: decode, check, resize, tokenize. Runs no network.

`text`, `image` and `audio` each know one kind of input; `Preprocessor` knows which of them a request needs.
"""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Any

import numpy as np

from runtime.emotions import EMOTIONS
from runtime.errors import RequestError
from runtime.guidance import GUIDANCE_OFF
from runtime.noise import SEED_LIMIT
from runtime.options import PHOTO
from runtime.preprocess.audio import is_silent, normalise
from runtime.preprocess.decode import Decode, decode
from runtime.preprocess.face import Detector, find_crop
from runtime.preprocess.image import (
    check_mask_size,
    check_photo_size,
    clip_pixels,
    identity_pixels,
    mask_pixels,
    model_pixels,
)
from runtime.preprocess.prepared import TEXT_ROWS, TEXT_SOURCES, Prepared
from runtime.preprocess.text import Tokenizer
from runtime.report import S_DIR_TEXTS, TIMINGS, elapsed_ms
from runtime.request import EDIT_GUIDANCE_SCALE, GenerateRequest
from runtime.settings import SampleSettings
from runtime.spec import SOURCES, ModelSpec
from runtime.words import Phrases, find_phrases


class Preprocessor:
    """Prepares requests for one model. Usable from many threads.

    guidance_scale  for requests without one: the manifest's
    decode          decodes the files of a request: in this process, or in one that may die (`runtime/decoding.py`)
    detector        finds the faces of a photo; None: photos are aligned squares already
    """

    def __init__(
        self,
        model: ModelSpec,
        tokenizer_path: Path,
        guidance_scale: float,
        decode: Decode = decode,
        detector: Detector | None = None,
    ) -> None:
        self._model = model
        self._decode = decode
        self._detector = detector
        self._guidance_scale = guidance_scale
        self._tokenizer = Tokenizer(tokenizer_path, model.text_length) if model.cond else None

    def __call__(self, request: GenerateRequest) -> Prepared:
        """Decode and check everything that the request holds. Raises RequestError naming the field."""
        start, settings = time.perf_counter(), self._settings(request)
        self._check_conditions(request)
        arrays: dict[str, np.ndarray] = {}
        report: dict[str, Any] = {"conditions": list(request.conditions), "inferred": {}, "warnings": []}
        given = self._read_texts(request.text, request.options.source_text, arrays, report)
        if request.audio is not None:
            given |= self._read_voice(request.audio, arrays, report)
        if request.reference is not None:
            given |= self._read_photo(request, arrays, report)
        if request.age is not None:
            arrays["age"] = np.array([[request.age]], np.float32)
            given.add("age")
        if request.emotion is not None:
            intensity = 1.0 if request.emotion_intensity is None else request.emotion_intensity
            arrays["emotion"] = np.zeros((1, len(EMOTIONS)), np.float32)
            arrays["emotion"][0, EMOTIONS.index(request.emotion)] = intensity
            given.add("emotion")
        if request.valence_arousal is not None:
            arrays["valence_arousal"] = np.array([request.valence_arousal], np.float32)
            given.add("valence_arousal")
        if (
            request.edit_from_timestep is not None
            and request.text is not None
            and request.options.source_text is not None
        ):
            report[S_DIR_TEXTS] = [request.options.source_text, request.text]
        report["seed_was_random"] = request.seed is None
        report[TIMINGS] = {"preprocess": elapsed_ms(start, time.perf_counter())}
        return Prepared(
            **{**_ABSENT, **arrays},
            present=np.array([[source in given for source in SOURCES]], np.float32),
            settings=settings.to_array(),
            notes=np.array([json.dumps(report).encode()], np.object_),
        )

    def _settings(self, request: GenerateRequest) -> SampleSettings:
        """How to sample it, with nothing left open. The time that it may take begins now."""
        deadline_ms = request.options.deadline_ms
        return SampleSettings(
            seed=secrets.randbelow(SEED_LIMIT) if request.seed is None else request.seed,
            guidance_scale=self._guidance(request) if request.guidance_scale is None else request.guidance_scale,
            num_inference_steps=request.num_inference_steps,
            edit_from_timestep=request.edit_from_timestep,
            preview_every=request.preview_every,
            options=request.options,
            deadline_s=None if deadline_ms is None else time.monotonic() + deadline_ms / 1000,
        )

    def _guidance(self, request: GenerateRequest) -> float:
        is_from_photo = request.edit_from_timestep is not None and request.options.source == PHOTO
        return EDIT_GUIDANCE_SCALE if is_from_photo else self._guidance_scale

    def _check_conditions(self, request: GenerateRequest) -> None:
        """Whether the request gives what this model needs, and nothing that it could not follow."""
        if self._model.cond:
            request.check_conditions()
            return
        if request.conditions:
            raise RequestError(
                request.conditions[0],
                f"this bundle draws from noise alone and follows no conditions; leave {', '.join(request.conditions)} out",
            )
        if request.guidance_scale not in (None, GUIDANCE_OFF):
            raise RequestError(
                "guidance_scale",
                f"got {request.guidance_scale:g}; this bundle draws from noise alone, with nothing to be guided to; leave it out",
            )

    def _read_voice(self, audio: bytes, arrays: dict[str, np.ndarray], report: dict[str, Any]) -> set[str]:
        samples = self._decode("audio", audio)
        if is_silent(samples):
            report["warnings"].append("audio: silent, it says nothing about a face")
        arrays["input_values"] = normalise(samples)[None]
        return {"audio"}

    def _read_photo(self, request: GenerateRequest, arrays: dict[str, np.ndarray], report: dict[str, Any]) -> set[str]:
        assert request.reference is not None
        photo = self._decode("reference", request.reference)
        check_photo_size(photo, self._model.image_size)
        mask = None if request.mask is None else self._decode("mask", request.mask)
        if mask is not None:
            check_mask_size(mask, photo)
        crop = find_crop(photo, self._model.image_size, request.options, self._detector)
        report["crop"] = crop.report
        report["warnings"] += crop.warnings
        if self._detector is not None:  # from here on, the photo is the square that was found
            photo, mask = crop.of(photo), None if mask is None else crop.of(mask[:, :, None])[:, :, 0]
        arrays["pixel_values"] = clip_pixels(photo, self._model.clip_image_size)
        arrays["face"] = identity_pixels(photo, self._model.identity_size)
        arrays["image"] = model_pixels(photo, self._model.image_size)
        if mask is not None:
            arrays["mask"] = mask_pixels(mask, self._model.image_size)
        return {"image", "identity"}

    def _read_texts(
        self, text: str | None, source_text: str | None, arrays: dict[str, np.ndarray], report: dict[str, Any]
    ) -> set[str]:
        """Tokenize the text and what it says about age and emotion (eqs 5, 7), which have inputs of their own, and the photo's own words."""
        phrases = Phrases(None, None) if text is None else find_phrases(text)
        texts = dict(zip(TEXT_ROWS, (text, phrases.age, phrases.emotion, source_text), strict=True))
        rows = {row: words for row, words in texts.items() if words is not None}
        if not rows:
            return set()
        assert self._tokenizer is not None, "a text without a model that takes conditions is refused before"
        places = [TEXT_ROWS.index(row) for row in rows]
        for name, tokens in zip(("input_ids", "attention_mask"), self._tokenizer(list(rows.values())), strict=True):
            arrays[name] = np.zeros((len(TEXT_ROWS), tokens.shape[1]), np.int64)
            arrays[name][places] = tokens
        for name, words in (("text", text), ("options.source_text", source_text)):
            if words is not None and self._tokenizer.is_cut(words):
                report["warnings"].append(f"{name}: longer than {self._model.text_length} tokens, the rest is not read")
        given = set(rows) & set(TEXT_SOURCES)
        report["inferred"] |= {source: rows[source] for source in TEXT_SOURCES[1:] if source in given}
        return given


# One zero of the right rank and type for everything that a request may leave out.
_ABSENT: dict[str, np.ndarray] = {
    "input_ids": np.zeros((1, 1), np.int64),
    "attention_mask": np.zeros((1, 1), np.int64),
    "input_values": np.zeros((1, 1), np.float32),
    "pixel_values": np.zeros((1, 1, 1, 1), np.float32),
    "face": np.zeros((1, 1, 1, 1), np.float32),
    "image": np.zeros((1, 1, 1, 1), np.float32),
    "mask": np.zeros((1, 1, 1, 1), np.float32),
    "age": np.zeros((1, 1), np.float32),
    "emotion": np.zeros((1, 1), np.float32),
    "valence_arousal": np.zeros((1, 1), np.float32),
}
