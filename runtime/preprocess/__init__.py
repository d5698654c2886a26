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
from runtime.preprocess.audio import decode_audio, normalise
from runtime.preprocess.image import clip_pixels, decode_image, identity_pixels, model_pixels
from runtime.preprocess.prepared import TEXT_SOURCES, Prepared
from runtime.preprocess.text import Tokenizer
from runtime.report import TIMINGS, elapsed_ms
from runtime.request import GenerateRequest
from runtime.spec import SOURCES, ModelSpec
from runtime.words import find_phrases


class Preprocessor:
    """Prepares requests for one model. Usable from many threads.

    guidance_scale  for requests without one: the manifest's
    """

    def __init__(self, model: ModelSpec, tokenizer_path: Path, guidance_scale: float) -> None:
        self._model = model
        self._guidance_scale = guidance_scale
        self._tokenizer = Tokenizer(tokenizer_path, model.text_length) if model.cond else None

    def __call__(self, request: GenerateRequest) -> Prepared:
        """Decode and check everything that the request holds. Raises RequestError naming the field."""
        start = time.perf_counter()
        self._check_conditions(request)
        arrays: dict[str, np.ndarray] = {}
        report: dict[str, Any] = {"conditions": list(request.conditions), "inferred": {}, "warnings": []}
        given: set[str] = set()
        if request.text is not None:
            given |= self._read_text(request.text, arrays, report)
        if request.audio is not None:
            arrays["input_values"] = normalise(decode_audio(request.audio))[None]
            given.add("audio")
        if request.reference is not None:
            photo = decode_image(request.reference)
            arrays["pixel_values"] = clip_pixels(photo, self._model.clip_image_size)
            arrays["face"] = identity_pixels(photo, self._model.identity_size)
            arrays["image"] = model_pixels(photo, self._model.image_size)
            given |= {"image", "identity"}
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
        report["seed_was_random"] = request.seed is None
        seed = secrets.randbelow(SEED_LIMIT) if request.seed is None else request.seed
        guidance_scale = self._guidance_scale if request.guidance_scale is None else request.guidance_scale
        report[TIMINGS] = {"preprocess": elapsed_ms(start, time.perf_counter())}
        return Prepared(
            **{**_ABSENT, **arrays},
            present=np.array([[source in given for source in SOURCES]], np.float32),
            seed=np.array([seed], np.int64),
            num_inference_steps=np.array([request.num_inference_steps], np.int32),
            guidance_scale=np.array([guidance_scale], np.float32),
            notes=np.array([json.dumps(report).encode()], np.object_),
        )

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

    def _read_text(self, text: str, arrays: dict[str, np.ndarray], report: dict[str, Any]) -> set[str]:
        """Tokenize the text and what it says about age and emotion (eqs 5, 7), which have inputs of their own."""
        assert self._tokenizer is not None, "a text without a model that takes conditions is refused before"
        phrases = find_phrases(text)
        rows = {
            source: words
            for source, words in zip(TEXT_SOURCES, (text, phrases.age, phrases.emotion), strict=True)
            if words is not None
        }
        places = [TEXT_SOURCES.index(source) for source in rows]
        for name, tokens in zip(("input_ids", "attention_mask"), self._tokenizer(list(rows.values())), strict=True):
            arrays[name] = np.zeros((len(TEXT_SOURCES), tokens.shape[1]), np.int64)
            arrays[name][places] = tokens
        if self._tokenizer.is_cut(text):
            report["warnings"].append(f"text: longer than {self._model.text_length} tokens, the rest is not read")
        report["inferred"] |= {source: words for source, words in rows.items() if source != "text"}
        return set(rows)


# One zero of the right rank and type for everything that a request may leave out.
_ABSENT: dict[str, np.ndarray] = {
    "input_ids": np.zeros((1, 1), np.int64),
    "attention_mask": np.zeros((1, 1), np.int64),
    "input_values": np.zeros((1, 1), np.float32),
    "pixel_values": np.zeros((1, 1, 1, 1), np.float32),
    "face": np.zeros((1, 1, 1, 1), np.float32),
    "image": np.zeros((1, 1, 1, 1), np.float32),
    "age": np.zeros((1, 1), np.float32),
    "emotion": np.zeros((1, 1), np.float32),
    "valence_arousal": np.zeros((1, 1), np.float32),
}
