"""What became of the photo: is it still the same person, and did what was asked happen? For the report of a result.

Read by the bundle's own networks, the ones that conditioned the picture: good for a report and for choosing among results, not for
judging the model (`training/evaluation` has judges of its own). Both pictures are looked at alike, at the model's size.

    id_sim  = cos(identity(photo), identity(picture))
    s_dir   = cos(ΔI, ΔT),  ΔI = unit(CLIP(picture)) - unit(CLIP(photo)),  ΔT = unit(CLIP(words for it)) - unit(CLIP(words for the photo))

`s_dir` is the first term of eq. 31 of the paper, StyleGAN-NADA's directional similarity (Gal et al. 2022). It knows engines by name.
"""

from __future__ import annotations

import threading

import numpy as np

from runtime.bundle import Bundle
from runtime.editing import to_levels
from runtime.emotions import EMOTIONS
from runtime.preprocess.image import clip_pixels, identity_pixels
from runtime.preprocess.text import Tokenizer

SMALLEST_CHANGE = 0.1  # of unit text features; words closer than this ask for no change that has a direction
_ADJECTIVE = {"disgust": "disgusted"}  # labels that are no adjectives


class Assessor:
    """Compares photo and picture with one bundle's networks, opened when first needed. Usable from many threads, one pair at a time."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()

    def __call__(
        self, photo: np.ndarray, picture: np.ndarray, texts: tuple[str, str] | None = None
    ) -> dict[str, object]:
        """`id_sim`; with estimators `before` and `after`, each age, emotion and valence_arousal; with texts `s_dir`. JSON-serialisable.

        photo    (3, H, W) float32 in [-1, 1]      picture  (H, W, 3) uint8
        texts    words for the photo and words for the picture; `s_dir` is None where they hardly differ
        Raises EngineError for a network that fails.
        """
        both = (to_levels(photo), picture)
        model = self._bundle.model
        with self._lock:
            faces = np.concatenate([identity_pixels(image, model.identity_size) for image in both])
            found: dict[str, object] = {
                "id_sim": _rounded(cosine(*self._run("identity_encoder", face=faces)["identity_features"]))
            }
            if model.has_estimators:
                pixels = np.stack([photo, _to_pixels(picture)])
                found |= dict(zip(("before", "after"), self._seen(pixels), strict=True))
            if texts is not None:
                seen = np.concatenate([clip_pixels(image, model.clip_image_size) for image in both])
                ids, mask = self._tokens(texts)
                said = self._run("text_encoder", input_ids=ids, attention_mask=mask)["text_features"]
                found["s_dir"] = directional(self._run("image_encoder", pixel_values=seen)["image_features"], said)
        return found

    def look(self, picture: np.ndarray) -> dict[str, object]:
        """What the estimators see in one picture, (H, W, 3) uint8: age, emotion and valence_arousal; nothing without estimators."""
        if not self._bundle.model.has_estimators:
            return {}
        with self._lock:
            return self._seen(_to_pixels(picture)[None])[0]

    def _seen(self, pixels: np.ndarray) -> list[dict[str, object]]:
        """What the estimators see in each of (B, 3, H, W) pictures."""
        ages = self._run("age_estimator", image=pixels)["age"][:, 0]
        felt = self._run("emotion_estimator", image=pixels)
        rows = zip(ages, felt["emotion"], felt["valence_arousal"], strict=True)
        return [
            {
                "age": round(float(age), 1),
                "emotion": EMOTIONS[int(emotion.argmax())],
                "valence_arousal": [round(float(value), 2) for value in values],
            }
            for age, emotion, values in rows
        ]

    def _tokens(self, texts: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
        if self._tokenizer is None:
            self._tokenizer = Tokenizer(self._bundle.tokenizer_path, self._bundle.model.text_length)
        return self._tokenizer(texts)

    def _run(self, engine: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        return self._bundle.run(engine, {name: np.ascontiguousarray(array) for name, array in inputs.items()})


def sentence(age: float | None, emotion: str | None) -> str:
    """Words for a face of that age and emotion label; what is None is left out."""
    parts = ["a photo of a person"]
    if age is not None:
        parts.append(f"{age:.0f} years old")
    if emotion is not None:
        parts.append(f"looking {_ADJECTIVE.get(emotion, emotion)}")
    return ", ".join(parts)


def directional(image_features: np.ndarray, text_features: np.ndarray) -> float | None:
    """cos(ΔI, ΔT) of rows (before, after), (2, D) each; None where the words change by less than SMALLEST_CHANGE."""
    changed = np.diff([unit(row) for row in text_features], axis=0)[0]
    if np.linalg.norm(changed) < SMALLEST_CHANGE:
        return None
    return _rounded(cosine(np.diff([unit(row) for row in image_features], axis=0)[0], changed))


def cosine(first: np.ndarray, second: np.ndarray) -> float:
    """Of two vectors of any length; 0 if one of them is zero."""
    return float(unit(first) @ unit(second))


def unit(vector: np.ndarray) -> np.ndarray:
    """The vector in float64 at length 1; a zero stays zero."""
    wide = vector.astype(np.float64)
    return wide / max(float(np.linalg.norm(wide)), 1e-12)


def _to_pixels(picture: np.ndarray) -> np.ndarray:
    """(3, H, W) float32 in [-1, 1] of (H, W, 3) uint8."""
    return picture.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1


def _rounded(value: float) -> float:
    return round(value, 4)
