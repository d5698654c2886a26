"""Captions from labels, for pictures that nobody has described: text training has words, and every word is true.

They state what is labelled (sex, age, emotion) and nothing else; where nothing is labelled there is no caption. An age is said as a
number of years or as a decade, as people do; who has no labelled age is taken for grown up. Wordings are short and plain on purpose: they stand in for captions, and where a data
set has captions of its own those are used instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from training.data.record import FEMALE, MALE, Record
from training.data.synthetic.ages import with_article

T = TypeVar("T")

ADULT, CHILD, LAST_DECADE = 18, 13, 90
WORDINGS = 3  # per picture, at most
EMOTION = {
    "neutral": "neutral",
    "calm": "calm",
    "happy": "happy",
    "sad": "sad",
    "angry": "angry",
    "fearful": "fearful",
    "disgust": "disgusted",
    "surprised": "surprised",
}
DECADE = ("twenties", "thirties", "forties", "fifties", "sixties", "seventies", "eighties")
KINDS = ("a photo of ", "a portrait of ", "a picture of ", "")


def compose(record: Record, rng: np.random.Generator) -> list[str]:
    """Up to WORDINGS different captions of a picture with these labels, each stating all or, at times, a part of them."""
    stated = {name: getattr(record, name) for name in ("age", "sex", "emotion")}
    known = [name for name, value in stated.items() if value is not None]
    if not known:
        return []
    captions = [_say(stated, record.age, rng)]
    for left_out in rng.permutation(known)[: WORDINGS - 1] if len(known) > 1 else ():
        captions.append(_say(stated | {str(left_out): None}, record.age, rng))
    return list(dict.fromkeys(captions))


def _say(stated: Mapping[str, Any], age: float | None, rng: np.random.Generator) -> str:
    who, after = _noun(age, stated["sex"]), ""
    if stated["age"] is not None and (years := round(stated["age"])) > 0:
        ways = [(f"{years}-year-old {who}", ""), (who, f", {years} years old,")]
        if 20 <= years < LAST_DECADE:
            their = {FEMALE: "her", MALE: "his", None: "their"}[stated["sex"]]
            ways.append((who, f" in {their} {DECADE[years // 10 - 2]}"))
        who, after = _pick(ways, rng)
    if stated["emotion"] is not None:
        word = EMOTION[stated["emotion"]]
        expression = f"with {with_article(word)} expression"
        who, after = _pick(
            [(f"{word} {who}", after), (who, f"{after} looking {word}"), (who, f"{after} {expression}")], rng
        )
    return f"{_pick(KINDS, rng)}{with_article(who)}{after}".removesuffix(",")


def _noun(age: float | None, sex: int | None) -> str:
    if age is not None and age < ADULT:
        if sex is not None:
            return {FEMALE: "girl", MALE: "boy"}[sex]
        return "child" if age < CHILD else "person"
    return {FEMALE: "woman", MALE: "man", None: "person"}[sex]


def _pick(options: Sequence[T], rng: np.random.Generator) -> T:
    return options[int(rng.integers(len(options)))]
