"""Emotions in words: label and intensity become "a little sad", "furious", "smiling", with the intensities for which they hold.

`emotion_phrase` makes the texts of the emotion-text input (eq. 7). Knows neither age nor picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtime.emotions import EMOTIONS
from training.data.synthetic.ages import with_article


@dataclass(frozen=True)
class Feeling:
    """words for one emotion, true where low <= intensity <= high. form: "adjective" ("sad": before a noun or after "looks"),
    "predicate" ("afraid": only after a verb), "doing" ("smiling broadly": what the face does)."""

    words: str
    form: str
    emotion: str
    low: float = 0.0
    high: float = 1.0

    def fits(self, emotion: str, intensity: float) -> bool:
        return emotion == self.emotion and self.low <= intensity <= self.high


# Intensities overlap: where one word ends and the next begins is a matter of taste.
_MILD, _PLAIN, _STRONG = (0.0, 0.6), (0.3, 1.0), (0.7, 1.0)
_ANY = (0.0, 1.0)
# Below this nothing is said about an emotion: the face is as good as neutral.
FAINTEST = 0.15

# Graded words take "slightly" and "very"; the others carry their degree themselves.
_GRADED = {
    "calm": ("calm", "relaxed", "peaceful", "serene"),
    "happy": ("happy", "cheerful", "pleased", "joyful"),
    "sad": ("sad", "unhappy", "sorrowful", "gloomy"),
    "angry": ("angry", "cross", "mad"),
    "fearful": ("fearful", "scared", "frightened"),
    "disgust": ("disgusted",),
    "surprised": ("surprised", "astonished"),
}
_UNGRADED = (
    *(
        Feeling(words, "adjective", "neutral", *_ANY)
        for words in ("neutral", "expressionless", "impassive", "unemotional", "deadpan")
    ),
    Feeling("tranquil", "adjective", "calm", *_PLAIN),
    Feeling("delighted", "adjective", "happy", *_STRONG),
    Feeling("overjoyed", "predicate", "happy", *_STRONG),
    Feeling("smiling", "doing", "happy", *_PLAIN),
    Feeling("smiling slightly", "doing", "happy", *_MILD),
    Feeling("smiling a little", "doing", "happy", *_MILD),
    Feeling("smiling broadly", "doing", "happy", *_STRONG),
    Feeling("grinning", "doing", "happy", *_STRONG),
    Feeling("beaming", "doing", "happy", *_STRONG),
    Feeling("wistful", "adjective", "sad", *_MILD),
    Feeling("miserable", "adjective", "sad", *_STRONG),
    Feeling("heartbroken", "adjective", "sad", *_STRONG),
    Feeling("annoyed", "adjective", "angry", *_MILD),
    Feeling("irritated", "adjective", "angry", *_MILD),
    Feeling("furious", "adjective", "angry", *_STRONG),
    Feeling("enraged", "adjective", "angry", *_STRONG),
    Feeling("uneasy", "adjective", "fearful", *_MILD),
    Feeling("nervous", "adjective", "fearful", *_MILD),
    Feeling("afraid", "predicate", "fearful", *_PLAIN),
    Feeling("terrified", "adjective", "fearful", *_STRONG),
    Feeling("horrified", "adjective", "fearful", *_STRONG),
    Feeling("repulsed", "predicate", "disgust", *_PLAIN),
    Feeling("revolted", "predicate", "disgust", *_STRONG),
    Feeling("amazed", "adjective", "surprised", *_PLAIN),
    Feeling("taken aback", "predicate", "surprised", *_MILD),
    Feeling("stunned", "adjective", "surprised", *_STRONG),
    Feeling("shocked", "adjective", "surprised", *_STRONG),
)


def feeling(emotion: str, intensity: float, forms: tuple[str, ...], rng: np.random.Generator) -> Feeling | None:
    """Words in one of `forms` that are true of the emotion at that intensity (0..1).

    None below FAINTEST, where nothing shows, and where the label has no such words ("doing" for sad). Raises ValueError for an
    unknown label or an intensity out of range.
    """
    _check(emotion, intensity)
    if emotion != "neutral" and intensity < FAINTEST:
        return None
    fitting = [words for words in _UNGRADED if words.form in forms and words.fits(emotion, intensity)]
    if "adjective" in forms:
        attributive = "predicate" not in forms
        fitting += [_degree(word, emotion, intensity, attributive, rng) for word in _GRADED.get(emotion, ())]
    return fitting[int(rng.integers(len(fitting)))] if fitting else None


def emotion_phrase(emotion: str, intensity: float, rng: np.random.Generator) -> str:
    """Words about an emotion and nothing else: "looks furious", "a little sad", "smiling", "with a calm expression".

    intensity 0..1, where 0 is neutral for every label. Raises ValueError for an unknown label or an intensity out of range.
    """
    found = feeling(emotion, intensity, ("adjective", "predicate", "doing"), rng)
    found = found or feeling("neutral", intensity, ("adjective",), rng)
    assert found is not None  # neutral always has words
    if found.form == "doing":
        return found.words
    said = [found.words, *(f"{verb} {found.words}" for verb in ("looks", "looking", "is", "feels"))]
    if found.form == "adjective" and not found.words.startswith("a "):
        said.append(expression(found, rng))
    return said[int(rng.integers(len(said)))]


def expression(found: Feeling, rng: np.random.Generator) -> str:
    """ "with an angry expression" of an adjective."""
    noun = ("expression", "look", "face")[int(rng.integers(3))]
    return f"with {with_article(found.words)} {noun}"


def _degree(word: str, emotion: str, intensity: float, attributive: bool, rng: np.random.Generator) -> Feeling:
    weak = ("slightly", "somewhat", "mildly") if attributive else ("slightly", "somewhat", "a little", "a bit")
    if intensity < 0.45 or (intensity < 0.6 and rng.random() < 0.5):
        return Feeling(f"{weak[int(rng.integers(len(weak)))]} {word}", "adjective", emotion, *_MILD)
    if intensity > 0.7 and rng.random() < 0.5:
        strong = ("very", "extremely", "really")[int(rng.integers(3))]
        return Feeling(f"{strong} {word}", "adjective", emotion, *_STRONG)
    return Feeling(word, "adjective", emotion, *_PLAIN)


def _check(emotion: str, intensity: float) -> None:
    if emotion not in EMOTIONS:
        raise ValueError(f"emotion is {emotion!r}; use one of {', '.join(EMOTIONS)}")
    if not 0 <= intensity <= 1:
        raise ValueError(f"intensity is {intensity!r}; use 0..1")
