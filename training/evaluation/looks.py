"""Words for looks: which a prompt says of its picture, and whether a judge finds them in what was made of it.

Only the synthetic world knows what is true of a picture, so only there is this measured. Letters: N pictures, P phrases.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from training.data.cache import WORLD
from training.data.looks import SEX, SEXES, Looks
from training.evaluation.making import FEWEST, Made
from training.evaluation.panel import Reading
from training.evaluation.rating import Rating, Ratings, Skip, key_of
from training.evaluation.scene import Scene

FOUND = 0.5  # of a probability


def said(texts: Sequence[str], looks: Looks) -> np.ndarray:
    """(N, P) bool: the N `texts` say the phrase, and it is true of the picture, whose row of `looks` stands at the same place.

    Who says "long grey hair" says "grey hair" too.
    """
    patterns = [re.compile(_pattern(*phrase)) for phrase in looks.phrases]
    found = [[pattern.search(text) is not None for pattern in patterns] for text in texts]
    return np.array(found, bool).reshape(len(texts), len(patterns)) & (looks.true == 1)


def rate_looks(scene: Scene, made: Made, reading: Reading) -> Ratings:
    """`looks`, and for each topic by itself. "real" is the target picture, "chance" the picture made for the request before."""
    asked, phrases = made.asked, scene.judges.config.looks
    key = key_of("looks", asked.condition)
    if WORLD not in scene.cache.sources or not phrases:
        return {key: Skip("only of synthetic pictures is known what is true of them, and only judges of those read it")}
    texts = [scene.cache.captions[row][wording] for row, wording in zip(asked.rows, asked.wording, strict=True)]
    true = scene.looks.among(phrases).true[asked.rows]
    asked_for = said(texts, Looks(phrases, true)) & asked.told["text"][:, None]
    topics = np.array([topic for topic, _ in phrases])
    seen = {"made": reading.looks, "real": scene.readings.of(asked.rows).looks, "chance": np.roll(reading.looks, 1, 0)}
    found = {name: looks >= FOUND for name, looks in seen.items()}
    ratings: Ratings = {}
    for name, mine in {
        key: topics != "",
        **{f"{key} {topic}": topics == topic for topic in sorted(set(topics))},
    }.items():
        wanted = asked_for & mine
        if wanted.any(1).sum() < FEWEST:
            ratings[name] = Skip(f"{wanted.any(1).sum()} of {len(texts)} prompts say such a thing")
            continue
        share = {who: float(looks[wanted].mean()) for who, looks in found.items()}
        ratings[name] = Rating(share.pop("made"), int(wanted.any(1).sum()), share)
    return ratings


def recall_and_precision(true: np.ndarray, judged: np.ndarray) -> tuple[float, float]:
    """Of what is `true` (N, P) the share that a judge finds, and of what it finds the share that is true; rows unknown (NaN) drop out."""
    known = np.isfinite(true)
    holds, found = true[known] == 1, judged[known] >= FOUND
    both = float((holds & found).sum())
    return both / max(holds.sum(), 1), both / max(found.sum(), 1)


def _pattern(topic: str, phrase: str) -> str:
    if topic == SEX:
        return rf"\b({'|'.join(next((words for words in SEXES if words[0] == phrase), (phrase,)))})\b"
    if topic == "background":  # its colours are words of hair and eyes as well
        return rf"\b{phrase} (background|wall)\b|\bbehind: {phrase}\b|background is {phrase}\b"
    return rf"\b{re.escape(phrase)}\b"
